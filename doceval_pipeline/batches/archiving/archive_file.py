"""Writes an archive file from one snapshot of each database, and verifies its contents.

Changes no row. `archive` decides when a batch may be archived, and removes its rows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from sqlalchemy import Connection

from doceval_pipeline.archives.checking import check
from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    CONFIG,
    DOCS,
    FILES,
    HISTORY,
    PROGRESS,
    REPORT,
    DamagedArchive,
    Manifest,
)
from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.archives.writing import ArchiveWriter
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.archive import dump as configuration
from doceval_pipeline.doc_eval.batches import BatchRecord, partition_key
from doceval_pipeline.doc_eval.files import stored_document_ids
from doceval_pipeline.documents.reading import decode
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.knowledge.archive import dump
from doceval_pipeline.knowledge.archive.dump import RowsDigest, StoredDocument, rows_digest
from doceval_pipeline.knowledge.archive.load import read_attempts
from doceval_pipeline.knowledge.digests import digest
from doceval_pipeline.migrations.rows import write_exactly
from doceval_pipeline.migrations.upgrade import HEADS
from doceval_pipeline.portions import Progress


@dataclass(frozen=True)
class WrittenArchive:
    """A written archive file, with the state of the databases at that time.

    `rows` is the digest of the queue rows, `files` the number of files, `documents` the `docs.id`, and
    `result_digest` the digest of the results.
    """

    manifest: Manifest
    rows: RowsDigest
    files: int
    documents: list[int]
    result_digest: str


@contextmanager
def partial_file(folder: Path, batch_id: int) -> Iterator[IO[bytes]]:
    """A new hidden file in a folder that only its owner can enter; removed at the end unless renamed.

    Also removes what a killed process left of the same batch, so the caller must hold the batch's lock.

    Raises
    ------
    ArchiveError
        The folder or the file cannot be written.
    """
    key = partition_key(batch_id)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.glob(f".{key}-*.partial"):
            leftover.unlink(missing_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=f".{key}-", suffix=".partial", delete=False) as file:
            try:
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)
    except OSError as error:
        raise ArchiveError(
            f"{key}: the archive cannot be written to {folder} ({error.strerror}); nothing was removed: "
            f"free space or grant write permission, then run doceval archive {batch_id} again"
        ) from None


def write_archive(
    databases: Databases,
    batch: BatchRecord,
    canonical: str,
    report: Path,
    file: IO[bytes],
    progress: Progress,
) -> WrittenArchive:
    """Writes everything about a batch into an open file and flushes it to disk.

    Parameters
    ----------
    canonical
        The sealed configuration.
    report
        The file of the newest report.

    Raises
    ------
    ArchiveError
        A document is no longer stored or does not match its sha256.
    """
    doc_eval, knowledge = (
        engine.execution_options(isolation_level="REPEATABLE READ")
        for engine in (databases.doc_eval, databases.knowledge)
    )
    with ArchiveWriter(file, datetime.now(UTC)) as writer, doc_eval.begin() as d, knowledge.begin() as k:
        write_exactly(d)
        write_exactly(k)
        rows, result_digest = rows_digest(k, batch.id), digest(k, batch.id)
        documents = dump.document_ids(k, batch.id, stored_document_ids(d, batch.id))
        published = dump.config_row(k, batch.id)
        writer.add(BATCH, [configuration.batch_json(d, batch.id, published).encode()])
        writer.add(CONFIG, [canonical.encode()])
        writer.add(REPORT, [report.read_bytes()])
        writer.add_rows(PROGRESS, configuration.progress_rows(d, batch.id))
        writer.add_rows(HISTORY, configuration.history_rows(d, batch.id))
        writer.add_rows(FILES, configuration.file_rows(d, batch.id))
        files = configuration.count_files(d, batch.id)
        writer.add_rows(ATTEMPTS, dump.attempt_rows(k, batch.id))
        _write_documents(writer, k, batch, documents, progress)
        schemas = {schema.value: revision for schema, revision in HEADS.items()}
        manifest = writer.finish(batch.id, batch.name, version("doceval-pipeline"), schemas)
    _sync(file)
    return WrittenArchive(manifest, rows, files, documents, result_digest)


def check_archive(databases: Databases, path: Path, written: WrittenArchive, progress: Progress) -> str:
    """Reads a file back from disk, and lets PostgreSQL parse its rows and compare their digest.

    Returns
    -------
    str
        The sha256 of the file.

    Raises
    ------
    ArchiveError
        The file does not contain what was written.
    """
    with open_archive(path) as archive:
        try:
            checked = check(archive, progress)
        except DamagedArchive as error:
            raise _not_as_written(written, f" ({error.reason})") from None
        with databases.knowledge.begin() as knowledge:
            write_exactly(knowledge)
            rows = read_attempts(knowledge, archive.pieces(ATTEMPTS))
        same = (archive.manifest, rows) == (written.manifest, written.rows)
        if not same or (checked.files, checked.documents) != (written.files, len(written.documents)):
            raise _not_as_written(written)
        return archive.sha256()


def _not_as_written(written: WrittenArchive, reason: str = "") -> ArchiveError:
    return ArchiveError(
        f"{partition_key(written.manifest.batch)}: the archive does not read back as written{reason}; "
        "nothing was removed: run doceval check, check the disk, then archive the batch again"
    )


def publish(partial: Path, path: Path) -> None:
    """Renames a checked file to the archive, durably even after a power failure."""
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_documents(
    writer: ArchiveWriter,
    connection: Connection,
    batch: BatchRecord,
    documents: list[int],
    progress: Progress,
) -> None:
    count = writer.add_rows(DOCS, dump.doc_rows(connection, documents))
    if count != len(documents):
        raise ArchiveError(
            f"{batch.key}: {len(documents) - count} of its documents are no longer stored: "
            f"run doceval stage {batch.id} to store them again"
        )
    size = 0
    progress(0, count, 0)
    for done, content in enumerate(dump.stored_documents(connection, documents), start=1):
        writer.add_document(content.sha256, content.size, _decoded(content))
        size += content.size
        progress(done, count, size)


def _decoded(content: StoredDocument) -> Iterator[bytes]:
    for piece in content.pieces:
        try:
            yield decode(piece)
        except ValueError as error:
            raise ArchiveError(
                f"the stored document sha256:{content.sha256} is {error}: restore docs from a backup first"
            ) from None


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        # Makes the following check read from disk and not from memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
