"""Rescans a batch's folders for files that are new, changed or gone since the assignment was frozen.

Only the assignment changes here. Staging then stores and queues new documents, and withdraws the rows of
documents that left the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.folders import found_files
from doceval_pipeline.batches.staging.steps import Assigned, assign_documents, staging_step
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.recurring.occurrences import has_only_changes
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.documents.reading import DocumentRejected
from doceval_pipeline.documents.sources import hash_document
from doceval_pipeline.documents.walk import REASONS_OF_FOLDERS
from doceval_pipeline.errors import StagingError
from doceval_pipeline.portions import Progress, ignore_progress
from doceval_pipeline.reports.formatting import counted


@dataclass(frozen=True)
class Rescanned:
    """How many files are new, have different bytes, and are gone or no longer usable."""

    new: int
    changed: int
    gone: int

    @property
    def sentence(self) -> str:
        """The counts, for a log."""
        new = counted(self.new, "new file", "new files")
        return f"the rescan found {new}, {self.changed:,} changed and {self.gone:,} gone"


NOTHING_RESCANNED = Rescanned(0, 0, 0)


def assign(
    databases: Databases, batch_id: int, progress: Progress, *, rescan: bool
) -> tuple[Assigned, Rescanned]:
    """Run step 2 of staging; with `rescan`, rescan the folders of a staged batch first.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
        BatchStateError if the batch's state does not allow a rescan.
    """
    rescanned = NOTHING_RESCANNED
    if rescan:
        with database_errors(), databases.doc_eval.connect() as connection:
            batch_by_id(connection, batch_id).require_reprocessable()
        rescanned = rescan_folders(databases, batch_id, progress)
    return assign_documents(databases, batch_id, progress), rescanned


def rescan_folders(databases: Databases, batch_id: int, progress: Progress = ignore_progress) -> Rescanned:
    """Rescan the folders of a batch, in one transaction.

    Objects on object storage whose size, time and ETag are unchanged are not read.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
        StagingError also if a folder is missing; then nothing changes.
    """
    with staging_step(databases, batch_id) as (connection, _), connection.begin():
        sealed = read_snapshot(connection, batch_id)
        if sealed is None:
            raise StagingError(f"batch {batch_id} was never staged: stage it first")
        max_bytes = databases.settings.max_document_bytes
        files.remember_found(connection, found_files(sealed.config, databases.settings), progress)
        only_changes = has_only_changes(connection, batch_id)
        new = 0 if only_changes else files.assign_new(connection, batch_id)
        gone = files.mark_gone(connection, batch_id, REASONS_OF_FOLDERS)
        changed = list(_changed(connection, batch_id, max_bytes))
        files.assign_again(connection, batch_id, changed)
        return Rescanned(new, len(changed), gone)


def _changed(connection: Connection, batch_id: int, max_bytes: int) -> Iterator[int]:
    """The ids of staged files whose bytes differ from the stored documents."""
    other_versions = files.follow_versions(connection, batch_id)
    for file in files.staged_files(connection, batch_id, other_versions):
        try:
            sha256, _ = hash_document(file.folder, file.raw_path, max_bytes, file.etag)
        except DocumentRejected:
            # Storing the file fails for the same reason, and records it.
            yield file.file_id
        else:
            if sha256 != file.sha256:
                yield file.file_id
