"""Makes the batches of recurring evaluations: one for each time that has come, however often it is asked."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.folders import found_files
from doceval_pipeline.doc_eval import batch_documents, recurring, snapshot
from doceval_pipeline.doc_eval.apply import create_batch, lock_definitions
from doceval_pipeline.doc_eval.batch_documents import FoundFile
from doceval_pipeline.doc_eval.definitions import Batch, Recurring
from doceval_pipeline.doc_eval.recurring import Comparison, Occurrence, Outcome, RecurringRecord
from doceval_pipeline.documents.walk import ASSIGNED, REASONS_OF_FOLDERS, SKIPPED
from doceval_pipeline.errors import StagingError
from doceval_pipeline.names import normal, normal_in_sql
from doceval_pipeline.recurrence import zone

NOTHING_NEW = "nothing is new or changed"
STILL_WRITTEN = "still being written"
# A batch of arrivals is made although more arrive all the time, after this many times `quiet_for`.
MOST_WAITS = 10
_TAKEN = text(f"SELECT EXISTS (SELECT 1 FROM batches WHERE {normal_in_sql('batch_name')} = :name)")
_REQUEST = text("UPDATE batches SET stage_requested_at = now() WHERE id = :id")


def look_for_arrivals(databases: Databases, record: RecurringRecord) -> datetime | None:
    """Look at the folders of a recurring evaluation; the time of the batch to make now, or None.

    Names, sizes and times are looked at, and no file is read. Nothing is written where nothing is new.

    Raises
    ------
    StagingError
        A folder is away.
    DatabaseError
    """
    digest = _Digest()
    with database_errors(), databases.doc_eval.begin() as connection:
        found = list(digest.of(_found(databases, connection, record.definition)))
        if digest.text == record.known_digest:
            return None
        recurring.lock_recurring(connection, record.id)
        batch_documents.list_found(connection, found)
        files = recurring.compare_found(connection, record.id)
        if not files.new + files.changed:
            recurring.know_digest(connection, record.id, digest.text)
            return None
        recurring.see_arrivals(connection, record.id, digest.text)
        current = recurring.read_again(connection, record)
    quiet = timedelta(seconds=record.definition.quiet_for)
    if current.waiting_from is None or current.changed_at is None:
        return None
    is_quiet = current.now - current.changed_at >= quiet
    is_late = current.now - current.waiting_from >= MOST_WAITS * quiet
    return current.waiting_from if is_quiet or is_late else None


def make_occurrence(databases: Databases, record: RecurringRecord, due_at: datetime) -> Occurrence:
    """Make the batch of one time of a recurring evaluation, or record why there is none.

    The batch, its sealed configuration, the files it was assigned and the record are written in one
    transaction; a time that has its record is left alone.

    Raises
    ------
    UnknownRecurring
        It was deleted.
    DatabaseError
    """
    with database_errors(), databases.doc_eval.begin() as connection:
        recurring.lock_recurring(connection, record.id)
        recorded = recurring.occurrence_at(connection, record.id, due_at)
        if recorded is not None:
            return recorded
        current = recurring.read_again(connection, record)
        with connection.begin_nested() as attempt:
            try:
                return _make(databases, connection, current, due_at)
            except StagingError as error:
                attempt.rollback()
                reason = str(error)
        return recurring.record_occurrence(
            connection, record.id, due_at, Outcome.FAILED, Comparison(), reason
        )


def _make(
    databases: Databases, connection: Connection, record: RecurringRecord, due_at: datetime
) -> Occurrence:
    definition, digest = record.definition, _Digest()
    found = digest.of(_found(databases, connection, definition))
    if definition.on_arrival:
        found = _settled(found, record.now - timedelta(seconds=definition.quiet_for))
    batch_documents.list_found(connection, found)
    files = recurring.compare_found(connection, record.id)
    is_all = definition.scope == "all"
    is_empty = not (files.new + files.changed + (files.unchanged if is_all else 0))
    if is_empty or (definition.skip_if_nothing_new and not files.new + files.changed):
        recurring.know_digest(connection, record.id, digest.text)
        return recurring.record_occurrence(
            connection, record.id, due_at, Outcome.SKIPPED, files, _why_skipped(files)
        )
    recurring.note_usable(connection)
    if not is_all:
        recurring.keep_new_and_changed(connection, record.id)
    lock_definitions(connection)
    batch = _batch(definition, _free_name(connection, record, due_at))
    number = create_batch(connection, batch, definition.max_documents, definition.max_cost)
    snapshot.seal(connection, number)
    batch_documents.assign_found(connection, number)
    recurring.know_files(connection, record.id, number, REASONS_OF_FOLDERS)
    recurring.know_digest(connection, record.id, digest.text)
    connection.execute(_REQUEST, {"id": number})
    return recurring.record_occurrence(connection, record.id, due_at, Outcome.MADE, files, batch_id=number)


def _found(databases: Databases, connection: Connection, definition: Recurring) -> Iterator[FoundFile]:
    choice = {"include": definition.include, "exclude": definition.exclude}
    folders = recurring.folders_of(connection, definition)
    return found_files({"batch": choice, "folders": folders}, databases.settings)


def _settled(found: Iterable[FoundFile], since: datetime) -> Iterator[FoundFile]:
    """What was found, without files that were written after a moment: they are taken the next time."""
    latest = int(since.timestamp() * 1e9)
    for file in found:
        is_fresh = file.state == ASSIGNED and (file.modified_ns or 0) > latest
        yield replace(file, state=SKIPPED, reason=STILL_WRITTEN) if is_fresh else file


class _Digest:
    """A digest of what is found in folders: of names, states, sizes and times, in the order of the walk."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def of(self, found: Iterable[FoundFile]) -> Iterator[FoundFile]:
        """Hand on what was found, and take it into the digest."""
        for file in found:
            self._hash.update(
                b"%d/%b\0%b %d %d\n"
                % (file.folder_id, file.raw_path, file.state.encode(), file.size or 0, file.modified_ns or 0)
            )
            yield file

    @property
    def text(self) -> str:
        """Of all that was handed on."""
        return self._hash.hexdigest()


def _why_skipped(files: Comparison) -> str:
    return NOTHING_NEW if files.unchanged else "no usable document is in its folders"


def _batch(definition: Recurring, name: str) -> Batch:
    """The batch of an occurrence, with all that a recurring evaluation and a batch have in common."""
    common = Batch.model_fields.keys() & Recurring.model_fields.keys()
    return Batch.model_construct(
        **{key: getattr(definition, key) for key in common - {"name"}}, name=name, stage_after=None
    )


def _free_name(connection: Connection, record: RecurringRecord, due_at: datetime) -> str:
    """The first name that no batch has: with the date, then with the time too, and so on."""
    taken = (name for name in _names(record, due_at) if not connection.scalar(_TAKEN, {"name": normal(name)}))
    return next(taken)


def _names(record: RecurringRecord, due_at: datetime) -> Iterator[str]:
    local = due_at.astimezone(zone(record.definition.timezone))
    yield f"{record.name} {local:%Y-%m-%d}"
    yield f"{record.name} {local:%Y-%m-%d %H:%M}"
    number = 2
    while True:
        yield f"{record.name} {local:%Y-%m-%d %H:%M} ({number})"
        number += 1
