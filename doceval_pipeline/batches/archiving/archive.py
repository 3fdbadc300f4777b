"""Moves a closed batch out of both databases into one file, and removes only what it can give back.

The steps, all under the batch's lock: write the file from one snapshot of KnowledgeDocuments; read it
back; give it its name; record it; remove the rows if they are still those of the file; remove the
files. Killed between any two of them, asking again makes it good. A row that a processor writes
meanwhile makes the archive be written again.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.archives.format import ATTEMPTS
from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.batches.archiving.archive_file import (
    Written,
    check_archive,
    give_name,
    unfinished,
    write_archive,
)
from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.batches.monitoring.completion import settle
from doceval_pipeline.batches.results.report_files import find_report
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.storing import Progress
from doceval_pipeline.doc_eval.archive import dump as configuration
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id
from doceval_pipeline.doc_eval.files import stored_document_ids
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN, Status, possible
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.errors import ArchiveError, BatchStateError
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.archive import dump
from doceval_pipeline.migrations.rights import require_rights
from doceval_pipeline.migrations.rows import write_exactly

# Each further try finds what a processor wrote during the last one.
MOST_TRIES = 5


@dataclass(frozen=True)
class Archived:
    """A batch in its file: where, the sha256 of the file and its size in bytes, and what it holds.

    `rows` are all attempts, `documents` all distinct contents. `documents_removed` are those that no
    other batch needs; 0 where this call only finished what an earlier one had begun.
    """

    path: Path
    sha256: str
    size: int
    rows: int
    documents: int
    documents_removed: int


class _Overtaken(Exception):
    """Somebody changed what was just being archived."""


def archive(databases: Databases, batch_id: int, writing: Progress, checking: Progress) -> Archived:
    """Put everything about a batch into one file, and remove its rows.

    Asked for a batch that is archived, it finishes what is left to do, and checks the file.

    Parameters
    ----------
    writing, checking
        Told how far the writing of the documents is, and then the reading back.

    Raises
    ------
    UnknownBatch, BatchStateError, ArchiveError, DatabaseError
        BatchStateError where the batch is open or was never staged; ArchiveError where the file
        cannot be written or does not hold what it must. Nothing was removed then.
    """
    with database_errors(), number_lock(databases, batch_id) as connection:
        with connection.begin():
            require_rights(connection, "the archive", configuration.RIGHTS)
            batch = batch_by_id(connection, batch_id)
        with databases.knowledge.connect() as knowledge:
            require_rights(knowledge, "the archive", dump.RIGHTS)
        if batch.archived_at is not None:
            if not _rows_are_here(databases, batch):
                return _finish(databases, connection, batch)
            with connection.begin():
                configuration.take_back(connection, batch_id)
        for _ in range(MOST_TRIES):
            with suppress(_Overtaken):
                return _archive_now(databases, connection, batch_id, writing, checking)
    raise ArchiveError(
        f"{batch.key} cannot be archived while a processor goes on writing its results: stop it, then "
        f"doceval archive {batch_id} again"
    )


def _archive_now(
    databases: Databases, connection: Connection, batch_id: int, writing: Progress, checking: Progress
) -> Archived:
    _require_archivable(databases, batch_id)
    with databases.knowledge.connect() as knowledge:
        dump.require_short_texts(knowledge, batch_id)
    batch, canonical, report = _with_report(databases, batch_id)
    if batch.status not in (*CLOSED, Status.FAILED_STAGING):
        raise _Overtaken
    folder = databases.settings.archives
    with unfinished(folder, batch_id) as file:
        written = write_archive(databases, batch, canonical, report, file, writing)
        if batch.status in CLOSED and written.result_digest != batch.result_digest:
            raise _Overtaken
        # A sensor that looked before this did may still open the batch again for a moment.
        with databases.doc_eval.connect() as afterwards:
            if batch_by_id(afterwards, batch_id).status is not batch.status:
                raise _Overtaken
        sha256 = check_archive(databases, Path(file.name), written, checking)
        path = folder / f"{batch.key}-{written.manifest.content_digest}.zip"
        give_name(Path(file.name), path)
    with connection.begin():
        when = written.manifest.archived_at
        if not configuration.record_archive(connection, batch, when, path.name, sha256):
            raise _Overtaken
    removed = _remove_rows(databases, connection, batch_id, written)
    with connection.begin():
        configuration.remove_files(connection, batch_id)
    return Archived(path, sha256, path.stat().st_size, written.rows.rows, len(written.documents), removed)


def _require_archivable(databases: Databases, batch_id: int) -> None:
    """Bring a batch's state up to its rows, and refuse one that is not done or has nothing stored."""
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        stored = stored_document_ids(connection, batch_id)
    if batch.status in (*OPEN, *CLOSED):
        settle(databases, batch)
        with databases.doc_eval.connect() as connection:
            batch = batch_by_id(connection, batch_id)
    if batch.status in (Status.SAVED, Status.FAILED_STAGING) and not stored:
        raise BatchStateError(f"{batch.key} has nothing to archive, it is {batch.status}: stage it first")
    if batch.status is Status.FAILED_STAGING:
        with databases.knowledge.connect() as knowledge:
            rows = queue.count_rows(knowledge, batch_id)
        if rows:
            raise BatchStateError(
                f"{batch.key} is {batch.status} with {rows} rows in the queue: doceval stage {batch_id} first"
            )
    elif batch.status not in CLOSED:
        raise BatchStateError(
            f"{batch.key} is {batch.status} and cannot be archived: {possible(batch.status)}"
        )


