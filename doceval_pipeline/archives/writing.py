"""Writes an archive member by member, in bounded memory. The manifest comes last.

Callers choose the file and verify it afterwards.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import IO, Self
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from doceval_pipeline.archives.format import DOCUMENTS, MANIFEST, Documents, Manifest, Member
from doceval_pipeline.errors import ArchiveError

# Lines are collected up to this many bytes before they are compressed.
BUFFER = 256 * 1024


class ArchiveWriter:
    """Writes one archive into an open, seekable file; complete only after `finish`.

    Parameters
    ----------
    when
        Time of the archive, with a time zone; also used for the members.
    """

    def __init__(self, file: IO[bytes], when: datetime) -> None:
        # Python writes zip64 if a member, or the number of members, requires it.
        self._zip = ZipFile(file, "w", ZIP_DEFLATED)
        self._when = when.astimezone(UTC)
        self._members: dict[str, Member] = {}
        self._documents = 0
        self._document_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # Otherwise the garbage collector would close an abandoned zip into a file that is closed.
        self._zip.fp = None

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a member without rows."""
        self._members[name] = self._write(name, pieces)

    def add_rows(self, name: str, rows: Iterable[str]) -> int:
        """Write a member with one JSON object per line; returns the number of rows."""
        lines = _Lines(rows)
        written = self._write(name, lines)
        self._members[name] = written.model_copy(update={"rows": lines.count})
        return lines.count

    def add_document(self, sha256: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write a document under its sha256.

        Parameters
        ----------
        size
            In bytes.

        Raises
        ------
        ArchiveError
            The bytes do not match the sha256 or the size.
        """
        written = self._write(DOCUMENTS + sha256, pieces)
        if (written.sha256, written.bytes) != (sha256, size):
            raise ArchiveError(
                f"the stored document sha256:{sha256} does not match its sha256: doceval check finds its "
                "batches; restore docs from a backup first"
            )
        self._documents += 1
        self._document_bytes += size

    def finish(self, batch: int, name: str, doceval: str, schemas: dict[str, str]) -> Manifest:
        """Write the manifest and close the archive, but not the file.

        Parameters
        ----------
        batch, name
            Id and name of the batch.
        doceval
            Version of doceval_pipeline.
        schemas
            Schema revisions of the databases, by name.
        """
        manifest = Manifest(
            batch=batch,
            name=name,
            archived_at=self._when.isoformat(),
            doceval=doceval,
            schemas=schemas,
            documents=Documents(count=self._documents, bytes=self._document_bytes),
            members=self._members,
        )
        self._write(MANIFEST, [manifest.to_bytes()])
        self._zip.close()
        return manifest

    def _write(self, name: str, pieces: Iterable[bytes]) -> Member:
        info = ZipInfo(name, self._when.timetuple()[:6])
        info.compress_type = ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        digest, size = hashlib.sha256(), 0
        # The size is unknown before the end, and unlimited.
        with self._zip.open(info, "w", force_zip64=True) as member:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                member.write(piece)
        return Member(sha256=digest.hexdigest(), bytes=size)


class _Lines:
    """Rows as bytes, many lines per piece; `count` is the number of rows so far."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        piece = bytearray()
        for row in self._rows:
            piece += row.encode() + b"\n"
            self.count += 1
            if len(piece) >= BUFFER:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece)
