"""Moves a closed batch from both databases into one file, and removes only what the file can restore.

The steps, all under the lock of the batch: write the file from one snapshot of KnowledgeDocuments; read it
back; publish it under its name; record it; remove the rows if they still equal those of the file; remove
the files. If the process is killed between any two steps, running it again completes the archive. If a
processor writes a row meanwhile, the archive is written again.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.archives.format import ATTEMPTS
from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.batches.archiving.archive_file import (
    WrittenArchive,
    check_archive,
    partial_file,
    publish,
    write_archive,
)
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.batches.monitoring.completion import settle
from doceval_pipeline.batches.results.report_files import find_report
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.doc_eval.archive import dump as configuration
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id
from doceval_pipeline.doc_eval.files import stored_document_ids
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status, possible_actions
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.errors import ArchiveError, BatchStateError
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.archive import dump
from doceval_pipeline.migrations.rights import require_rights
from doceval_pipeline.migrations.rows import write_exactly
from doceval_pipeline.portions import Progress

# Every further try includes what a processor wrote during the previous one.
MOST_TRIES = 5


@dataclass(frozen=True)
class ArchivedBatch:
    """An archived batch: its file, the sha256 and size in bytes of the file, and its contents.

    `rows` counts all attempts, `documents` all distinct documents. `documents_removed` counts those that no
    other batch needs; 0 if this call only completed an earlier one.
    """

    path: Path
    sha256: str
    size: int
    rows: int
    documents: int
    documents_removed: int


class _BatchChanged(Exception):
    """The batch was changed while it was being archived."""


def archive(databases: Databases, batch_id: int, writing: Progress, checking: Progress) -> ArchivedBatch:
    """Writes a batch into one file and removes its rows.

    For a batch that is already archived, completes the remaining steps and checks the file.

    Parameters
    ----------
    writing, checking
        Progress callbacks for writing the documents and for reading them back.

    Raises
    ------
    UnknownBatch, BatchStateError, ArchiveError, DatabaseError
        BatchStateError if the batch is open or was never staged; ArchiveError if the file cannot be
        written or is incomplete. Nothing was removed then.
    """
    with database_errors(), number_lock(databases, batch_id) as connection:
        with connection.begin():
            require_rights(connection, "the archive", configuration.RIGHTS)
            batch = batch_by_id(connection, batch_id)
        with databases.knowledge.connect() as knowledge:
            require_rights(knowledge, "the archive", dump.RIGHTS)
        if batch.archived_at is not None:
            if not _has_rows(databases, batch):
                return _finish(databases, connection, batch)
            with connection.begin():
                configuration.unmark_archived(connection, batch_id)
        for _ in range(MOST_TRIES):
            with suppress(_BatchChanged):
                return _archive_now(databases, connection, batch_id, writing, checking)
    raise ArchiveError(
        f"{batch.key} cannot be archived while a processor keeps writing its results: stop the "
        f"processor, then run doceval archive {batch_id} again"
    )


def _archive_now(
    databases: Databases, connection: Connection, batch_id: int, writing: Progress, checking: Progress
) -> ArchivedBatch:
    _require_archivable(databases, batch_id)
    with databases.knowledge.connect() as knowledge:
        dump.require_short_texts(knowledge, batch_id)
    batch, canonical, report = _with_report(databases, batch_id)
    if batch.status not in (*CLOSED, Status.FAILED_STAGING):
        raise _BatchChanged
    folder = databases.settings.archives
    with partial_file(folder, batch_id) as file:
        written = write_archive(databases, batch, canonical, report, file, writing)
        if batch.status in CLOSED and written.result_digest != batch.result_digest:
            raise _BatchChanged
        # A sensor that polled earlier may still reopen the batch for a moment.
        with databases.doc_eval.connect() as afterwards:
            if batch_by_id(afterwards, batch_id).status is not batch.status:
                raise _BatchChanged
        sha256 = check_archive(databases, Path(file.name), written, checking)
        path = folder / f"{batch.key}-{written.manifest.content_digest}.zip"
        publish(Path(file.name), path)
    with connection.begin():
        when = written.manifest.archived_at
        if not configuration.record_archive(connection, batch, when, path.name, sha256):
            raise _BatchChanged
    removed = _remove_rows(databases, connection, batch_id, written)
    with connection.begin():
        configuration.remove_files(connection, batch_id)
    return ArchivedBatch(
        path, sha256, path.stat().st_size, written.rows.rows, len(written.documents), removed
    )


def _require_archivable(databases: Databases, batch_id: int) -> None:
    """Updates the state of a batch from its rows; raises if it is not done or has nothing stored."""
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        stored = stored_document_ids(connection, batch_id)
    if batch.status in (*OPEN, *CLOSED):
        settle(databases, batch)
        with databases.doc_eval.connect() as connection:
            batch = batch_by_id(connection, batch_id)
    if batch.status in (Status.SAVED, Status.FAILED_STAGING) and not stored:
        raise BatchStateError(
            f"{batch.key} has nothing to archive because it is {batch.status}: stage it first"
        )
    if batch.status is Status.FAILED_STAGING:
        with databases.knowledge.connect() as knowledge:
            rows = queue.count_rows(knowledge, batch_id)
        if rows:
            raise BatchStateError(
                f"{batch.key} is {batch.status} with {rows} rows in the queue: "
                f"run doceval stage {batch_id} first"
            )
    elif batch.status not in CLOSED:
        raise BatchStateError(
            f"{batch.key} is {batch.status} and cannot be archived: {possible_actions(batch.status)}"
        )


def _with_report(databases: Databases, batch_id: int) -> tuple[BatchRecord, str, Path]:
    """The current record of a batch, its sealed configuration, and the file of its newest report."""
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        sealed = read_snapshot(connection, batch_id)
    if sealed is None:
        raise BatchStateError(
            f"{batch.key} has nothing to archive because it was never sealed: stage it first"
        )
    with databases.knowledge.begin() as knowledge:
        queue.publish_config(knowledge, batch_id, sealed.canonical, sealed.sha256)
    report = find_report(databases, batch)
    if batch.reported_digest != batch.result_digest or report is None:
        report = write_report(databases, batch_id).path
    with databases.doc_eval.connect() as connection:
        return batch_by_id(connection, batch_id), sealed.canonical, report


def _remove_rows(databases: Databases, connection: Connection, batch_id: int, written: WrittenArchive) -> int:
    """Removes the rows if they still equal those of the file; returns the number of removed documents.

    On failure the batch is no longer marked as archived.
    """
    with databases.knowledge.begin() as knowledge:
        try:
            write_exactly(knowledge)
            if dump.remove_rows(knowledge, batch_id) != written.rows:
                raise _BatchChanged
            with connection.begin():
                others = configuration.documents_of_other_batches(connection, batch_id, written.documents)
            mine = [document for document in written.documents if document not in others]
            return dump.remove_documents(knowledge, mine)
        except Exception:
            # Runs before the commit, whose outcome may stay unknown. If it fails, archiving again repairs it.
            with suppress(DBAPIError), connection.begin():
                configuration.unmark_archived(connection, batch_id)
            raise


def _has_rows(databases: Databases, batch: BatchRecord) -> bool:
    """Whether the rows of a batch that is marked archived are still in KnowledgeDocuments.

    Its configuration is removed with them in one transaction, and before its files. Rows without the
    configuration, or a configuration without files, were therefore written later by another program.
    """
    with databases.knowledge.connect() as knowledge:
        published = dump.has_config(knowledge, batch.id)
        rows = queue.count_rows(knowledge, batch.id)
    with databases.doc_eval.connect() as connection:
        files = configuration.count_files(connection, batch.id)
    if published and not files:
        raise ArchiveError(
            f"{batch.key} is archived, but a configuration of it was added later: find the program "
            "that wrote it, then delete its row from batch_configs"
        )
    if rows and not published:
        raise ArchiveError(
            f"{batch.key} is archived, but {rows} rows of it were added later: find the program that wrote "
            "them, then delete these rows"
        )
    return published


def _finish(databases: Databases, connection: Connection, batch: BatchRecord) -> ArchivedBatch:
    """Completes the remaining steps of an interrupted call and checks the archive file."""
    path = databases.settings.archives / str(batch.archive_file)
    with open_archive(path) as opened:
        sha256, manifest = opened.sha256(), opened.manifest
    if sha256 != batch.archive_sha256:
        raise ArchiveError(
            f"{path} is not the archive of {batch.key}: replace it with a copy of the original file"
        )
    with connection.begin():
        configuration.remove_files(connection, batch.id)
    rows = manifest.members[ATTEMPTS].rows or 0
    return ArchivedBatch(path, sha256, path.stat().st_size, rows, manifest.documents.count, 0)
