"""Reads documents that others may be writing: fingerprint, base64, and the proof that they agree.

The sha256 is of exactly the bytes that are handed on. A document that changes while it is read is
rejected, never stored half old and half new.
"""

import binascii
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

CHANGED = "changed while being read"
OUTSIDE = "outside its folder"
# Documents up to this size are kept in memory between hashing and storing; larger ones are read twice.
SMALL_DOCUMENT = 8 * 1024 * 1024
# A multiple of 3 bytes, so that the base64 of each piece can stand beside that of the next.
PIECE = 3 * 256 * 1024
# A file is read once it was left alone for this long.
SETTLED_SECONDS = 1.0
MOST_TRIES = 3
_REASONS = {
    errno.ENOENT: VANISHED,
    errno.ENOTDIR: VANISHED,
    errno.ELOOP: SYMLINK,
    errno.ENXIO: NOT_REGULAR,
}


class DocumentRejected(Exception):
    """A document that cannot be stored; `reason` is one of a few fixed words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What was read of a document.

    `sha256` in hex and `size` in bytes are of exactly the bytes that were read; `content` holds
    them where the document is small, and is None where `encoded_chunks` must read it again.
    """

    sha256: str
    size: int
    content_type: str
    doc_type: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class _Read:
    """The sha256 and size of what was read; its type, and all of a small one, if that was asked for."""

    sha256: str
    size: int
    content_type: str
    content: bytes | None


def fingerprint(folder: str | Path, path: bytes, max_bytes: int) -> Fingerprint:
    """Read a document once and say what it is; memory is bounded by `SMALL_DOCUMENT`.

    Parameters
    ----------
    path
        Below `folder`, as on disk; no part of it is followed if it is a link.
    max_bytes
        Larger documents are rejected.

    Raises
    ------
    DocumentRejected
        It vanished, is no readable regular file, is empty or too large, or would not keep still.
    """
    read = _read(folder, path, max_bytes, identify=True)
    return Fingerprint(read.sha256, read.size, read.content_type, doc_type(path), read.content)


def hash_document(folder: str | Path, path: bytes, max_bytes: int) -> tuple[str, int]:
    """The sha256 and size in bytes of a document, without finding out what it is; raises as `fingerprint`."""
    read = _read(folder, path, max_bytes, identify=False)
    return read.sha256, read.size


def encoded_chunks(folder: str | Path, path: bytes, expected: Fingerprint) -> Iterator[bytes]:
    """The canonical base64 of a document in pieces of 1 MiB; of a large one it is read again.

    Raises
    ------
    DocumentRejected
        What was read is not what `expected` says; at the latest instead of the end, so that
        whoever stores the pieces must give them up.
    """
    if expected.content is not None:
        whole = memoryview(expected.content)
        yield from (encode(whole[begin : begin + PIECE]) for begin in range(0, len(whole), PIECE))
        return
    digest = hashlib.sha256()
    size = 0
    with _opened(folder, path) as descriptor:
        for piece in _pieces(descriptor, expected.size):
            digest.update(piece)
            size += len(piece)
            if size > expected.size:
                raise DocumentRejected(CHANGED)
            yield encode(piece)
    if size != expected.size or digest.hexdigest() != expected.sha256:
        raise DocumentRejected(CHANGED)


def encode(content: bytes | memoryview) -> bytes:
    """Canonical base64: standard alphabet, padded, no line breaks."""
    return pybase64.b64encode(content)


