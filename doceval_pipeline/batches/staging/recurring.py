"""Makes the batches of recurring evaluations: one per time, however often it is requested."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.recurring_listing import (
    Listing,
    digest_of,
    files_of,
    list_files,
    list_in_time,
)
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval import snapshot
from doceval_pipeline.doc_eval.definitions.apply import lock_definitions
from doceval_pipeline.doc_eval.definitions.schema import BatchDefinition, RecurringDefinition
from doceval_pipeline.doc_eval.definitions.upsert_batches import create_batch
from doceval_pipeline.doc_eval.recurring import known_files, occurrences, stored
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.documents.reading import CHANGED
from doceval_pipeline.documents.walk import REASONS_OF_FOLDERS, VANISHED, display_name
from doceval_pipeline.domain.recurring import FileComparison, Occurrence, OccurrenceOutcome
from doceval_pipeline.errors import StagingError
from doceval_pipeline.names import normal, normal_in_sql
from doceval_pipeline.recurrence import zone
from doceval_pipeline.reports.formatting import counted

NOTHING_NEW = "nothing is new or changed"
# Reasons for an unreadable file that may no longer apply although its size and time are unchanged. For any
# other reason, only one more batch tries to read it.
MAY_BE_READABLE = (CHANGED, VANISHED)
_TAKEN = text(f"SELECT EXISTS (SELECT 1 FROM batches WHERE {normal_in_sql('batch_name')} = :name)")
_REQUEST = text("UPDATE batches SET stage_requested_at = now() WHERE id = :id")


def find_arrivals(
    databases: Databases, record: RecurringRecord, should_stop: Callable[[], bool] = lambda: False
) -> datetime | None:
    """Poll the folders of a recurring evaluation; return the time of the batch to make now, or None.

    Compares names, sizes and times, and reads no file. Writes nothing if nothing is new. Memory does not grow
    with the number of files, and no transaction is open while folders are walked.

    Parameters
    ----------
    should_stop
        Called before each file; the poll stops once it returns True.

    Raises
    ------
    StagingError
        A folder is missing, which is recorded as an occurrence, or the poll was stopped.
    DatabaseError
    """
    record.require_usable()
    with database_errors(), databases.doc_eval.begin() as connection:
        basis = _basis(connection, record)
        has_unread = known_files.has_unread(connection, record.id, MAY_BE_READABLE)
    arguments = (record.definition, basis.folders, basis.now, databases.settings, should_stop)
    try:
        digest = digest_of(files_of(*arguments))
    except StagingError as error:
        _record_failed_poll(databases, record, str(error))
        raise
    _require_time(should_stop)
    if (
        digest == record.known_digest
        and not has_unread
        and record.newest_outcome is not OccurrenceOutcome.FAILED
    ):
        return None
    if digest == record.seen_digest:
        return record.arrivals_at
    with list_files(*arguments) as listing, database_errors():
        _require_time(should_stop)
        with databases.doc_eval.begin() as connection:
            # Its batch is being made or was made meanwhile: the next poll finds later arrivals.
            if not stored.try_to_lock_recurring(connection, record.id):
                return None
            current = stored.read_again(connection, record)
            if _basis(connection, current) != basis:
                return None
            _note_arrivals(connection, current, listing)
            return stored.read_again(connection, record).arrivals_at


def make_occurrence(
    databases: Databases, record: RecurringRecord, due_at: datetime | None = None
) -> Occurrence:
    """Make the batch of one time of a recurring evaluation, or record why there is none.

    One transaction, which begins after the folders were walked, writes the batch, its sealed configuration,
    its files and the occurrence. A time that already has an occurrence is not changed.

    Parameters
    ----------
    due_at
        The time; None for a request by a person, which means now.

    Raises
    ------
    UnknownRecurring
        The recurring evaluation was deleted.
    RecurringError
        Its definition cannot be used, or the batch of this time may no longer be made.
    DatabaseError
    """
    moment = due_at
    while True:
        with database_errors(), databases.doc_eval.begin() as connection:
            current = stored.read_again(connection, record)
            moment = moment or current.now
            recorded = _recorded(connection, current, moment, due_at)
            if recorded is not None:
                return recorded
            basis = _basis(connection, current)
        with ExitStack() as stack:
            listed = _list(databases, basis)
            if isinstance(listed, Listing):
                stack.enter_context(listed)
            stack.enter_context(database_errors())
            connection = stack.enter_context(databases.doc_eval.begin())
            stored.lock_recurring(connection, record.id)
            current = stored.read_again(connection, record)
            recorded = _recorded(connection, current, moment, due_at)
            if recorded is not None:
                return recorded
            # Otherwise the folders are walked again, because another occurrence changed the known files.
            if _basis(connection, current) == basis:
                return _record(connection, current, moment, listed)


@dataclass(frozen=True)
class _Basis:
    """What a listing of files depends on; `now` is the server's time when this was read."""

    definition: RecurringDefinition
    folders: list[dict[str, object]]
    missing: tuple[str, str] | None
    known_files: tuple[Any, ...]
    """The version of the known files."""
    now: datetime = field(compare=False)


