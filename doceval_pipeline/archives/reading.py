"""Reads an archive in pieces and verifies each member at its end.

Callers must discard pieces if the end raises. Memory is bounded by one piece and one row, whatever the file
contains.
"""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from doceval_pipeline.archives.format import (
    DOCUMENTS,
    LARGEST_DOCUMENT,
    LARGEST_MANIFEST,
    LARGEST_MEMBER,
    LARGEST_MEMBERS,
    MANIFEST,
    MEMBERS,
    MOST_DOCUMENTS,
    Manifest,
    damaged,
    not_an_archive,
    read_manifest,
)
from doceval_pipeline.archives.json_text import JsonError, value_of, values
from doceval_pipeline.archives.zip_file import NotAZipError, ZipEntry, ZipError, ZipTable
from doceval_pipeline.errors import ArchiveError

# Exceptions of the standard library for broken files.
_BROKEN = (OSError, ValueError, OverflowError, struct.error)


class Archive:
    """An open archive: the manifest is read and members are located, but no content is checked."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self._file = file
        beginning = file.read(4)
        try:
            self._zip = ZipTable(file)
        except NotAZipError as error:
            # The table of contents is at the end of a zip, so a truncated file cannot be opened.
            if beginning == b"PK\x03\x04":
                raise damaged(name, str(error)) from None
            raise not_an_archive(name) from None
        except ZipError as error:
            raise damaged(name, str(error)) from None
        self._members, self.documents = self._locate_members()
        self.manifest: Manifest = read_manifest(self._read_manifest(), name)
        self._cursor: Iterator[ZipEntry] = iter(())

    def sha256(self) -> str:
        """The sha256 of the whole file, in hex."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type] # any readable will do

    def pieces(self, member: str) -> Iterator[bytes]:
        """Pieces of a member in the manifest.

        Raises
        ------
        ArchiveError
            At the end at the latest: the bytes differ from the manifest.
        """
        entry = self.manifest.members[member]
        return self._checked(self._members[member], entry.sha256, entry.bytes)

    def value(self, member: str) -> Any:
        """The value of a JSON member, in which long strings are replaced; raises as `pieces`."""
        try:
            return value_of(self.pieces(member))
        except JsonError as error:
            raise damaged(self.name, f"{member} {error}") from None

    def rows(self, member: str) -> Iterator[Any]:
        """The rows of a member, in which long strings are replaced; raises as `pieces`.

        Also raises at the end if the number of rows is wrong.
        """
        count = 0
        try:
            for value in values(self.pieces(member)):
                count += 1
                yield value
        except JsonError as error:
            raise damaged(self.name, f"{member} {error}") from None
        if count != self.manifest.members[member].rows:
            raise damaged(self.name, f"{member} has a wrong number of rows")

    def document(self, sha256: str, size: int) -> Iterator[bytes]:
        """A document of `size` bytes, in pieces of at most `PIECE` bytes; raises as `pieces`.

        Fast if documents are requested in the order of their sha256.
        """
        name = DOCUMENTS + sha256
        for _ in range(2):
            entry = next((entry for entry in self._cursor if entry.name >= name), None)
            if entry is not None and entry.name == name:
                return self._checked(entry, sha256, size)
            self._cursor = self._entries()
        raise damaged(self.name, f"{name} is missing")

    def _entries(self) -> Iterator[ZipEntry]:
        with self._damage("its table of contents"):
            for number, entry in enumerate(self._zip.entries()):
                if len(MEMBERS) <= number < self._zip.count - 1:
                    yield entry

    def _checked(self, entry: ZipEntry, sha256: str, size: int) -> Iterator[bytes]:
        digest, read = hashlib.sha256(), 0
        for piece in self._unchecked(entry):
            digest.update(piece)
            read += len(piece)
            if read > size:
                break
            yield piece
        if read != size or digest.hexdigest() != sha256:
            raise damaged(self.name, f"{entry.name} differs from what was written")

    def _unchecked(self, entry: ZipEntry) -> Iterator[bytes]:
        with self._damage(entry.name):
            yield from self._zip.pieces(entry)

    def _read_manifest(self) -> bytes:
        return b"".join(self._unchecked(self._members[MANIFEST]))

    def _locate_members(self) -> tuple[dict[str, ZipEntry], int]:
        """All members except documents, and the number of documents.

        Each must directly follow the one before it, so that nothing overlaps, is hidden or duplicated.
        """
        members: dict[str, ZipEntry] = {}
        in_order, end, last = True, 0, ""
        with self._damage("its table of contents"):
            for number, entry in enumerate(self._zip.entries()):
                in_order &= entry.place == end and entry.size <= _largest(entry.name)
                if number < len(MEMBERS):
                    in_order &= entry.name == MEMBERS[number]
                elif number < self._zip.count - 1:
                    in_order &= _is_document(entry.name) and entry.name > last
                    last = entry.name
                if not _is_document(entry.name) and len(members) <= len(MEMBERS):
                    members[entry.name] = entry
                end = self._zip.end_of(entry) if in_order else 0
        if MANIFEST not in members:
            raise not_an_archive(self.name)
        documents = self._zip.count - len(MEMBERS) - 1
        if not in_order or end != self._zip.begin or members.keys() != {*MEMBERS, MANIFEST}:
            raise damaged(self.name, "its members differ from those of an archive in name, order or size")
        if documents > MOST_DOCUMENTS:
            raise damaged(self.name, f"it has more than {MOST_DOCUMENTS:,} documents")
        return members, documents

    @contextmanager
    def _damage(self, where: str) -> Iterator[None]:
        try:
            yield
        except ZipError as error:
            raise damaged(self.name, f"{where}: {error}") from None
        except _BROKEN as error:
            raise damaged(self.name, f"{where}: {_reason(error)}") from None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive and read its manifest.

    Raises
    ------
    ArchiveError
        The file is missing, not an archive, damaged, or written by a newer version.
    """
    if path.exists() and not path.is_file():
        raise not_an_archive(str(path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be read ({error.strerror}): check the path; archives are in "
            "$DOCEVAL_HOME/archives"
        ) from None
    with file:
        yield Archive(file, str(path))


def _is_document(name: str) -> bool:
    digest = name.removeprefix(DOCUMENTS)
    return len(digest) == 64 != len(name) and not digest.strip("0123456789abcdef")


def _largest(name: str) -> int:
    if name == MANIFEST:
        return LARGEST_MANIFEST
    return LARGEST_DOCUMENT if _is_document(name) else LARGEST_MEMBERS.get(name, LARGEST_MEMBER)


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
