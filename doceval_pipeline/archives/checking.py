"""Checks that an archive is whole, and that nothing is in it but what an archive holds.

Each byte is compared with its digest, each value with the bounds of its column (`rows`), and what is there
twice with its twin. An archive may come from anybody: what neither this module nor the databases check must
not be believed.
"""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
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
    wrong_at,
)
from doceval_pipeline.archives.json_text import LONG, is_long, long_text
from doceval_pipeline.archives.reading import Archive
from doceval_pipeline.archives.rows import Attempt, Batch, Config, Doc, File, HistoryRow, ProgressRow
from doceval_pipeline.archives.values import Values
from doceval_pipeline.errors import ArchiveError

Progress = Callable[[int, int, int], None]
"""Told how many documents are read, how many there are, and how many bytes they had."""
_Row = TypeVar("_Row", bound=Values)
# Numbers that are sorted at a time, so that few of them are Python's objects at once.
_CHUNK = 50_000
# How many bytes an id and a mark take together.
_RECORD = 16
# What a document is used for.
_USED, _STAGED, _QUEUED = 1, 2, 4


@dataclass(frozen=True)
class Checked:
    """What a whole archive holds; the largest ids are 0 where there is none.

    `assigned` and `staged` are files in these states; `contents` are the documents of staged files, and
    `strays` those that have current attempts and no staged file, or the other way round. `impossible` are
    rows of history that no work can have left.
    """

    documents: int
    attempts: int
    files: int
    assigned: int
    staged: int
    contents: int
    strays: int
    impossible: int
    largest_document: int
    largest_attempt: int
    largest_file: int
    batch: Batch
    config: Config


def check(archive: Archive, progress: Progress) -> Checked:
    """Read all of an archive.

    Raises
    ------
    ArchiveError
        A byte is not the one that was written, or something is missing, left over, foreign or out of bounds.
    """
    for _ in archive.pieces(REPORT):
        pass
    batch, config = _check_batch(archive)
    documents = _Documents(_documents(archive, progress))
    _require(archive, DOCS, documents.distinct)
    attempts, largest = _check_attempts(archive, documents, config)
    states, largest_file = _check_files(archive, documents, batch)
    _require(archive, DOCS, documents.all_used)
    impossible = _check_observations(archive, config)
    return Checked(
        documents=len(documents),
        attempts=attempts,
        files=states.total(),
        assigned=states["ASSIGNED"],
        staged=states["STAGED"],
        contents=documents.count(_STAGED),
        strays=documents.count(_STAGED, without=_QUEUED) + documents.count(_QUEUED, without=_STAGED),
        impossible=impossible,
        largest_document=documents.largest,
        largest_attempt=largest,
        largest_file=largest_file,
        batch=batch,
        config=config,
    )


def _check_batch(archive: Archive) -> tuple[Batch, Config]:
    found, sealed = archive.value(BATCH), archive.value(CONFIG)
    batch, config = _valid(Batch, archive, BATCH, found), _valid(Config, archive, CONFIG, sealed)
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
        # In the order of their numbers, each once.
        _require(archive, BATCH, numbers == [item.id for item in listed] == sorted({*numbers}))
    known = {str(connection.id) for connection in batch.connections}
    _require(archive, BATCH, row.prices_at_completion is None or row.prices_at_completion.keys() <= known)
    return batch, config


def _documents(archive: Archive, progress: Progress) -> Iterator[Doc]:
    """The rows of documents, each after its content was read."""
    count = read = 0
    last = ""
    told = archive.manifest.documents
    _require(archive, DOCS, archive.documents == told.count)
    progress(0, told.count, 0)
    for row in _rows(archive, DOCS, Doc):
        _require(archive, DOCS, last < row.sha256 and row.document_id == f"sha256:{row.sha256}")
        last = row.sha256
        for _ in archive.document(row.sha256, row.file_size):
            pass
        count, read = count + 1, read + row.file_size
        progress(count, told.count, read)
        yield row
    _require(archive, DOCS, (count, read) == (told.count, told.bytes))


def _check_attempts(archive: Archive, documents: "_Documents", config: Config) -> tuple[int, int]:
    """Count the attempts, and find the largest id."""
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


def _check_files(archive: Archive, documents: "_Documents", batch: Batch) -> tuple[Counter[str], int]:
    """Count the files by state, and find the largest id."""
    states: Counter[str] = Counter()
    last = 0
    folders = {folder.id for folder in batch.folders}
    for row in _rows(archive, FILES, File):
        document, place = row.document, row.in_batch
        _require(archive, FILES, place.batch_id == archive.manifest.batch)
        _require(archive, FILES, place.document_id == document.id > last and document.folder_id in folders)
        stored = place.knowledge_document_id
        if stored is not None:
            found = documents.use(stored, _USED | (_STAGED if place.state == "STAGED" else 0))
            _require(archive, FILES, found == _mark(place.sha256, place.file_size))
        _require(archive, FILES, stored is not None or place.state != "STAGED")
        states[place.state] += 1
        last = document.id
    return states, last


def _check_observations(archive: Archive, config: Config) -> int:
    """Count the rows of history that no work can have left."""
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
    """The rows of a member, which all have the same columns."""
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
        raise damaged(archive.name, f"{member} {wrong_at(error)}{place}") from None


def _mark(sha256: str | None, size: int | None) -> bytes:
    """Eight bytes that stand for the sha256 and the size of a document."""
    return blake2b(f"{sha256} {size}".encode(), digest_size=8).digest()


class _Documents:
    """What must be remembered of each document, in 17 bytes: its id, its mark, its use."""

    def __init__(self, rows: Iterator[Doc]) -> None:
        records = (row.id.to_bytes(8) + _mark(row.sha256, row.file_size) for row in rows)
        chunks = [b"".join(sorted(chunk)) for chunk in _in_chunks(records)]
        self._records = bytearray()
        for record in heapq.merge(*map(_split, chunks)):
            self._records += record
        self._used = bytearray(len(self))

    def __len__(self) -> int:
        return len(self._records) // _RECORD

    @property
    def largest(self) -> int:
        """The largest id, 0 where there is none."""
        return self._number(len(self) - 1) if self._records else 0

    @property
    def distinct(self) -> bool:
        """Whether no two have the same id."""
        return all(self._number(place) != self._number(place + 1) for place in range(len(self) - 1))

    @property
    def all_used(self) -> bool:
        """Whether each was asked for."""
        return all(self._used)

    def count(self, use: int, without: int = 0) -> int:
        """How many are used for one thing and not for another."""
        return sum(1 for uses in self._used if uses & use and not uses & without)

    def use(self, number: int, uses: int) -> bytes | None:
        """The mark of a document that is used; None where there is none of this id."""
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
    """Whether two values are the same JSON; numbers may be written in two ways, and true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        # A small value keeps its long texts.
        return one == other or _measured(one) == _measured(other)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _measured(text: str) -> str:
    """What stands for a text, where it is a long one."""
    content = text.encode()
    if is_long(text) or len(content) <= LONG:
        return text
    return long_text(len(content), sha256(content).hexdigest())


def _require(archive: Archive, member: str, holds: bool) -> None:
    if not holds:
        raise _foreign(archive, member)


def _foreign(archive: Archive, member: str) -> ArchiveError:
    return damaged(archive.name, f"{member} does not belong to the rest of it")
