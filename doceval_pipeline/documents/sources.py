"""Reads documents of folders on disk and on object storage alike; `folder` is a path or a URL.

The module for object storage is imported when the first object is read.
"""

from collections.abc import Iterator

from doceval_pipeline.documents import reading
from doceval_pipeline.documents.reading import LastFolder, ReadDocument
from doceval_pipeline.domain.files import Fingerprint
from doceval_pipeline.object_urls import is_object_url


def read_document(
    folder: str, path: bytes, max_bytes: int, etag: str | None = None, last: LastFolder | None = None
) -> ReadDocument:
    """As `reading.read_document`, and for an object in the version `etag` as `objects.read_object`."""
    if is_object_url(folder):
        from doceval_pipeline.documents.objects import read_object

        return read_object(folder, path, max_bytes, etag)
    if last is not None:
        return reading.read_document(folder, path, max_bytes, last)
    with LastFolder() as alone:
        return reading.read_document(folder, path, max_bytes, alone)


def hash_document(folder: str, path: bytes, max_bytes: int, etag: str | None = None) -> tuple[str, int]:
    """The sha256 and size in bytes of a document, without its type; raises as `read_document`."""
    if is_object_url(folder):
        from doceval_pipeline.documents.objects import read_object

        read = read_object(folder, path, max_bytes, etag, identify=False).fingerprint
        return read.sha256, read.size
    return reading.hash_document(folder, path, max_bytes)


def fingerprint_document(folder: str, path: bytes, max_bytes: int, etag: str | None = None) -> Fingerprint:
    """What a document is known by, without its content; raises as `read_document`."""
    return read_document(folder, path, max_bytes, etag).fingerprint


def encoded_chunks(folder: str, path: bytes, expected: ReadDocument) -> Iterator[bytes]:
    """As `reading.encoded_chunks`; a large object is read again in the same version."""
    if expected.content is None and is_object_url(folder):
        from doceval_pipeline.documents.objects import encoded_object

        return encoded_object(folder, path, expected)
    return reading.encoded_chunks(folder, path, expected)
