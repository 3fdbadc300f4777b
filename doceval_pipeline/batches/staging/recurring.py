"""Makes the batches of recurring evaluations: one for each time that has come, however often it is asked."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.listing import Listing, digest_of, files_of, list_files, list_in_time
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval import recurring, snapshot
from doceval_pipeline.doc_eval.definitions.apply import lock_definitions
from doceval_pipeline.doc_eval.definitions.schema import BatchDefinition, RecurringDefinition
from doceval_pipeline.doc_eval.definitions.upsert_batches import create_batch
from doceval_pipeline.doc_eval.recurring import Comparison, Occurrence, Outcome, RecurringRecord
from doceval_pipeline.documents.reading import CHANGED
from doceval_pipeline.documents.walk import REASONS_OF_FOLDERS, VANISHED, display_name
from doceval_pipeline.errors import StagingError
from doceval_pipeline.names import normal, normal_in_sql
from doceval_pipeline.recurrence import zone
from doceval_pipeline.reports.formatting import counted

NOTHING_NEW = "nothing is new or changed"
# Why a file could not be read that may be readable by now, although it looks as before. After other reasons
# one more batch tries.
MAY_BE_READABLE = (CHANGED, VANISHED)
_TAKEN = text(f"SELECT EXISTS (SELECT 1 FROM batches WHERE {normal_in_sql('batch_name')} = :name)")
_REQUEST = text("UPDATE batches SET stage_requested_at = now() WHERE id = :id")


def look_for_arrivals(
    databases: Databases, record: RecurringRecord, is_over: Callable[[], bool] = lambda: False
) -> datetime | None:
    """Look at the folders of a recurring evaluation; the time of the batch to make now, or None.

    Names, sizes and times are looked at, and no file is read. Nothing is written where nothing is new.
    Memory does not grow with the number of files, and no transaction is open while folders are walked.

    Parameters
    ----------
    is_over
        Asked before each file; the look is given up once it is true.

    Raises
    ------
    StagingError
        A folder is away, which is recorded as an occurrence, or the look was given up.
    DatabaseError
    """
    record.require_usable()
    with database_errors(), databases.doc_eval.begin() as connection:
        basis = _basis(connection, record)
        has_unread = recurring.has_unread(connection, record.id, MAY_BE_READABLE)
    listed = (record.definition, basis.folders, basis.now, databases.settings, is_over)
    try:
        digest = digest_of(files_of(*listed))
    except StagingError as error:
        _record_failed_look(databases, record, str(error))
        raise
    _require_time(is_over)
    if digest == record.known_digest and not has_unread and record.newest_outcome is not Outcome.FAILED:
        return None
    if digest == record.seen_digest:
        return record.arrivals_at
    with list_files(*listed) as listing, database_errors():
        _require_time(is_over)
        with databases.doc_eval.begin() as connection:
            # Its batch is being made, or was made meanwhile: the next look finds what has arrived since.
            if not recurring.try_to_lock_recurring(connection, record.id):
                return None
            current = recurring.read_again(connection, record)
            if _basis(connection, current) != basis:
                return None
            _note_arrivals(connection, current, listing)
            return recurring.read_again(connection, record).arrivals_at


def make_occurrence(
    databases: Databases, record: RecurringRecord, due_at: datetime | None = None
) -> Occurrence:
    """Make the batch of one time of a recurring evaluation, or record why there is none.

    The batch, its sealed configuration, the files it was assigned and the record are written in one
    transaction, which begins after the folders were walked; a time that has its record is left alone.

    Parameters
    ----------
    due_at
        Its time; None for one by hand, which is now.

    Raises
    ------
    UnknownRecurring
        It was deleted.
    RecurringError
        Its definition cannot be used, or its time need no longer be made.
    DatabaseError
    """
    moment = due_at
    while True:
        with database_errors(), databases.doc_eval.begin() as connection:
            current = recurring.read_again(connection, record)
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
            recurring.lock_recurring(connection, record.id)
            current = recurring.read_again(connection, record)
            recorded = _recorded(connection, current, moment, due_at)
            if recorded is not None:
                return recorded
            # Otherwise the folders are walked again, because another occurrence knows other files now.
            if _basis(connection, current) == basis:
                return _record(connection, current, moment, listed)


@dataclass(frozen=True)
class _Basis:
    """What files are listed for and compared with; `now` is the time at which this was read."""

    definition: RecurringDefinition
    folders: list[dict[str, object]]
    missing: tuple[str, str] | None
    known: tuple[Any, ...]
    now: datetime = field(compare=False)


def _basis(connection: Connection, record: RecurringRecord) -> _Basis:
    definition = record.definition
    return _Basis(
        definition,
        recurring.folders_of(connection, definition),
        recurring.missing_reference(connection, definition),
        *recurring.known_now(connection, record.id),
    )


def _recorded(
    connection: Connection, record: RecurringRecord, moment: datetime, due_at: datetime | None
) -> Occurrence | None:
    """What was recorded of a time; None where it may be made."""
    recorded = recurring.occurrence_at(connection, record.id, moment)
    if recorded is None:
        record.require_usable()
        if due_at is not None:
            record.require_pending(due_at)
    return recorded


def _list(databases: Databases, basis: _Basis) -> Listing | StagingError:
    """List the files of an occurrence, or find out why that cannot be done."""
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
    # What waited becomes a batch of another time.
    recurring.forget_arrivals(connection, record.id)
    return recurring.record_occurrence(connection, record.id, moment, Outcome.FAILED, Comparison(), reason)


def _require_time(is_over: Callable[[], bool]) -> None:
    if is_over():
        raise StagingError("its folders take too long to look at: use a schedule instead of on_arrival")


def _note_arrivals(connection: Connection, record: RecurringRecord, listing: Listing) -> None:
    """Compare the folders with what is known of them, and note since when something is new."""
    files, skipped = choose_files(connection, record, listing)
    if files.new + files.changed:
        recurring.see_arrivals(connection, record.id, listing.digest)
        return
    # Otherwise each look would compare all files again, as long as one that vanished does not return.
    recurring.forget_unread(connection, record.id, MAY_BE_READABLE)
    recurring.know_digest(connection, record.id, listing.digest)
    # The folder that was away is back.
    if record.newest_outcome is Outcome.FAILED and _is_free(connection, record):
        values = (record.now, Outcome.SKIPPED, files, skipped)
        recurring.record_occurrence(connection, record.id, *values)


def _record_failed_look(databases: Databases, record: RecurringRecord, reason: str) -> None:
    """Record that no batch is made of arrivals; once, as long as the reason stays."""
    with database_errors(), databases.doc_eval.begin() as connection:
        if not recurring.try_to_lock_recurring(connection, record.id):
            return
        current = recurring.read_again(connection, record)
        is_known = (current.newest_outcome, current.newest_reason) == (Outcome.FAILED, reason)
        if not is_known and _is_free(connection, current):
            values = (current.now, Outcome.FAILED, Comparison(), reason)
            recurring.record_occurrence(connection, record.id, *values)


def _is_free(connection: Connection, record: RecurringRecord) -> bool:
    """Whether no occurrence has the present as its time."""
    return recurring.occurrence_at(connection, record.id, record.now) is None


def _make(connection: Connection, record: RecurringRecord, due_at: datetime, listing: Listing) -> Occurrence:
    definition = record.definition
    lock_definitions(connection)
    # Somebody may have taken one away while the folders were walked.
    require_references(recurring.missing_reference(connection, definition))
    files, skipped = choose_files(connection, record, listing)
    recurring.forget_gone(connection, record.id, definition, REASONS_OF_FOLDERS)
    if skipped is not None:
        recurring.know_digest(connection, record.id, listing.digest)
        return recurring.record_occurrence(connection, record.id, due_at, Outcome.SKIPPED, files, skipped)
    leave_unchanged_out(connection, record)
    batch = _batch(definition, _free_name(connection, record, due_at))
    number = create_batch(connection, batch, definition.max_documents, definition.max_cost)
    snapshot.seal(connection, number)
    batch_documents.assign_found(connection, number)
    if definition.scope != "all":
        recurring.mark_of_changes(connection, number)
    recurring.know_files(connection, record.id, number)
    recurring.know_digest(connection, record.id, listing.digest)
    connection.execute(_REQUEST, {"id": number})
    return recurring.record_occurrence(connection, record.id, due_at, Outcome.MADE, files, batch_id=number)


def choose_files(
    connection: Connection, record: RecurringRecord, listing: Listing
) -> tuple[Comparison, str | None]:
    """Compare listed files with those that are known; they are in the table `found` afterwards.

    Returns
    -------
    tuple[Comparison, str | None]
        The files beside those that are known, and why no batch would be made.
    """
    definition = record.definition
    batch_documents.list_found(connection, listing)
    files = recurring.compare_found(connection, record.id, definition, REASONS_OF_FOLDERS, MAY_BE_READABLE)
    is_empty = not (files.new + files.changed + (files.unchanged if definition.scope == "all" else 0))
    if is_empty or (definition.skip_if_nothing_new and not files.new + files.changed):
        return files, _why_skipped(connection, record, files)
    return files, None


def leave_unchanged_out(connection: Connection, record: RecurringRecord) -> None:
    """Leave files that the batch does not get out of the table `found`."""
    if record.definition.scope != "all":
        recurring.keep_new_and_changed(connection, record.id, MAY_BE_READABLE)


def require_references(missing: tuple[str, str] | None) -> None:
    """Require that nothing that a definition names is missing.

    Raises
    ------
    StagingError
    """
    if missing is not None:
        kind, name = missing
        raise StagingError(f"{kind} {name!r} no longer exists: apply the evaluation file again, or change it")


def _why_skipped(connection: Connection, record: RecurringRecord, files: Comparison) -> str:
    empty = recurring.empty_folder(connection, record.id, record.definition)
    if empty is not None:
        return (
            f"nothing is new, and folder {display_name(empty[0].encode())} is empty, where "
            f"{counted(empty[1], 'file was', 'files were')} known: check that its file system is mounted"
        )
    return NOTHING_NEW if files.unchanged else "no usable document is in its folders"


def _batch(definition: RecurringDefinition, name: str) -> BatchDefinition:
    """The batch of an occurrence, with all that a recurring evaluation and a batch have in common."""
    common = BatchDefinition.model_fields.keys() & RecurringDefinition.model_fields.keys()
    return BatchDefinition.model_construct(
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
