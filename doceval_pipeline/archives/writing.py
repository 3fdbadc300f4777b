"""Writes an archive, member after member, in bounded memory. The manifest comes last.

Where the file stands, and when it may be trusted, is the business of whoever writes it.
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
    """Writes one archive into an open, seekable file; it is whole only after `finish`.

    Parameters
    ----------
    when
        The time of the archive, with a time zone; the members get it too.
    """

    def __init__(self, file: IO[bytes], when: datetime) -> None:
        # Python writes zip64 where a file, or the number of members, needs it.
        self._zip = ZipFile(file, "w", ZIP_DEFLATED)
        self._when = when.astimezone(UTC)
        self._members: dict[str, Member] = {}
        self._documents = 0
        self._document_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # One that is given up would else be closed by the garbage collector, into a file that is gone.
        self._zip.fp = None

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a member that holds no rows."""
        self._members[name] = self._write(name, pieces)

    def add_rows(self, name: str, rows: Iterable[str]) -> int:
        """Write a member of one JSON object a line; returns how many there were."""
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
            The bytes are not those that the sha256 and the size say.
        """
        written = self._write(DOCUMENTS + sha256, pieces)
        if (written.sha256, written.bytes) != (sha256, size):
            raise ArchiveError(
                f"the stored content sha256:{sha256} is not what its sha256 says: doceval check finds its "
                "batches; restore docs from a backup first"
            )
        self._documents += 1
        self._document_bytes += size

    def finish(self, batch: int, name: str, doceval: str, schemas: dict[str, str]) -> Manifest:
        """Write the manifest and close the archive, but not the file.

        Parameters
        ----------
        batch, name
            The batch's number and name.
        doceval
            The version of doceval_pipeline.
        schemas
            The revisions of the databases, by name.
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
        # The size is not known before the end, and may be any.
        with self._zip.open(info, "w", force_zip64=True) as member:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                member.write(piece)
        return Member(sha256=digest.hexdigest(), bytes=size)


class _Lines:
    """Rows as bytes, many lines a piece; `count` is how many were given so far."""

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
