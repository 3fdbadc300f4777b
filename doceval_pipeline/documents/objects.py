"""Lists and reads the documents of a folder on object storage; the counterpart of `walk` and `reading`.

An object is read only in the version that was listed, by `If-Match` with its ETag, so that it is never half
old and half new. The sha256 covers exactly the bytes that are stored.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from doceval_pipeline.documents.content_type import content_type
from doceval_pipeline.documents.reading import (
    CHANGED,
    OUTSIDE,
    PIECE,
    SMALL_DOCUMENT,
    DocumentRejected,
    ReadDocument,
    doc_type,
    encode,
)
from doceval_pipeline.documents.skipped_folders import COUNTED_BY_ITSELF
from doceval_pipeline.documents.source import Source
from doceval_pipeline.documents.stores import Bucket, StoredObject, bucket_of
from doceval_pipeline.documents.temporary_files import is_temporary_folder
from doceval_pipeline.documents.walk import (
    ASSIGNED,
    EMPTY,
    FOLDER_MARKER,
    REJECTED,
    SKIPPED,
    TOO_LARGE,
    UNREADABLE_NAME,
    Entry,
    NameRules,
    Rules,
    is_below,
)
from doceval_pipeline.domain.files import Fingerprint
from doceval_pipeline.object_urls import ObjectUrl, is_readable_key, parse_object_url


def walk_objects(
    url: ObjectUrl,
    rules: Rules,
    counted_elsewhere: Sequence[ObjectUrl] = (),
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[Entry]:
    """List every object below a folder, with the reason for each one that cannot be used.

    In the order of the bytes of the keys. Memory holds one page of 1,000 keys. A marker of the folder itself
    is not listed.

    Parameters
    ----------
    counted_elsewhere
        Folders whose objects are listed separately: those inside this one are listed as one entry each.
    is_over
        Called before each object; the listing ends when it returns True.

    Raises
    ------
    StagingError
        The bucket cannot be listed.
    """
    names = NameRules(rules)
    elsewhere = [other.beginning for other in counted_elsewhere if other.is_inside(url)]
    entered: set[str] = set()
    for found in bucket_of(url).objects(is_over):
        if is_over():
            return
        path = found.key.removeprefix(url.beginning)
        other = next((beginning for beginning in elsewhere if found.key.startswith(beginning)), None)
        if other is not None:
            if other not in entered:
                entered.add(other)
                folder = other.removeprefix(url.beginning).rstrip("/")
                yield Entry(folder.encode(), SKIPPED, COUNTED_BY_ITSELF, None)
        elif path:
            state, reason = _classify(path, found, rules, names)
            yield Entry(path.encode(), state, reason, found.size, found.modified_ns, found.etag)


def _classify(path: str, found: StoredObject, rules: Rules, names: NameRules) -> tuple[str, str | None]:
    """The state of an object, and the reason unless it is assigned."""
    *folders, name = path.split("/")
    if not name and not found.size and is_readable_key(found.key[:-1]):
        return SKIPPED, FOLDER_MARKER
    if not is_readable_key(found.key):
        return REJECTED, UNREADABLE_NAME
    reason = names.reason_to_skip(
        path,
        name,
        is_hidden=any(folder.startswith(".") for folder in folders),
        is_temporary=any(map(is_temporary_folder, folders)),
    )
    if reason is not None:
        return SKIPPED, reason
    if not found.size:
        return SKIPPED, EMPTY
    return (REJECTED, TOO_LARGE) if found.size > rules.max_bytes else (ASSIGNED, None)


def read_object(
    folder: str, path: bytes, max_bytes: int, etag: str | None = None, *, identify: bool = True
) -> ReadDocument:
    """Read an object once and identify it; memory is bounded by `SMALL_DOCUMENT`.

    Parameters
    ----------
    folder
        The URL of the folder.
    path
        The key below the folder.
    max_bytes
        Larger objects are rejected.
    etag
        The version to read; None for the current one.
    identify
        Without it, type and content stay empty.

    Raises
    ------
    DocumentRejected
        It vanished, changed, may not be read, or is empty or too large.
    StagingError
        The store does not answer, or does not accept the credentials.
    """
    bucket, key = _found(folder, path)
    with bucket.reading():
        result = bucket.get(key, etag)
        meta = result.meta
        version, size = meta["e_tag"] or etag, meta["size"]
        if size > max_bytes:
            raise DocumentRejected(TOO_LARGE)
        if size == 0:
            raise DocumentRejected(EMPTY)
        digest, length, content = hashlib.sha256(), 0, b""
        if size <= SMALL_DOCUMENT:
            content = bytes(result.bytes())
        for piece in (content,) if content else result.stream(min_chunk_size=PIECE):
            digest.update(piece)
            length += len(piece)
        if length != size:
            raise DocumentRejected(CHANGED)
        source = Source.of(content) if content else _at_random(bucket, key, version, size)
        kind = content_type(source) if identify else ""
    fingerprint = Fingerprint(digest.hexdigest(), size, kind, doc_type(path))
    return ReadDocument(fingerprint, content if content and identify else None, version)


def encoded_object(folder: str, path: bytes, expected: ReadDocument) -> Iterator[bytes]:
    """The canonical base64 of a large object, which is read again, in pieces of 1 MiB.

    Raises
    ------
    DocumentRejected
        The bytes differ from `expected`; at the latest after the last piece.
    StagingError
        As `read_object`.
    """
    bucket, key = _found(folder, path)
    digest, size = hashlib.sha256(), 0
    with bucket.reading():
        for piece in _pieces(bucket.get(key, expected.etag).stream(min_chunk_size=PIECE)):
            digest.update(piece)
            size += len(piece)
            if size > expected.fingerprint.size:
                raise DocumentRejected(CHANGED)
            yield encode(piece)
    if size != expected.fingerprint.size or digest.hexdigest() != expected.fingerprint.sha256:
        raise DocumentRejected(CHANGED)


def _found(folder: str, path: bytes) -> tuple[Bucket, str]:
    """The bucket and the key of an object."""
    url = parse_object_url(folder)
    key = url.beginning + path.decode("utf-8", "replace")
    if not is_below(path) or not is_readable_key(key):
        raise DocumentRejected(OUTSIDE)
    return bucket_of(url), key


def _at_random(bucket: Bucket, key: str, etag: str | None, size: int) -> Source:
    """Random access to an object, with one request for each part."""

    def at(offset: int, length: int) -> bytes:
        end = min(size, offset + length)
        return bytes(bucket.get(key, etag, offset, end).bytes()) if offset < end else b""

    return Source(size, at)


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream into pieces of exactly `PIECE` bytes except the last."""
    rest = bytearray()
    for part in parts:
        rest += part
        whole = len(rest) - len(rest) % PIECE
        yield from (bytes(rest[begin : begin + PIECE]) for begin in range(0, whole, PIECE))
        del rest[:whole]
    if rest:
        yield bytes(rest)
