"""Makes the batches of recurring evaluations: one for each time that has come, however often it is asked."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.folders import found_files
from doceval_pipeline.doc_eval import batch_documents, recurring, snapshot
from doceval_pipeline.doc_eval.apply import create_batch, lock_definitions
from doceval_pipeline.doc_eval.batch_documents import FoundFile
from doceval_pipeline.doc_eval.definitions import Batch, Recurring
from doceval_pipeline.doc_eval.recurring import Comparison, Occurrence, Outcome, RecurringRecord
from doceval_pipeline.documents.reading import CHANGED
from doceval_pipeline.documents.walk import ASSIGNED, REASONS_OF_FOLDERS, SKIPPED, VANISHED, display_name
from doceval_pipeline.errors import StagingError
from doceval_pipeline.names import normal, normal_in_sql
from doceval_pipeline.recurrence import zone

NOTHING_NEW = "nothing is new or changed"
STILL_WRITTEN = "still being written"
# Why a file could not be read that may be readable by now, although it looks as before.
MAY_BE_READABLE = (CHANGED, VANISHED)
_TAKEN = text(f"SELECT EXISTS (SELECT 1 FROM batches WHERE {normal_in_sql('batch_name')} = :name)")
_REQUEST = text("UPDATE batches SET stage_requested_at = now() WHERE id = :id")


def look_for_arrivals(
    databases: Databases, record: RecurringRecord, is_over: Callable[[], bool] = lambda: False
) -> datetime | None:
    """Look at the folders of a recurring evaluation; the time of the batch to make now, or None.

    Names, sizes and times are looked at, and no file is read. Nothing is written where nothing is new.
    Memory does not grow with the number of files.

    Parameters
    ----------
    is_over
        Asked before each file; the look is given up once it is true.

    Raises
    ------
    StagingError
        A folder is away, or the look was given up.
    DatabaseError
    """
    record.require_usable()
    with database_errors(), databases.doc_eval.begin() as connection:
        digest = _digest_of(_found(databases, connection, record, is_over))
        if is_over():
            raise StagingError("its folders take too long to look at: use a schedule instead of on_arrival")
        if digest == record.known_digest and not recurring.has_unread(connection, record.id, MAY_BE_READABLE):
            return None
        if digest == record.seen_digest:
            return record.arrivals_at
        # Its batch is being made, which takes what has arrived.
        if not recurring.try_to_lock_recurring(connection, record.id):
            return None
        _note_arrivals(databases, connection, record, is_over)
        return recurring.read_again(connection, record).arrivals_at


def make_occurrence(
    databases: Databases, record: RecurringRecord, due_at: datetime | None = None
) -> Occurrence:
    """Make the batch of one time of a recurring evaluation, or record why there is none.

    The batch, its sealed configuration, the files it was assigned and the record are written in one
    transaction; a time that has its record is left alone.

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
    with database_errors(), databases.doc_eval.begin() as connection:
        recurring.lock_recurring(connection, record.id)
        current = recurring.read_again(connection, record)
        moment = due_at or current.now
        recorded = recurring.occurrence_at(connection, record.id, moment)
        if recorded is not None:
            return recorded
        current.require_usable()
        if due_at is not None:
            current.require_pending(due_at)
        with connection.begin_nested() as attempt:
            try:
                return _make(databases, connection, current, moment)
            except StagingError as error:
                attempt.rollback()
                reason = str(error)
        # What waited becomes a batch of another time.
        recurring.forget_arrivals(connection, record.id)
        return recurring.record_occurrence(
            connection, record.id, moment, Outcome.FAILED, Comparison(), reason
        )


def _note_arrivals(
    databases: Databases, connection: Connection, record: RecurringRecord, is_over: Callable[[], bool]
) -> None:
    """Compare the folders with what is known of them, and note since when something is new."""
    digest = _Digest()
    batch_documents.list_found(connection, digest.of(_found(databases, connection, record, is_over)))
    if is_over():
        raise StagingError("its folders changed while they were looked at: they are looked at again")
    files = recurring.compare_found(connection, record.id, REASONS_OF_FOLDERS)
    note = recurring.see_arrivals if files.new + files.changed else recurring.know_digest
    note(connection, record.id, digest.text)


