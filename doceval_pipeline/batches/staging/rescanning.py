"""A new look at a batch's folders: what is new, changed or gone since the assignment was frozen.

Only the assignment changes here; staging then stores and queues what is new, and sets the rows of
contents aside that are no longer the batch's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.folders import found_files
from doceval_pipeline.batches.staging.steps import Assigned, assign_documents, staging_step
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.recurring.occurrences import has_only_changes
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.documents.reading import DocumentRejected, hash_document
from doceval_pipeline.documents.walk import REASONS_OF_FOLDERS
from doceval_pipeline.errors import StagingError
from doceval_pipeline.reports.formatting import counted


@dataclass(frozen=True)
class Rescanned:
    """Files that are new, that hold other bytes than before, and that are gone or unusable now."""

    new: int
    changed: int
    gone: int

    @property
    def sentence(self) -> str:
        """What was found, for a log."""
        new = counted(self.new, "new file", "new files")
        return f"the rescan found {new}, {self.changed:,} changed and {self.gone:,} gone"


NOTHING_RESCANNED = Rescanned(0, 0, 0)


def assign(databases: Databases, batch_id: int, new_look: bool) -> tuple[Assigned, Rescanned]:
    """Step 2 of staging; with `new_look` after a rescan of the folders, where the batch was staged before.

    Raises
    ------
    UnknownBatch, BatchStateError, StagingError, DatabaseError
        BatchStateError where a rescan is asked for and the batch's state does not allow it.
    """
    found = NOTHING_RESCANNED
    if new_look:
        with database_errors(), databases.doc_eval.connect() as connection:
            batch_by_id(connection, batch_id).require_reprocessable()
        found = rescan(databases, batch_id)
    return assign_documents(databases, batch_id), found


def rescan(databases: Databases, batch_id: int) -> Rescanned:
    """Look at the folders of a batch again; all of it in one transaction.

    Raises
    ------
    UnknownBatch, StagingError, DatabaseError
        StagingError also where a folder is gone; nothing is changed then.
    """
    with staging_step(databases, batch_id) as connection, connection.begin():
        sealed = read_snapshot(connection, batch_id)
        if sealed is None:
            raise StagingError(f"batch {batch_id} was never staged: stage it first")
        max_bytes = databases.settings.max_document_bytes
        files.remember_found(connection, found_files(sealed.config, databases.settings))
        is_closed = has_only_changes(connection, batch_id)
        new = 0 if is_closed else files.assign_new(connection, batch_id)
        gone = files.mark_gone(connection, batch_id, REASONS_OF_FOLDERS)
        changed = list(_changed(connection, batch_id, max_bytes))
        files.assign_again(connection, batch_id, changed)
        return Rescanned(new, len(changed), gone)


def _changed(connection: Connection, batch_id: int, max_bytes: int) -> Iterator[int]:
    """The staged files whose bytes are no longer those that are stored; by `documents.id`."""
    for file in files.staged_files(connection, batch_id):
        try:
            sha256, _ = hash_document(Path(file.folder), file.raw_path, max_bytes)
        except DocumentRejected:
            # Storing it will find the same, and record the reason.
            yield file.document_id
        else:
            if sha256 != file.sha256:
                yield file.document_id