def _with_report(databases: Databases, batch_id: int) -> tuple[BatchRecord, str, Path]:
    """A batch, its sealed configuration, and the file of its newest report; all as they are now."""
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
        sealed = read_snapshot(connection, batch_id)
    if sealed is None:
        raise BatchStateError(f"{batch.key} has nothing to archive, it was never sealed: stage it first")
    with databases.knowledge.begin() as knowledge:
        queue.publish_config(knowledge, batch_id, sealed.canonical, sealed.sha256)
    report = find_report(databases, batch)
    if batch.reported_digest != batch.result_digest or report is None:
        report = write_report(databases, batch_id).path
    with databases.doc_eval.connect() as connection:
        return batch_by_id(connection, batch_id), sealed.canonical, report


def _remove_rows(databases: Databases, connection: Connection, batch_id: int, written: Written) -> int:
    """Remove what a file holds, if it still is what the file holds; returns how many documents.

    Where that is refused the batch is not archived after all.
    """
    with databases.knowledge.begin() as knowledge:
        try:
            write_exactly(knowledge)
            if dump.remove_rows(knowledge, batch_id) != written.rows:
                raise _Overtaken
            with connection.begin():
                others = configuration.used_by_others(connection, batch_id, written.documents)
            mine = [document for document in written.documents if document not in others]
            return dump.remove_documents(knowledge, mine)
        except Exception:
            # Before the commit, whose outcome might not be known. Who cannot say it now asks again.
            with suppress(DBAPIError), connection.begin():
                configuration.take_back(connection, batch_id)
            raise


def _rows_are_here(databases: Databases, batch: BatchRecord) -> bool:
    """Whether the rows of a batch that is called archived are still in KnowledgeDocuments.

    Its configuration goes with them, in one transaction, and before its files. Rows without the
    configuration, and a configuration without files, came later, from elsewhere.
    """
    with databases.knowledge.connect() as knowledge:
        published = dump.has_config(knowledge, batch.id)
        rows = queue.count_rows(knowledge, batch.id)
    with databases.doc_eval.connect() as connection:
        files = configuration.count_files(connection, batch.id)
    if published and not files:
        raise ArchiveError(
            f"{batch.key} is archived, and a configuration of it came later: find out which program wrote "
            "it, and delete it from batch_configs"
        )
    if rows and not published:
        raise ArchiveError(
            f"{batch.key} is archived, and {rows} rows of it came later: find out which program wrote them, "
            "and delete them"
        )
    return published


def _finish(databases: Databases, connection: Connection, batch: BatchRecord) -> Archived:
    """Do what an interrupted call may have left to do, and make sure that the file is there."""
    path = databases.settings.archives / str(batch.archive_file)
    with open_archive(path) as found:
        sha256, manifest = found.sha256(), found.manifest
    if sha256 != batch.archive_sha256:
        raise ArchiveError(
            f"{path} is not the file that {batch.key} was archived as: put a copy of that file there"
        )
    with connection.begin():
        configuration.remove_files(connection, batch.id)
    rows = manifest.members[ATTEMPTS].rows or 0
    return Archived(path, sha256, path.stat().st_size, rows, manifest.documents.count, 0)
