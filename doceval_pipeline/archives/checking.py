"""Checks that an archive is complete and contains nothing else.

Every byte is covered by a digest, every value is compared with the bounds of its column (`rows`), and
redundant values are compared with each other. Archives are untrusted: never rely on anything that neither
this module nor the databases check.
"""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import islice
from typing import Any, TypeVar

from pydantic import ValidationError

from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    CONFIG,
    DOCS,
    FILES,
    HISTORY,
    PROGRESS,
    REPORT,
    damaged,
    validation_problem,
)
from doceval_pipeline.archives.json_text import LONG, is_long, long_text
from doceval_pipeline.archives.reading import Archive
from doceval_pipeline.archives.rows import Attempt, BatchMember, Config, Doc, File, HistoryRow, ProgressRow
from doceval_pipeline.archives.values import Values
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.portions import Progress

_Row = TypeVar("_Row", bound=Values)
# Records per sorted chunk, which limits the number of Python objects at a time.
_CHUNK = 50_000
# Bytes of an id and a fingerprint.
_RECORD = 16
# Uses of a document, as bits.
_USED, _STAGED, _QUEUED = 1, 2, 4


@dataclass(frozen=True)
class CheckedArchive:
    """A checked archive; largest ids are 0 if it has no such rows.

    `assigned` and `staged` count files in these states, `contents` the documents of staged files, and
    `mismatched` documents with current attempts but no staged file, or the reverse. `impossible` counts
    history rows with impossible values.
    """

    documents: int
    attempts: int
    files: int
    assigned: int
    staged: int
    contents: int
    mismatched: int
    impossible: int
    largest_document: int
    largest_attempt: int
    largest_file: int
    batch: BatchMember
    config: Config


def check(archive: Archive, progress: Progress) -> CheckedArchive:
    """Read and check a whole archive.

    Raises
    ------
    ArchiveError
        A byte differs from what was written, or something is missing, surplus, inconsistent or out of bounds.
    """
    for _ in archive.pieces(REPORT):
        pass
    batch, config = _check_batch(archive)
    documents = _DocumentIndex(_documents(archive, progress))
    _require(archive, DOCS, documents.distinct)
    attempts, largest = _check_attempts(archive, documents, config)
    states, largest_file = _check_files(archive, documents, batch)
    _require(archive, DOCS, documents.all_used)
    impossible = _check_observations(archive, config)
    return CheckedArchive(
        documents=len(documents),
        attempts=attempts,
        files=states.total(),
        assigned=states["ASSIGNED"],
        staged=states["STAGED"],
        contents=documents.count(_STAGED),
        mismatched=documents.count(_STAGED, without=_QUEUED) + documents.count(_QUEUED, without=_STAGED),
        impossible=impossible,
        largest_document=documents.largest,
        largest_attempt=largest,
        largest_file=largest_file,
        batch=batch,
        config=config,
    )


def _check_batch(archive: Archive) -> tuple[BatchMember, Config]:
    content, sealed = archive.value(BATCH), archive.value(CONFIG)
    batch, config = _valid(BatchMember, archive, BATCH, content), _valid(Config, archive, CONFIG, sealed)
    row, manifest = batch.batch, archive.manifest
    published = batch.published
    digest = manifest.members[CONFIG].sha256
    _require(archive, BATCH, row.id == manifest.batch == config.batch.id == published.batch_id)
    _require(archive, BATCH, row.batch_name == manifest.name == config.batch.name)
    _require(archive, BATCH, row.config_sha256 == digest == published.sha256)
    _require(archive, BATCH, same(row.config_snapshot, sealed) and same(published.config, sealed))
    for selected, listed in (
        (batch.folders, config.folders),
        (batch.connections, config.connections),
        (batch.prompts, config.prompts),
    ):
        numbers = [item.id for item in selected]
        # Ordered by id, without duplicates.
        _require(archive, BATCH, numbers == [item.id for item in listed] == sorted({*numbers}))
    known = {str(connection.id) for connection in batch.connections}
    _require(archive, BATCH, row.prices_at_completion is None or row.prices_at_completion.keys() <= known)
    return batch, config


def _documents(archive: Archive, progress: Progress) -> Iterator[Doc]:
    """The rows of documents; each is yielded after its content was read."""
    count = read = 0
    last = ""
    declared = archive.manifest.documents
    _require(archive, DOCS, archive.documents == declared.count)
    progress(0, declared.count, 0)
    for row in _rows(archive, DOCS, Doc):
        _require(archive, DOCS, last < row.sha256 and row.document_id == f"sha256:{row.sha256}")
        last = row.sha256
        for _ in archive.document(row.sha256, row.file_size):
            pass
        count, read = count + 1, read + row.file_size
        progress(count, declared.count, read)
        yield row
    _require(archive, DOCS, (count, read) == (declared.count, declared.bytes))


def _check_attempts(archive: Archive, documents: "_DocumentIndex", config: Config) -> tuple[int, int]:
    """Check the attempts; returns their number and their largest id."""
    count = largest = 0
    prompts = {prompt.id for prompt in config.prompts}
    connections = {connection.id for connection in config.connections}
    for row in _rows(archive, ATTEMPTS, Attempt):
        current = row.withdrawn_at is None and row.superseded_at is None
        place = documents.use(row.document_id, _USED | (_QUEUED if current else 0))
        mine = row.batch_id == archive.manifest.batch and place is not None
        known = row.prompt_id in prompts and row.connection_id in connections
        _require(archive, ATTEMPTS, mine and known and row.id > largest)
        count, largest = count + 1, row.id
    return count, largest


