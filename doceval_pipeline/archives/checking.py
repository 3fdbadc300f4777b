"""Checks that an archive is whole: each byte, and that its rows and documents belong together."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    CONFIG,
    DOCS,
    DOCUMENTS,
    FILES,
    HISTORY,
    MANIFEST,
    MEMBERS,
    PROGRESS,
    REPORT,
    damaged,
)
from doceval_pipeline.archives.reading import Archive
from doceval_pipeline.errors import ArchiveError

# What a batch selects, in its own member.
SELECTED = ("folders", "connections", "prompts")

Progress = Callable[[int, int, int], None]
"""Told how many documents are read, how many there are, and how many bytes they had."""


@dataclass(frozen=True, slots=True)
class _Document:
    id: int
    sha256: str
    size: int


@dataclass(frozen=True)
class Checked:
    """What a whole archive holds; the largest ids are 0 where there is none."""

    documents: int
    attempts: int
    files: int
    largest_document: int
    largest_attempt: int


def check(archive: Archive, progress: Progress) -> Checked:
    """Read all of an archive.

    Raises
    ------
    ArchiveError
        A byte is not the one that was written, or something is missing, left over or foreign.
    """
    for member in (CONFIG, REPORT):
        for _ in archive.pieces(member):
            pass
    _check_batch(archive)
    documents = list(_documents(archive))
    ids = {document.id for document in documents}
    names = {DOCUMENTS + document.sha256 for document in documents}
    _require(archive, DOCS, len(ids) == len(names) == len(documents))
    if archive.members != {MANIFEST, *MEMBERS, *names}:
        raise damaged(archive.name, "it has other members than its rows name")
    attempts, largest = _check_attempts(archive, ids)
    files = _check_files(archive, ids)
    for member in (PROGRESS, HISTORY):
        for row in archive.rows(member):
            _require(archive, member, row.get("batch_id") == archive.manifest.batch)
    _check_contents(archive, documents, progress)
    return Checked(len(documents), attempts, files, max(ids, default=0), largest)


def _check_batch(archive: Archive) -> None:
    try:
        found = json.loads(archive.whole(BATCH))
    except ValueError:
        found = None
    if not (isinstance(found, dict) and isinstance(found.get("batch"), dict)):
        raise _foreign(archive, BATCH)
    _require(archive, BATCH, found["batch"].get("id") == archive.manifest.batch)
    _require(archive, BATCH, found["batch"].get("config_sha256") == archive.manifest.members[CONFIG].sha256)
    _require(archive, BATCH, all(isinstance(found.get(name), list) for name in SELECTED))


def _documents(archive: Archive) -> Iterator[_Document]:
    for row in archive.rows(DOCS):
        number, sha256, size = row.get("id"), row.get("sha256"), row.get("file_size")
        if not (_is_number(number) and isinstance(sha256, str) and _is_number(size)):
            raise _foreign(archive, DOCS)
        yield _Document(number, sha256, size)


def _check_attempts(archive: Archive, documents: set[int]) -> tuple[int, int]:
    """Count the attempts, and find the largest id."""
    count = largest = 0
    for row in archive.rows(ATTEMPTS):
        number = row.get("id")
        mine = row.get("batch_id") == archive.manifest.batch and row.get("document_id") in documents
        if not (mine and _is_number(number)):
            raise _foreign(archive, ATTEMPTS)
        count, largest = count + 1, max(largest, number)
    return count, largest


def _check_files(archive: Archive, documents: set[int]) -> int:
    count = 0
    for row in archive.rows(FILES):
        document, place = row.get("document"), row.get("in_batch")
        if not (isinstance(document, dict) and isinstance(place, dict)):
            raise _foreign(archive, FILES)
        stored = place.get("knowledge_document_id")
        _require(archive, FILES, place.get("batch_id") == archive.manifest.batch)
        _require(archive, FILES, place.get("document_id") == document.get("id"))
        _require(archive, FILES, stored is None or stored in documents)
        count += 1
    return count


def _check_contents(archive: Archive, documents: Sequence[_Document], progress: Progress) -> None:
    read = 0
    progress(0, len(documents), 0)
    for done, document in enumerate(documents, start=1):
        for _ in archive.document(document.sha256, document.size):
            pass
        read += document.size
        progress(done, len(documents), read)
    found = archive.manifest.documents
    _require(archive, DOCS, (len(documents), read) == (found.count, found.bytes))


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(archive: Archive, member: str, holds: bool) -> None:
    if not holds:
        raise _foreign(archive, member)


def _foreign(archive: Archive, member: str) -> ArchiveError:
    return damaged(archive.name, f"{member} does not belong to the rest of it")
