"""Reads documents that other programs may be writing: fingerprint and base64 of the same bytes.

The sha256 covers exactly the bytes that are encoded. A document that changes while it is read is rejected,
never stored half old and half new.
"""

import binascii
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pybase64

from doceval_pipeline.documents.content_type import content_type
from doceval_pipeline.documents.source import Source
from doceval_pipeline.documents.walk import (
    EMPTY,
    NOT_REGULAR,
    OPEN_FILE,
    OPEN_FOLDER,
    SYMLINK,
    TOO_LARGE,
    UNREADABLE,
    VANISHED,
    is_below,
)
from doceval_pipeline.domain.files import Fingerprint

CHANGED = "changed while being read"
OUTSIDE = "outside its folder"
# Documents up to this size stay in memory between hashing and storing; larger ones are read twice.
SMALL_DOCUMENT = 8 * 1024 * 1024
# A multiple of 3 bytes, so that the base64 of the pieces can be concatenated.
PIECE = 3 * 256 * 1024
# A file is read once nothing has written to it for this long.
SETTLED_SECONDS = 1.0
MOST_TRIES = 3
_REASONS = {
    errno.ENOENT: VANISHED,
    errno.ENOTDIR: VANISHED,
    errno.ELOOP: SYMLINK,
    errno.ENXIO: NOT_REGULAR,
}


class DocumentRejected(Exception):
    """A document that cannot be stored; `reason` is one of the fixed reasons."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document as it was read.

    `fingerprint` covers exactly the bytes that were read. `content` has the bytes of a small document; it is
    None if `encoded_chunks` must read the file again. `etag` identifies the version of an object.
    """

    fingerprint: Fingerprint
    content: bytes | None
    etag: str | None = None


class LastFolder:
    """The folder of the document that was opened last, kept open for the next document in it.

    10,000 documents in 100 folders need 10,200 opens instead of 30,000. A folder that is moved or replaced
    meanwhile stays the one that was opened, so no link is followed. Close it by leaving its `with` block.
    """

    def __init__(self) -> None:
        self._opened: tuple[str | Path, bytes] | None = None
        self._descriptor = -1

    def __enter__(self) -> "LastFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def knows(self, folder: str | Path, above: bytes) -> bool:
        """Whether a folder is the one that is open; `above` is its path below `folder`."""
        return self._opened == (folder, above)

    def descriptor(self, folder: str | Path, above: bytes) -> int:
        """Open a folder unless it is open, following no link below `folder`; raises OSError."""
        if not self.knows(folder, above):
            self.forget()
            self._descriptor = os.open(folder, OPEN_FOLDER & ~os.O_NOFOLLOW)
            for part in above.split(b"/") if above else ():
                below = os.open(part, OPEN_FOLDER, dir_fd=self._descriptor)
                os.close(self._descriptor)
                self._descriptor = below
            self._opened = folder, above
        return self._descriptor

    def forget(self) -> None:
        """Close the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._opened, self._descriptor = None, -1


def read_document(folder: str | Path, path: bytes, max_bytes: int, last: LastFolder) -> ReadDocument:
    """Read a document once and identify it; memory is bounded by `SMALL_DOCUMENT`.

    Parameters
    ----------
    path
        Relative to `folder`, as on disk; links in it are not followed.
    max_bytes
        Larger documents are rejected.
    last
        Keeps the document's folder open for the next one.

    Raises
    ------
    DocumentRejected
        It vanished, is not a readable regular file, is empty or too large, or kept changing.
    """
    return _read(folder, path, max_bytes, last, identify=True)


def hash_document(folder: str | Path, path: bytes, max_bytes: int) -> tuple[str, int]:
    """The sha256 and size in bytes of a document, without its type; raises as `read_document`."""
    with LastFolder() as last:
        read = _read(folder, path, max_bytes, last, identify=False).fingerprint
    return read.sha256, read.size


def encoded_chunks(folder: str | Path, path: bytes, expected: ReadDocument) -> Iterator[bytes]:
    """The canonical base64 of a document in pieces of 1 MiB; a large document is read again.

    Raises
    ------
    DocumentRejected
        The bytes differ from `expected`. At the latest this is raised after the last piece, so that the
        caller must discard the pieces.
    """
    if expected.content is not None:
        whole = memoryview(expected.content)
        yield from (encode(whole[begin : begin + PIECE]) for begin in range(0, len(whole), PIECE))
        return
    digest = hashlib.sha256()
    size = 0
    with LastFolder() as last:
        descriptor = _open(folder, path, last)
    try:
        for piece in _pieces(descriptor):
            digest.update(piece)
            size += len(piece)
            if size > expected.fingerprint.size:
                raise DocumentRejected(CHANGED)
            yield encode(piece)
    finally:
        os.close(descriptor)
    if size != expected.fingerprint.size or digest.hexdigest() != expected.fingerprint.sha256:
        raise DocumentRejected(CHANGED)


def encode(content: bytes | memoryview) -> bytes:
    """Canonical base64: standard alphabet, padded, no line breaks."""
    return pybase64.b64encode(content)


def decode(text: str | bytes) -> bytes:
    """Decode canonical base64, and nothing else.

    Raises
    ------
    ValueError
        The text is not the canonical base64 of any content.
    """
    try:
        content = pybase64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
    given = text.encode() if isinstance(text, str) else text
    # The decoder ignores trailing bits that no encoder writes.
    if encode(content) != given:
        raise ValueError("not canonical base64")
    return content


def doc_type(path: bytes) -> str:
    """The file extension in lower case without its dot; empty if there is none."""
    stem, _, extension = path.rpartition(b"/")[2].rpartition(b".")
    try:
        return extension.decode().lower() if stem.strip(b".") else ""
    except UnicodeDecodeError:
        return ""


def _open(folder: str | Path, path: bytes, last: LastFolder) -> int:
    """Open a document below a folder without following a link or waiting for a FIFO's writer."""
    if not is_below(path):
        raise DocumentRejected(OUTSIDE)
    above, _, name = path.rpartition(b"/")
    was_open = last.knows(folder, above)
    try:
        return os.open(name, OPEN_FILE, dir_fd=last.descriptor(folder, above))
    except OSError as error:
        if was_open:
            # Another folder may have taken the place of the one that is open.
            last.forget()
            return _open(folder, path, last)
        raise DocumentRejected(_REASONS.get(error.errno or 0, UNREADABLE)) from None