def _basis(connection: Connection, record: RecurringRecord) -> _Basis:
    definition = record.definition
    version, now = occurrences.known_files_version(connection, record.id)
    return _Basis(
        definition=definition,
        folders=stored.configured_folders(connection, definition),
        missing=stored.missing_reference(connection, definition),
        known_files=version,
        now=now,
    )


def _recorded(
    connection: Connection, record: RecurringRecord, moment: datetime, due_at: datetime | None
) -> Occurrence | None:
    """The occurrence of a time; None if its batch may be made."""
    recorded = occurrences.occurrence_at(connection, record.id, moment)
    if recorded is None:
        record.require_usable()
        if due_at is not None:
            record.require_pending(due_at)
    return recorded


def _list(databases: Databases, basis: _Basis) -> Listing | StagingError:
    """List the files of an occurrence, or return the error."""
    try:
        require_references(basis.missing)
        return list_in_time(basis.definition, basis.folders, basis.now, databases.settings)
    except StagingError as error:
        return error


def _record(
    connection: Connection, record: RecurringRecord, moment: datetime, listed: Listing | StagingError
) -> Occurrence:
    """Make the batch of a time, or record why there is none."""
    with connection.begin_nested() as attempt:
        try:
            if isinstance(listed, StagingError):
                raise listed
            return _make(connection, record, moment, listed)
        except StagingError as error:
            attempt.rollback()
            reason = str(error)
    # Waiting arrivals become a batch of another time.
    stored.forget_arrivals(connection, record.id)
    return occurrences.record_occurrence(
        connection, record.id, moment, OccurrenceOutcome.FAILED, FileComparison(), reason
    )