def _check_files(
    archive: Archive, documents: "_DocumentIndex", batch: BatchMember
) -> tuple[Counter[str], int]:
    """Check the files; returns their number by state and their largest id."""
    states: Counter[str] = Counter()
    last = 0
    folders = {folder.id for folder in batch.folders}
    for row in _rows(archive, FILES, File):
        document, place = row.document, row.in_batch
        _require(archive, FILES, place.batch_id == archive.manifest.batch)
        _require(archive, FILES, place.document_id == document.id > last and document.folder_id in folders)
        stored = place.knowledge_document_id
        if stored is not None:
            fingerprint = documents.use(stored, _USED | (_STAGED if place.state == "STAGED" else 0))
            _require(archive, FILES, fingerprint == _fingerprint(place.sha256, place.file_size))
        _require(archive, FILES, stored is not None or place.state != "STAGED")
        states[place.state] += 1
        last = document.id
    return states, last


def _check_observations(archive: Archive, config: Config) -> int:
    """Check progress and history; returns the number of history rows with impossible values."""
    seen, measured, impossible = "", (0, ""), 0
    connections = {connection.id for connection in config.connections}
    for progress in _rows(archive, PROGRESS, ProgressRow):
        _require(
            archive, PROGRESS, progress.batch_id == archive.manifest.batch and seen < progress.observed_at
        )
        seen = progress.observed_at
    for history in _rows(archive, HISTORY, HistoryRow):
        measure = (history.connection_id, history.measure)
        mine = history.batch_id == archive.manifest.batch and history.connection_id in connections
        _require(archive, HISTORY, mine and measured < measure)
        measured = measure
        impossible += not history.is_possible
    return impossible


def _rows(archive: Archive, member: str, kind: type[_Row]) -> Iterator[_Row]:
    """The validated rows of a member, which must all have the same columns."""
    columns = None
    for line, value in enumerate(archive.rows(member), start=1):
        row = _valid(kind, archive, member, value, line)
        columns = columns or value.keys()
        _require(archive, member, columns == value.keys())
        yield row


def _valid(kind: type[_Row], archive: Archive, member: str, value: Any, line: int | None = None) -> _Row:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        number = value.get("id") if isinstance(value, dict) else None
        row = f", id {number}" if type(number) is int else ""
        place = "" if line is None else f" in line {line}{row}"
        raise damaged(archive.name, f"{member} {validation_problem(error)}{place}") from None


def _fingerprint(sha256: str | None, size: int | None) -> bytes:
    """Fingerprint of the sha256 and size of a document, in eight bytes."""
    return blake2b(f"{sha256} {size}".encode(), digest_size=8).digest()


class _DocumentIndex:
    """Compact index of the documents, in 17 bytes each: id, fingerprint and uses."""

    def __init__(self, rows: Iterator[Doc]) -> None:
        records = (row.id.to_bytes(8) + _fingerprint(row.sha256, row.file_size) for row in rows)
        chunks = [b"".join(sorted(chunk)) for chunk in _in_chunks(records)]
        self._records = bytearray()
        for record in heapq.merge(*map(_split, chunks)):
            self._records += record
        self._used = bytearray(len(self))

    def __len__(self) -> int:
        return len(self._records) // _RECORD

    @property
    def largest(self) -> int:
        """The largest id; 0 without documents."""
        return self._number(len(self) - 1) if self._records else 0

    @property
    def distinct(self) -> bool:
        """Whether all ids are distinct."""
        return all(self._number(place) != self._number(place + 1) for place in range(len(self) - 1))

    @property
    def all_used(self) -> bool:
        """Whether every document is used."""
        return all(self._used)

    def count(self, use: int, without: int = 0) -> int:
        """Number of documents with the use `use` and without the use `without`."""
        return sum(1 for uses in self._used if uses & use and not uses & without)

    def use(self, number: int, uses: int) -> bytes | None:
        """Record uses of a document and return its fingerprint; None if the id is unknown."""
        place = bisect_left(range(len(self)), number, key=self._number)
        if place == len(self) or self._number(place) != number:
            return None
        self._used[place] |= uses
        return bytes(self._records[place * _RECORD + 8 : (place + 1) * _RECORD])

    def _number(self, place: int) -> int:
        return int.from_bytes(self._records[place * _RECORD : place * _RECORD + 8])


def _in_chunks(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(islice(records, _CHUNK)):
        yield chunk


def _split(chunk: bytes) -> Iterator[bytes]:
    return (chunk[place : place + _RECORD] for place in range(0, len(chunk), _RECORD))


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; 1 and 1.0 are equal, true and 1 are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        # Small values contain long strings, large ones their placeholders.
        return one == other or _as_placeholder(one) == _as_placeholder(other)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _as_placeholder(text: str) -> str:
    """The placeholder of a long string; short strings unchanged."""
    content = text.encode()
    if is_long(text) or len(content) <= LONG:
        return text
    return long_text(len(content), sha256(content).hexdigest())


def _require(archive: Archive, member: str, holds: object) -> None:
    if not holds:
        raise _inconsistent(archive, member)


def _inconsistent(archive: Archive, member: str) -> ArchiveError:
    return damaged(archive.name, f"{member} does not match the rest of the archive")