def _read(
    folder: str | Path, path: bytes, max_bytes: int, last: LastFolder, *, identify: bool
) -> ReadDocument:
    for _ in range(MOST_TRIES):
        descriptor = _open(folder, path, last)
        try:
            read = _read_steadily(descriptor, path, max_bytes, identify=identify)
        finally:
            os.close(descriptor)
        if read is not None:
            return read
    raise DocumentRejected(CHANGED)


def _read_steadily(descriptor: int, path: bytes, max_bytes: int, *, identify: bool) -> ReadDocument | None:
    """Read an open document; None if it changed meanwhile. Without `identify`, type and content stay empty.

    A file's times are stamped when a write begins, so half of a write can be read before they change.
    Therefore reading waits until the last write began `SETTLED_SECONDS` ago; later writes change the times.
    """
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise DocumentRejected(NOT_REGULAR)
    if before.st_size > max_bytes:
        raise DocumentRejected(TOO_LARGE)
    if before.st_size == 0:
        raise DocumentRejected(EMPTY)
    _let_settle(before)
    content = _whole(descriptor, before.st_size) if before.st_size <= SMALL_DOCUMENT else None
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(descriptor) if content is None else (content,):
        digest.update(piece)
        size += len(piece)
        if size > before.st_size:
            return None
    # Parts of a large file are read again here, before the times show whether it changed.
    kind = _content_type(descriptor, size, content) if identify else ""
    if size != before.st_size or _mark(os.fstat(descriptor)) != _mark(before):
        return None
    fingerprint = Fingerprint(digest.hexdigest(), size, kind, doc_type(path))
    return ReadDocument(fingerprint, content if identify else None)


def _content_type(descriptor: int, size: int, content: bytes | None) -> str:
    try:
        return content_type(Source.of_file(descriptor, size) if content is None else Source.of(content))
    except OSError:
        raise DocumentRejected(UNREADABLE) from None


def _let_settle(status: os.stat_result) -> None:
    """Wait until a file's last write is old enough; returns at once for nearly every file.

    A modification time in the future was set by hand or by another machine's clock: then the change time
    counts, which cannot be set. If that is in the future too, it waits for the whole time.
    """
    now = time.time()
    age = now - (status.st_mtime if status.st_mtime <= now else status.st_ctime)
    if age < SETTLED_SECONDS:
        time.sleep(min(SETTLED_SECONDS, SETTLED_SECONDS - age))  # writers send no signal when they finish


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _whole(descriptor: int, size: int) -> bytes:
    """The bytes of a document of `size` bytes; fewer or more if its size has changed.

    Asks for one byte more than `size`, so that growth shows without a second read.
    """
    content = _some(descriptor, size + 1)
    while len(content) < size and (more := _some(descriptor, size + 1 - len(content))):
        content += more
    return content


def _pieces(descriptor: int) -> Iterator[bytes]:
    """Read to the end, in pieces of exactly `PIECE` bytes except the last."""
    while True:
        piece = _some(descriptor, PIECE)
        while piece and len(piece) < PIECE and (more := _some(descriptor, PIECE - len(piece))):
            piece += more
        if piece:
            yield piece
        if len(piece) < PIECE:
            return


def _some(descriptor: int, length: int) -> bytes:
    try:
        return os.read(descriptor, length)
    except OSError:
        raise DocumentRejected(UNREADABLE) from None