def _make(
    databases: Databases, connection: Connection, record: RecurringRecord, due_at: datetime
) -> Occurrence:
    definition = record.definition
    files, skipped, digest = choose_files(databases, connection, record)
    if skipped is not None:
        recurring.know_digest(connection, record.id, digest)
        return recurring.record_occurrence(connection, record.id, due_at, Outcome.SKIPPED, files, skipped)
    lock_definitions(connection)
    # Somebody may have taken one away while the folders were walked.
    _require_references(connection, record)
    batch = _batch(definition, _free_name(connection, record, due_at))
    number = create_batch(connection, batch, definition.max_documents, definition.max_cost)
    snapshot.seal(connection, number)
    batch_documents.assign_found(connection, number)
    if definition.scope != "all":
        recurring.call_of_changes(connection, number)
    recurring.know_files(connection, record.id, number)
    recurring.know_digest(connection, record.id, digest)
    connection.execute(_REQUEST, {"id": number})
    return recurring.record_occurrence(connection, record.id, due_at, Outcome.MADE, files, batch_id=number)


def choose_files(
    databases: Databases, connection: Connection, record: RecurringRecord
) -> tuple[Comparison, str | None, str]:
    """Choose the files that a batch of a recurring evaluation gets now.

    They are in the table `found` of this transaction afterwards, and files that are gone are forgotten.

    Returns
    -------
    tuple[Comparison, str | None, str]
        The files beside those that are known; why no batch would be made; and the digest of the look.

    Raises
    ------
    StagingError
        A folder is away.
    """
    definition, digest = record.definition, _Digest()
    _require_references(connection, record)
    batch_documents.list_found(connection, digest.of(_found(databases, connection, record)))
    files = recurring.compare_found(connection, record.id, REASONS_OF_FOLDERS)
    is_all = definition.scope == "all"
    is_empty = not (files.new + files.changed + (files.unchanged if is_all else 0))
    if is_empty or (definition.skip_if_nothing_new and not files.new + files.changed):
        return files, _why_skipped(connection, record, files), digest.text
    recurring.forget_gone(connection, record.id, REASONS_OF_FOLDERS)
    if not is_all:
        recurring.keep_new_and_changed(connection, record.id)
    return files, None, digest.text


def _require_references(connection: Connection, record: RecurringRecord) -> None:
    missing = recurring.missing_reference(connection, record.definition)
    if missing is not None:
        kind, name = missing
        raise StagingError(f"{kind} {name!r} no longer exists: apply the evaluation file again, or change it")


def _found(
    databases: Databases,
    connection: Connection,
    record: RecurringRecord,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[FoundFile]:
    """What is in the folders; of arrivals, files that are being written are left for the next time."""
    definition = record.definition
    choice = {"include": definition.include, "exclude": definition.exclude}
    folders = recurring.folders_of(connection, definition)
    found = found_files({"batch": choice, "folders": folders}, databases.settings, is_over)
    return _settled(found, record.now, definition.quiet_for) if definition.on_arrival else found


def _settled(found: Iterable[FoundFile], now: datetime, quiet_for: int) -> Iterator[FoundFile]:
    """What was found, with files that were written within `quiet_for` seconds as SKIPPED.

    The clock of a file server may be ahead, by less than that. A file that is dated later says nothing about
    when it was written.
    """
    moment, quiet = int(now.timestamp() * 1e9), quiet_for * 1_000_000_000
    for file in found:
        is_fresh = file.state == ASSIGNED and abs((file.modified_ns or 0) - moment) < quiet
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


def _digest_of(found: Iterable[FoundFile]) -> str:
    digest = _Digest()
    for _ in digest.of(found):
        pass
    return digest.text


def _why_skipped(connection: Connection, record: RecurringRecord, files: Comparison) -> str:
    empty = recurring.empty_folder(connection, record.id, record.definition)
    if empty is not None:
        return (
            f"nothing is new, and folder {display_name(empty[0].encode())}, where {empty[1]:,} files were "
            "known, is empty: check that its file system is mounted"
        )
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
