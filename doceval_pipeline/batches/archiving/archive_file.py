"""Writes the file of an archive from one snapshot of each database, and proves what stands in it.

No row is changed here. When a batch may be archived, and what follows, is the business of `archiving`.
"""

import os
from collections.abc import (
    Iterator,
)
from contextlib import (
    contextmanager,
)
from dataclasses import (
    dataclass,
)
from datetime import (
    UTC,
    datetime,
)
from importlib.metadata import (
    version,
)
from pathlib import (
    Path,
)
from tempfile import (
    NamedTemporaryFile,
)
from typing import (
    IO,
)

from sqlalchemy import (
    Connection,
)

from doceval_pipeline.archives.checking import (
    check,
)
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
from doceval_pipeline.archives.reading import (
    open_archive,
)
from doceval_pipeline.archives.writing import (
    ArchiveWriter,
)
from doceval_pipeline.batches.databases import (
    Databases,
)
from doceval_pipeline.batches.staging.storing import (
    Progress,
)
from doceval_pipeline.doc_eval.archive import (
    dump as configuration,
)
from doceval_pipeline.doc_eval.batches import (
    BatchRecord,
    partition_key,
)
from doceval_pipeline.doc_eval.files import (
    stored_document_ids,
)
from doceval_pipeline.documents.reading import (
    decode,
)
from doceval_pipeline.errors import (
    ArchiveError,
)
from doceval_pipeline.knowledge.archive import (
    dump,
)
from doceval_pipeline.knowledge.archive.dump import (
    RowsDigest,
    StoredContent,
    rows_digest,
)
from doceval_pipeline.knowledge.archive.load import (
    read_attempts,
)
from doceval_pipeline.knowledge.digests import (
    digest,
)
from doceval_pipeline.migrations.rows import (
    write_exactly,
)
from doceval_pipeline.migrations.upgrade import (
    HEADS,
)


@dataclass(frozen=True)
class Written:
    """A file that is written, and what the databases held when it was.

    `rows` are those of the queue, `files` those of the batch's folders, `documents` the `docs.id`;
    `result_digest` is the one of the results.
    """

    manifest: Manifest
    rows: RowsDigest
    files: int
    documents: list[int]
    result_digest: str


@contextmanager
def unfinished(folder: Path, batch_id: int) -> Iterator[IO[bytes]]:
    """A new hidden file in a folder that only its owner can enter; gone at the end unless renamed.

    What a killed process left of the same batch goes too, so the caller must hold the batch's lock.

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
            f"{key}: the archive cannot be written in {folder} ({error.strerror}), and nothing was removed: "
            f"make room or give this user permission, then doceval archive {batch_id} again"
        ) from None


def write_archive(
    databases: Databases,
    batch: BatchRecord,
    canonical: str,
    report: Path,
    file: IO[bytes],
    progress: Progress,
) -> Written:
    """Write everything about a batch into an open file, and onto the disk.

    Parameters
    ----------
    canonical
        The sealed configuration.
    report
        The file of the newest report.

    Raises
    ------
    ArchiveError
        A content is not stored any more, or is not what its sha256 says.
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
    _onto_the_disk(file)
    return Written(manifest, rows, files, documents, result_digest)


def check_archive(databases: Databases, path: Path, written: Written, progress: Progress) -> str:
    """Read a file back from the disk, and let PostgreSQL read its rows back into the same rows.

    Returns
    -------
    str
        The sha256 of the file.

    Raises
    ------
    ArchiveError
        It does not hold what was to be archived.
    """
    with open_archive(path) as archive:
        try:
            found = check(archive, progress)
        except DamagedArchive as error:
            raise _not_as_written(written, f" ({error.reason})") from None
        with databases.knowledge.begin() as knowledge:
            write_exactly(knowledge)
            rows = read_attempts(knowledge, archive.pieces(ATTEMPTS))
        same = (archive.manifest, rows) == (written.manifest, written.rows)
        if not same or (found.files, found.documents) != (written.files, len(written.documents)):
            raise _not_as_written(written)
        return archive.sha256()


def _not_as_written(written: Written, reason: str = "") -> ArchiveError:
    return ArchiveError(
        f"{partition_key(written.manifest.batch)}: the archive does not read back as what was written, and "
        f"nothing was removed{reason}: check the rows with doceval check, and the disk, then archive again"
    )


def give_name(partial: Path, path: Path) -> None:
    """Make a checked file the archive, so that it is there after a power failure too."""
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
    found = writer.add_rows(DOCS, dump.doc_rows(connection, documents))
    if found != len(documents):
        raise ArchiveError(
            f"{batch.key}: {len(documents) - found} of its documents are not stored any more: "
            f"doceval stage {batch.id} stores them again"
        )
    size = 0
    progress(0, found, 0)
    for done, content in enumerate(dump.contents(connection, documents), start=1):
        writer.add_document(content.sha256, content.size, _decoded(content))
        size += content.size
        progress(done, found, size)


def _decoded(content: StoredContent) -> Iterator[bytes]:
    for piece in content.pieces:
        try:
            yield decode(piece)
        except ValueError as error:
            raise ArchiveError(
                f"the stored content sha256:{content.sha256} is {error}: restore docs from a backup first"
            ) from None


def _onto_the_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        # What is checked next is then read from the disk and not from memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
