"""Reads an archive: each member in pieces, and never to its end unless its bytes are the right ones.

Whoever takes pieces in must give them up when the end raises. Memory holds one piece, one row, and
the names of the members.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from doceval_pipeline.archives.format import (
    DOCUMENTS,
    MANIFEST,
    Manifest,
    damaged,
    not_an_archive,
    read_manifest,
)
from doceval_pipeline.errors import ArchiveError

# A multiple of 3 bytes, so that the base64 of each piece can stand beside that of the next.
PIECE = 3 * 256 * 1024
LARGEST_MANIFEST = 1024 * 1024
# What a broken zip makes the standard library raise.
_BROKEN = (
    BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
    struct.error,
)
# Flags of members that are encrypted or patched, which archives never are.
_FOREIGN_FLAGS = 0x1 | 0x20 | 0x40


class Archive:
    """An open archive; `manifest` is read, nothing else is checked yet."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self._file = file
        self._zip = _open_zip(file, name)
        self._infos = self._plain_members()
        self.manifest: Manifest = read_manifest(self._read_manifest(), name)

    @property
    def members(self) -> set[str]:
        """The names of all members."""
        return set(self._infos)

    def sha256(self) -> str:
        """The sha256 of the whole file, in hex."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type] # any readable will do

    def pieces(self, member: str) -> Iterator[bytes]:
        """A member that the manifest lists.

        Raises
        ------
        ArchiveError
            At the end at the latest: the bytes are not those that the manifest says.
        """
        wanted = self.manifest.members[member]
        return self._checked(member, wanted.sha256, wanted.bytes)

    def whole(self, member: str) -> bytes:
        """All bytes of a member that is small, checked."""
        return b"".join(self.pieces(member))

    def lines(self, member: str) -> Iterator[bytes]:
        """The rows of a member, as they stand in it; raises as `pieces`, also for a wrong count."""
        count, rest = 0, b""
        for piece in self.pieces(member):
            *whole, rest = (rest + piece).split(b"\n")
            count += len(whole)
            yield from whole
        if rest or count != self.manifest.members[member].rows:
            raise damaged(self.name, f"{member} does not have its number of rows")

    def rows(self, member: str) -> Iterator[dict[str, Any]]:
        """The rows of a member as data; raises as `lines`."""
        for line in self.lines(member):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise damaged(self.name, f"{member} holds a line that is no JSON object")
            yield row

    def document(self, sha256: str, size: int) -> Iterator[bytes]:
        """A document of `size` bytes, in pieces of `PIECE` bytes but for the last; raises as `pieces`."""
        return self._checked(DOCUMENTS + sha256, sha256, size)

    def _checked(self, member: str, sha256: str, size: int) -> Iterator[bytes]:
        digest, read = hashlib.sha256(), 0
        for piece in self._unchecked(member):
            digest.update(piece)
            read += len(piece)
            if read > size:
                break
            yield piece
        if read != size or digest.hexdigest() != sha256:
            raise damaged(self.name, f"{member} is not what was written")

    def _unchecked(self, member: str) -> Iterator[bytes]:
        info = self._infos.get(member)
        if info is None:
            raise damaged(self.name, f"{member} is missing")
        try:
            with self._zip.open(info) as stream:
                while piece := stream.read(PIECE):
                    yield piece
        except _BROKEN as error:
            raise damaged(self.name, f"{member}: {_reason(error)}") from None

    def _read_manifest(self) -> bytes:
        if MANIFEST not in self._infos:
            raise not_an_archive(self.name)
        content = b""
        for piece in self._unchecked(MANIFEST):
            content += piece
            if len(content) > LARGEST_MANIFEST:
                raise damaged(self.name, f"{MANIFEST} is too large")
        return content

    def _plain_members(self) -> dict[str, ZipInfo]:
        infos = self._zip.infolist()
        for info in infos:
            if info.flag_bits & _FOREIGN_FLAGS or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise damaged(self.name, "a member is encrypted or packed in another way")
        members = {info.filename: info for info in infos}
        if len(members) != len(infos):
            raise damaged(self.name, "a member stands in it twice")
        return members


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive and read its manifest.

    Raises
    ------
    ArchiveError
        There is no such file, it is no archive, it is damaged, or a newer version wrote it.
    """
    if path.exists() and not path.is_file():
        raise not_an_archive(str(path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be read ({error.strerror}): check the path; archives stand in "
            "$DOCEVAL_HOME/archives"
        ) from None
    with file:
        yield Archive(file, str(path))


def _open_zip(file: IO[bytes], name: str) -> ZipFile:
    beginning = file.read(4)
    try:
        return ZipFile(file)
    except _BROKEN as error:
        # The end of a zip holds its table of contents, so that a truncated one cannot be opened.
        if beginning == b"PK\x03\x04":
            raise damaged(name, _reason(error)) from None
        raise not_an_archive(name) from None


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