def _require_time(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise StagingError("polling its folders takes too long: use a schedule instead of on_arrival")


def _note_arrivals(connection: Connection, record: RecurringRecord, listing: Listing) -> None:
    """Compare the folders with the known files, and record when new files began to wait."""
    files, skipped = choose_files(connection, record, listing)
    if files.new + files.changed:
        stored.note_arrivals(connection, record.id, listing.digest)
        return
    # Otherwise each poll would compare all files again until a file that vanished returns.
    known_files.forget_unread(connection, record.id, MAY_BE_READABLE)
    stored.remember_digest(connection, record.id, listing.digest)
    # The folder that was missing is back.
    if record.newest_outcome is OccurrenceOutcome.FAILED and _is_free(connection, record):
        occurrences.record_occurrence(
            connection, record.id, record.now, OccurrenceOutcome.SKIPPED, files, reason=skipped
        )


def _record_failed_poll(databases: Databases, record: RecurringRecord, reason: str) -> None:
    """Record why no batch of arrivals is made; only once while the reason stays the same."""
    with database_errors(), databases.doc_eval.begin() as connection:
        if not stored.try_to_lock_recurring(connection, record.id):
            return
        current = stored.read_again(connection, record)
        is_known = (current.newest_outcome, current.newest_reason) == (OccurrenceOutcome.FAILED, reason)
        if not is_known and _is_free(connection, current):
            occurrences.record_occurrence(
                connection, record.id, current.now, OccurrenceOutcome.FAILED, FileComparison(), reason=reason
            )


def _is_free(connection: Connection, record: RecurringRecord) -> bool:
    """Whether no occurrence has the current time."""
    return occurrences.occurrence_at(connection, record.id, record.now) is None


def _make(connection: Connection, record: RecurringRecord, due_at: datetime, listing: Listing) -> Occurrence:
    definition = record.definition
    lock_definitions(connection)
    # A reference may have been deleted while the folders were walked.
    require_references(stored.missing_reference(connection, definition))
    files, skipped = choose_files(connection, record, listing)
    known_files.forget_gone(connection, record.id, definition, REASONS_OF_FOLDERS)
    if skipped is not None:
        stored.remember_digest(connection, record.id, listing.digest)
        return occurrences.record_occurrence(
            connection, record.id, due_at, OccurrenceOutcome.SKIPPED, files, skipped
        )
    remove_unchanged(connection, record)
    batch = _batch(definition, _free_name(connection, record, due_at))
    batch_id = create_batch(connection, batch, definition.max_documents, definition.max_cost)
    snapshot.seal(connection, batch_id)
    batch_documents.assign_found(connection, batch_id)
    if definition.scope != "all":
        occurrences.mark_changes_only(connection, batch_id)
    known_files.remember_files(connection, record.id, batch_id)
    stored.remember_digest(connection, record.id, listing.digest)
    request_staging(connection, batch_id)
    return occurrences.record_occurrence(
        connection, record.id, due_at, OccurrenceOutcome.MADE, files, batch_id=batch_id
    )


def request_staging(connection: Connection, batch_id: int) -> None:
    """Request the staging of a new batch from the sensors, until it has begun."""
    connection.execute(_REQUEST, {"id": batch_id})


def choose_files(
    connection: Connection, record: RecurringRecord, listing: Listing
) -> tuple[FileComparison, str | None]:
    """Put listed files into the table `found`, and compare them with the known files.

    Returns
    -------
    tuple[FileComparison, str | None]
        The comparison, and why no batch would be made; None if one would.
    """
    definition = record.definition
    batch_documents.store_found(connection, listing)
    files = known_files.compare_files(connection, record.id, definition, REASONS_OF_FOLDERS, MAY_BE_READABLE)
    is_empty = not (files.new + files.changed + (files.unchanged if definition.scope == "all" else 0))
    if is_empty or (definition.skip_if_nothing_new and not files.new + files.changed):
        return files, _why_skipped(connection, record, files)
    return files, None


def remove_unchanged(connection: Connection, record: RecurringRecord) -> None:
    """Remove files that the batch does not include from the table `found`."""
    if record.definition.scope != "all":
        known_files.keep_new_and_changed(connection, record.id, MAY_BE_READABLE)


def require_references(missing: tuple[str, str] | None) -> None:
    """Require that no reference of a definition is missing.

    Raises
    ------
    StagingError
    """
    if missing is not None:
        kind, name = missing
        raise StagingError(f"{kind} {name!r} no longer exists: apply the evaluation file again, or change it")


def _why_skipped(connection: Connection, record: RecurringRecord, files: FileComparison) -> str:
    empty = known_files.empty_folder(connection, record.id, record.definition)
    if empty is not None:
        path, files_known = empty
        return (
            f"nothing is new, and folder {display_name(path.encode())} is empty, where "
            f"{counted(files_known, 'file was', 'files were')} known: check that its file system is mounted"
        )
    return NOTHING_NEW if files.unchanged else "no usable document is in its folders"


def _batch(definition: RecurringDefinition, name: str) -> BatchDefinition:
    """The definition of an occurrence's batch, with the settings of the recurring evaluation."""
    common = BatchDefinition.model_fields.keys() & RecurringDefinition.model_fields.keys()
    return BatchDefinition.model_construct(
        **{key: getattr(definition, key) for key in common - {"name"}}, name=name, stage_after=None
    )


def _free_name(connection: Connection, record: RecurringRecord, due_at: datetime) -> str:
    """The first free name of a batch: with the date, then also with the time, then numbered."""
    return first_free_name(connection, _names(record, due_at))


def first_free_name(connection: Connection, names: Iterable[str]) -> str:
    """The first of endless names that no batch has."""
    return next(name for name in names if not connection.scalar(_TAKEN, {"name": normal(name)}))


def _names(record: RecurringRecord, due_at: datetime) -> Iterator[str]:
    local = due_at.astimezone(zone(record.definition.timezone))
    yield f"{record.name} {local:%Y-%m-%d}"
    yield f"{record.name} {local:%Y-%m-%d %H:%M}"
    number = 2
    while True:
        yield f"{record.name} {local:%Y-%m-%d %H:%M} ({number})"
        number += 1