def encoded_length(size: int) -> int:
    """How many bytes the base64 of `size` bytes has."""
    return 4 * ((size + 2) // 3)


def decode(text: str | bytes) -> bytes:
    """Decode canonical base64, and nothing else.

    Raises
    ------
    ValueError
        The text is not what `encode` gives for any content.
    """
    try:
        content = pybase64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
    given = text.encode() if isinstance(text, str) else text
    # A lax decoder takes bits behind the end that no encoder wrote.
    if encode(content) != given:
        raise ValueError("not canonical base64")
    return content


def doc_type(path: bytes) -> str:
    """The lower-case extension without its dot, or nothing."""
    name = os.path.basename(path)
    try:
        return os.path.splitext(name)[1].decode().removeprefix(".").lower()
    except UnicodeDecodeError:
        return ""


@contextmanager
def _opened(folder: str | Path, path: bytes) -> Iterator[int]:
    """Open a document below a folder without following a link or waiting for a FIFO's writer."""
    if not is_below(path):
        raise DocumentRejected(OUTSIDE)
    *above, name = path.split(b"/")
    held = -1
    try:
        held = os.open(folder, OPEN_FOLDER & ~os.O_NOFOLLOW)
        for part in above:
            below = os.open(part, OPEN_FOLDER, dir_fd=held)
            os.close(held)
            held = below
        document = os.open(name, OPEN_FILE, dir_fd=held)
    except OSError as error:
        raise DocumentRejected(_REASONS.get(error.errno or 0, UNREADABLE)) from None
    finally:
        if held >= 0:
            os.close(held)
    try:
        yield document
    finally:
        os.close(document)


def _read(folder: str | Path, path: bytes, max_bytes: int, identify: bool) -> _Read:
    for _ in range(MOST_TRIES):
        with _opened(folder, path) as descriptor:
            found = _read_steadily(descriptor, max_bytes, identify)
        if found is not None:
            return found
    raise DocumentRejected(CHANGED)


def _read_steadily(descriptor: int, max_bytes: int, identify: bool) -> _Read | None:
    """Read an open document; None where it changed meanwhile.

    A file's times are stamped when a write begins, so half of a write can be read without their
    moving. Therefore nothing is read before the last write began a while ago; whatever begins
    later is then seen by the times.
    """
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise DocumentRejected(NOT_REGULAR)
    if before.st_size > max_bytes:
        raise DocumentRejected(TOO_LARGE)
    if before.st_size == 0:
        raise DocumentRejected(EMPTY)
    _let_settle(before)
    digest, size = hashlib.sha256(), 0
    kept: list[bytes] = []
    for piece in _pieces(descriptor, before.st_size):
        digest.update(piece)
        size += len(piece)
        if identify and before.st_size <= SMALL_DOCUMENT:
            kept.append(piece)
        if size > before.st_size:
            return None
    content = b"".join(kept) if kept else None
    # A large file is read again here and there, before the times show whether it is still the same.
    kind = _content_type(descriptor, size, content) if identify else ""
    if size != before.st_size or _mark(os.fstat(descriptor)) != _mark(before):
        return None
    return _Read(digest.hexdigest(), size, kind, content)


def _content_type(descriptor: int, size: int, content: bytes | None) -> str:
    try:
        return content_type(Source.of_file(descriptor, size) if content is None else Source.of(content))
    except OSError:
        raise DocumentRejected(UNREADABLE) from None


def _let_settle(found: os.stat_result) -> None:
    """Wait until a file's last write is old enough; at once for nearly every file.

    A time of writing in the future was set by hand, or is of another machine's clock: then the time of
    the last change of any kind counts, which nobody can set. If that is in the future too, it says
    nothing, and costs the whole wait.
    """
    now = time.time()
    age = now - (found.st_mtime if found.st_mtime <= now else found.st_ctime)
    if age < SETTLED_SECONDS:
        time.sleep(min(SETTLED_SECONDS, SETTLED_SECONDS - age))  # nobody tells when a writer is done


def _mark(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """Read to the end, in pieces of exactly `PIECE` bytes but for the last.

    `size` is what the document should have in bytes: no more room is asked for than that and a byte,
    because asking for much costs more than reading little.
    """
    wanted = min(PIECE, size + 1)
    while True:
        try:
            piece = os.read(descriptor, wanted)
            while piece and len(piece) < wanted and (more := os.read(descriptor, wanted - len(piece))):
                piece += more
        except OSError:
            raise DocumentRejected(UNREADABLE) from None
        if not piece:
            return
        yield piece
        if len(piece) < wanted:
            return
