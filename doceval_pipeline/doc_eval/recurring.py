"""Recurring evaluations: their definitions, what became of each of their times, and the files they know."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline.doc_eval.lifecycle import CLOSED
from doceval_pipeline.errors import RecurringError, UnknownRecurring
from doceval_pipeline.lock_waits import MAY_WRITE_BATCHES, AdvisoryLock, take_advisory_lock
from doceval_pipeline.names import LONGEST, normal, normal_in_sql, similar
from doceval_pipeline.recurrence import Recurrence

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.definitions.schema import Recurring

# First key of the advisory locks; the second is the recurring evaluation. "recu" as bytes.
LOCK_CLASS = 0x72656375
# Names that an unknown one is compared with, for a suggestion.
MOST_COMPARED = 1000
# A batch of arrivals is made although more arrive all the time, after this many times `quiet_for`.
MOST_WAITS = 10
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock_class, :id)")
# Times of a schedule are whole minutes; those of arrivals and of runs by hand are not.
_OF_SCHEDULE = "o.recurring_id = r.id AND extract(microseconds FROM o.due_at) = 0"
_LISTED = f"""
    SELECT r.id, r.name, r.definition::text AS definition, r.watched_from, r.paused_at, r.known_digest,
           r.seen_digest, r.waiting_from, r.changed_at, now() AS now,
           newest.due_at, newest.outcome, newest.reason, newest.batch_id,
           CASE WHEN b.archived_at IS NULL THEN b.status ELSE 'ARCHIVED' END AS batch_status,
           CASE WHEN b.status = 'PAUSED' AND b.archived_at IS NULL THEN b.held_reason END AS held_reason,
           scheduled.due_at AS scheduled_at,
           greatest(r.watched_from, r.waiting_from, r.changed_at) > now()
           OR EXISTS (SELECT 1 FROM occurrences o
                      WHERE {_OF_SCHEDULE} AND o.due_at > now() AND NOT o.was_ahead) AS was_set_back
    FROM recurring_evaluations r
    LEFT JOIN LATERAL (
        SELECT due_at, outcome, reason, batch_id FROM occurrences o
        WHERE o.recurring_id = r.id AND o.due_at <= now()
        ORDER BY due_at DESC LIMIT 1) AS newest ON true
    LEFT JOIN batches b ON b.id = newest.batch_id
    LEFT JOIN LATERAL (
        SELECT o.due_at FROM occurrences o WHERE {_OF_SCHEDULE} AND o.due_at <= now()
        ORDER BY o.due_at DESC LIMIT 1) AS scheduled ON true
"""
_ALL = text(f'{_LISTED} ORDER BY r.name COLLATE "C"')
# A DELETE at the console waits until the occurrence is recorded, too.
_BY_ID = text(f"{_LISTED} WHERE r.id = :id FOR KEY SHARE OF r")
_BY_NAME = text(f"{_LISTED} WHERE {normal_in_sql('r.name')} = :name")
_PAUSE = text("UPDATE recurring_evaluations SET paused_at = now() WHERE id = :id AND paused_at IS NULL")
# Times that passed while it was paused are not made up.
_RESUME = text("""
    UPDATE recurring_evaluations
    SET paused_at = NULL, watched_from = now(), seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id AND paused_at IS NOT NULL
""")
_DELETE = text("DELETE FROM recurring_evaluations WHERE id = :id")
# An occurrence with a batch stays, and so do the newest one and the newest one of the schedule: the next is
# counted from it.
_FORGET_OLD = text("""
    DELETE FROM occurrences o
    WHERE o.outcome <> 'MADE' AND o.recorded_at < now() - make_interval(days => :days)
      AND o.due_at <= now()
      AND EXISTS (SELECT 1 FROM occurrences n
                  WHERE n.recurring_id = o.recurring_id AND n.due_at > o.due_at AND n.due_at <= now()
                    AND (extract(microseconds FROM o.due_at) <> 0 OR extract(microseconds FROM n.due_at) = 0))
""")
_START_ANEW = text("""
    WITH ahead AS (UPDATE occurrences SET was_ahead = true WHERE recurring_id = :id AND due_at > now())
    UPDATE recurring_evaluations
    SET watched_from = now(), seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id
""")
_FORGET_ARRIVALS = text("""
    UPDATE recurring_evaluations SET seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id AND waiting_from IS NOT NULL
""")
_MISSING = text("""
    SELECT 'connection', name FROM unnest(CAST(:connections AS text[])) AS name
    WHERE NOT EXISTS (SELECT 1 FROM connections c WHERE c.name = name.name)
    UNION ALL
    SELECT 'prompt', name FROM unnest(CAST(:prompts AS text[])) AS name
    WHERE NOT EXISTS (SELECT 1 FROM prompts p WHERE p.name = name.name)
    UNION ALL
    SELECT 'folder', path FROM unnest(CAST(:folders AS text[])) AS path
    WHERE NOT EXISTS (SELECT 1 FROM folders f WHERE f.folder_path = path)
    LIMIT 1
""")
_SEE = text("""
    UPDATE recurring_evaluations
    SET seen_digest = :digest, changed_at = now(), waiting_from = coalesce(waiting_from, now())
    WHERE id = :id AND seen_digest IS DISTINCT FROM :digest
""")
_KNOW_DIGEST = text("""
    UPDATE recurring_evaluations
    SET known_digest = :digest, seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id AND (known_digest IS DISTINCT FROM :digest OR seen_digest IS NOT NULL)
""")
_RECORDED = """
    SELECT due_at, outcome, reason, batch_id, new_files, changed_files, unchanged_files, gone_files,
           recorded_at
    FROM occurrences WHERE recurring_id = :id
"""
_OCCURRENCES = text(f"{_RECORDED} ORDER BY due_at DESC LIMIT :most")
# Other values after each occurrence that changed what is known.
_KNOWN_NOW = text("""
    SELECT count(*), max(batch_id), max(recorded_at), now() FROM occurrences WHERE recurring_id = :id
""")
_SUMMARY = text("""
    SELECT count(*) AS occurrences, count(o.batch_id) AS batches,
           coalesce(array_agg(o.batch_id ORDER BY o.batch_id) FILTER (
               WHERE b.status <> ALL(:closed) AND b.archived_at IS NULL), '{}') AS open_batches
    FROM occurrences o LEFT JOIN batches b ON b.id = o.batch_id
    WHERE o.recurring_id = :id
""")
_SOME_NAMES = text(f"SELECT name FROM recurring_evaluations ORDER BY id LIMIT {MOST_COMPARED}")
_OCCURRENCE = text(f"{_RECORDED} AND due_at = :due_at")
_RECORD = text("""
    INSERT INTO occurrences (recurring_id, due_at, outcome, reason, batch_id, new_files, changed_files,
                             unchanged_files, gone_files)
    VALUES (:id, :due_at, :outcome, :reason, :batch_id, :new, :changed, :unchanged, :gone)
""")
_FOLDERS = text("""
    SELECT json_build_object('id', id, 'path', folder_path) FROM folders
    WHERE folder_path = ANY(CAST(:paths AS text[])) ORDER BY id
""")
# Files that the newest batch was assigned, and that changed or were away when it came to read them.
_UNREAD = text("""
    SELECT EXISTS (
        SELECT 1 FROM batch_documents b
        JOIN recurring_files k ON k.document_id = b.document_id AND k.batch_id = b.batch_id
        WHERE k.recurring_id = :id AND b.state = 'REJECTED' AND b.reason = ANY(CAST(:reasons AS text[]))
          AND b.batch_id = (SELECT max(batch_id) FROM occurrences WHERE recurring_id = :id))
""")
# The usable files of the table `found`, beside what the newest occurrence knew of them. One that a batch
# could not read is changed: each time where the reason may have passed, otherwise once.
_BESIDE_KNOWN = """
    SELECT f.folder_id, f.raw_path, f.file_size, f.modified_ns, k.document_id,
           k.document_id IS NOT NULL AND (
               (k.file_size, k.modified_ns) IS DISTINCT FROM (f.file_size, f.modified_ns)
               OR EXISTS (SELECT 1 FROM batch_documents b
                          WHERE b.batch_id IN (k.batch_id, newest.batch_id) AND b.document_id = k.document_id
                            AND b.state = 'REJECTED'
                            AND (b.reason = ANY(CAST(:passing_reasons AS text[]))
                                 OR NOT EXISTS (
                                     SELECT 1 FROM batch_documents e
                                     JOIN occurrences o ON o.batch_id = e.batch_id
                                     WHERE o.recurring_id = :id AND e.document_id = b.document_id
                                       AND e.batch_id < b.batch_id AND e.state = 'REJECTED'))))
               AS is_changed
    FROM found f
    CROSS JOIN (SELECT max(batch_id) AS batch_id FROM occurrences WHERE recurring_id = :id) AS newest
    LEFT JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    LEFT JOIN recurring_files k ON k.recurring_id = :id AND k.document_id = d.id
    WHERE f.state = 'ASSIGNED'
"""
# Known files that are not there now, usable or not. Files below a folder that was found and not entered are
# still there, for all that is known; a folder in which nothing is found may be a mount that is missing. Files
# below a folder that the definition no longer names are gone.
_GONE = """
    SELECT k.document_id
    FROM recurring_files k JOIN documents d ON d.id = k.document_id
    WHERE k.recurring_id = :id
      AND (d.folder_id IN (SELECT folder_id FROM found)
           OR d.folder_id NOT IN (SELECT id FROM folders WHERE folder_path = ANY(CAST(:paths AS text[]))))
      AND NOT EXISTS (SELECT 1 FROM found f
                      WHERE f.folder_id = d.folder_id AND sha256(f.raw_path) = sha256(d.raw_path))
      AND NOT EXISTS (SELECT 1 FROM not_entered n WHERE n.folder_id = d.folder_id
                        AND substring(d.raw_path FOR octet_length(n.beginning)) = n.beginning)
"""
_NOT_ENTERED = """
    not_entered AS MATERIALIZED (
        SELECT folder_id, CASE raw_path WHEN CAST('.' AS bytea) THEN CAST('' AS bytea)
                                        ELSE raw_path || CAST('/' AS bytea) END AS beginning
        FROM found WHERE reason = ANY(CAST(:folder_reasons AS text[])))
"""
_COMPARE = text(f"""
    WITH {_NOT_ENTERED}
    SELECT count(*) FILTER (WHERE document_id IS NULL), count(*) FILTER (WHERE is_changed),
           count(*) FILTER (WHERE document_id IS NOT NULL AND NOT is_changed),
           (SELECT count(*) FROM ({_GONE}) AS gone)
    FROM ({_BESIDE_KNOWN}) AS beside
""")
# Of a folder that may be a mount that is missing.
_EMPTY_FOLDER = text("""
    SELECT f.folder_path, count(*)
    FROM recurring_files k JOIN documents d ON d.id = k.document_id JOIN folders f ON f.id = d.folder_id
    WHERE k.recurring_id = :id AND f.folder_path = ANY(CAST(:paths AS text[]))
      AND f.id NOT IN (SELECT folder_id FROM found)
    GROUP BY 1 ORDER BY 1 LIMIT 1
""")
_LEAVE_UNCHANGED_OUT = text(f"""
    DELETE FROM found f USING ({_BESIDE_KNOWN}) AS beside
    WHERE f.state = 'ASSIGNED' AND f.folder_id = beside.folder_id AND f.raw_path = beside.raw_path
      AND beside.document_id IS NOT NULL AND NOT beside.is_changed
""")
_FORGET_GONE = text(f"""
    WITH {_NOT_ENTERED}
    DELETE FROM recurring_files k WHERE k.recurring_id = :id AND k.document_id IN ({_GONE})
""")
# Files that a batch could not read, and that are not there now or not usable: they are new when they return.
_FORGET_UNREAD = text("""
    DELETE FROM recurring_files k USING documents d, batch_documents b
    WHERE k.recurring_id = :id AND d.id = k.document_id
      AND b.batch_id = k.batch_id AND b.document_id = k.document_id AND b.state = 'REJECTED'
      AND b.reason = ANY(CAST(:reasons AS text[]))
      AND NOT EXISTS (SELECT 1 FROM found f
                      WHERE f.folder_id = d.folder_id AND sha256(f.raw_path) = sha256(d.raw_path)
                        AND f.state = 'ASSIGNED')
""")
# Only what is new is written: with scope `all`, most files of a night are as they were.
_KNOW = text("""
    INSERT INTO recurring_files AS k (recurring_id, document_id, file_size, modified_ns, batch_id)
    SELECT :id, d.id, f.file_size, f.modified_ns, :batch_id
    FROM found f
    JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    WHERE f.state = 'ASSIGNED'
    ON CONFLICT (recurring_id, document_id) DO UPDATE
    SET file_size = excluded.file_size, modified_ns = excluded.modified_ns, batch_id = excluded.batch_id
    WHERE (k.file_size, k.modified_ns) IS DISTINCT FROM (excluded.file_size, excluded.modified_ns)
       OR EXISTS (SELECT 1 FROM batch_documents r
                  WHERE r.batch_id = k.batch_id AND r.document_id = k.document_id
                    AND r.state = 'REJECTED')
""")
_MARK_OF_CHANGES = text("UPDATE batches SET is_of_changes = true WHERE id = :batch_id")
_IS_OF_CHANGES = text("SELECT is_of_changes FROM batches WHERE id = :batch_id")
_ORIGINS = text("""
    SELECT o.batch_id, r.name, o.due_at FROM occurrences o
    JOIN recurring_evaluations r ON r.id = o.recurring_id
    WHERE o.batch_id = ANY(CAST(:batch_ids AS int[]))
""")


class Outcome(StrEnum):
    """What became of an occurrence."""

    MADE = "MADE"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class RecurringRecord:
    """A recurring evaluation as doc_eval knows it, with its newest occurrence; times are UTC-aware.

    `known_digest` is of all files when nothing new was among them; `seen_digest`, `waiting_from` and
    `changed_at` are of arrivals that wait to become a batch. `held_reason` is of the newest batch, while that
    is held. `now` is the server's time. `scheduled_at` is the newest recorded time of the schedule that is
    not in the future. `was_set_back`: the clock was set back since a time was noted; `start_anew` ends that.
    `problem` says why the stored definition cannot be used; `definition` is then one that is never due.
    """

    id: int
    name: str
    definition: "Recurring"
    watched_from: datetime
    paused_at: datetime | None
    known_digest: str | None
    seen_digest: str | None
    waiting_from: datetime | None
    changed_at: datetime | None
    now: datetime
    newest_due_at: datetime | None
    newest_outcome: Outcome | None
    newest_reason: str | None
    newest_batch_id: int | None
    newest_batch_status: str | None
    held_reason: str | None
    scheduled_at: datetime | None = None
    was_set_back: bool = False
    problem: str | None = None

    @property
    def recurrence(self) -> Recurrence | None:
        """Its schedule; None where it makes batches of arrivals."""
        if self.definition.schedule is None:
            return None
        return Recurrence(self.definition.schedule, self.definition.timezone)

    @property
    def failure(self) -> str | None:
        """Why no batch is made, in a line; None where the newest occurrence did not fail."""
        if self.problem is not None:
            return f"{self.name}: its definition cannot be used: {self.problem}"
        if self.newest_outcome is not Outcome.FAILED:
            return None
        return f"{self.name}: no batch of {self.newest_due_at:%Y-%m-%d %H:%M} UTC: {self.newest_reason}"

    @property
    def when(self) -> str:
        """When it makes batches, for people."""
        if self.problem is not None:
            return "unknown"
        if self.definition.schedule is None:
            return f"on arrival, quiet for {self.definition.quiet_for:,} s"
        return f"{self.definition.schedule} {self.definition.timezone}"

    @property
    def due_at(self) -> datetime | None:
        """The time for which a batch is missing: the newest one that has passed, however many were missed."""
        if self.recurrence is None or self.paused_at is not None or self.was_set_back:
            return None
        since = max(self.watched_from, self.scheduled_at or self.watched_from)
        return self.recurrence.newest(since, self.now)

    @property
    def next_at(self) -> datetime | None:
        """When its schedule fires next; None where it is paused or waits for arrivals."""
        if self.recurrence is None or self.paused_at is not None:
            return None
        return self.recurrence.first_after(self.now)

    @property
    def arrivals_at(self) -> datetime | None:
        """The time of the batch of what has arrived; None where nothing waits, or more may arrive."""
        if self.waiting_from is None or self.changed_at is None:
            return None
        quiet = timedelta(seconds=self.definition.quiet_for)
        # What made the last one fail may last.
        wait = quiet * MOST_WAITS if self.newest_outcome is Outcome.FAILED else quiet
        is_quiet = self.now - self.changed_at >= wait
        is_late = self.now - self.waiting_from >= quiet * MOST_WAITS
        return self.waiting_from if is_quiet or is_late else None

    def require_usable(self) -> None:
        """Require a definition that can be used.

        Raises
        ------
        RecurringError
        """
        if self.problem is not None:
            raise RecurringError(f"the recurring evaluation {self.name!r} cannot be used: {self.problem}")

    def is_by_hand(self, occurrence: "Occurrence") -> bool:
        """Whether a person asked for an occurrence beside the schedule; its times are whole minutes."""
        return self.recurrence is not None and occurrence.due_at.timestamp() % 60 != 0

    def require_pending(self, due_at: datetime) -> None:
        """Require that a batch of a time of the schedule, or of what arrived at a time, may still be made.

        Raises
        ------
        RecurringError
            It was paused; the time is from before its schedule took effect, or not one of it; or what arrived
            then no longer waits.
        """
        if self.paused_at is not None:
            raise RecurringError(f"the recurring evaluation {self.name!r} is paused: resume it first")
        if self.recurrence is None and due_at != self.waiting_from:
            raise RecurringError(
                f"no arrivals of the recurring evaluation {self.name!r} wait since {due_at.isoformat()}: "
                "omit due_at to make a batch now"
            )
        if self.recurrence is not None and due_at <= self.watched_from:
            raise RecurringError(
                f"the recurring evaluation {self.name!r} makes no batch of {due_at.isoformat()}, which is "
                f"before its schedule took effect ({self.watched_from.isoformat()}): omit due_at to make a "
                "batch now"
            )
        if self.recurrence is not None and not self.recurrence.has(due_at):
            raise RecurringError(
                f"{due_at.isoformat()} is not a time of the schedule of the recurring evaluation "
                f"{self.name!r}: omit due_at to make a batch now"
            )


@dataclass(frozen=True)
class Comparison:
    """Usable files of an occurrence beside those that the one before knew."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    gone: int = 0

    @property
    def sentence(self) -> str:
        """The counts, for people."""
        return f"{self.new:,} new, {self.changed:,} changed, {self.unchanged:,} unchanged, {self.gone:,} gone"


@dataclass(frozen=True)
class Origin:
    """The recurring evaluation that made a batch, and for which of its times."""

    name: str
    due_at: datetime

    def as_json(self) -> dict[str, str]:
        """Its shape in `doceval status --json`."""
        return {"name": self.name, "due_at": self.due_at.isoformat()}


@dataclass(frozen=True)
class Occurrence:
    """What became of one time of a recurring evaluation."""

    due_at: datetime
    outcome: Outcome
    reason: str | None
    batch_id: int | None
    files: Comparison
    recorded_at: datetime


@dataclass(frozen=True)
class Summary:
    """How many occurrences a recurring evaluation has, how many of them made a batch, and which are open."""

    occurrences: int
    batches: int
    open_batches: list[int]


def list_recurring(connection: Connection) -> list[RecurringRecord]:
    """All recurring evaluations, by name."""
    return [_record(row) for row in connection.execute(_ALL)]


def find_recurring(connection: Connection, name: str) -> RecurringRecord:
    """Find a recurring evaluation by its name, in any Unicode form.

    Raises
    ------
    UnknownRecurring
    """
    # Bytes that are not UTF-8 are half a surrogate pair in an argument; no name has any, nor a NUL.
    is_text = "\0" not in name and not any("\ud800" <= char <= "\udfff" for char in name)
    row = connection.execute(_BY_NAME, {"name": normal(name)}).first() if is_text else None
    if row is None:
        near = similar(name, connection.scalars(_SOME_NAMES))
        advice = f"did you mean {near!r}?" if near else "doceval recurring list shows all of them"
        raise UnknownRecurring(f"there is no recurring evaluation {name[:LONGEST]!r}: {advice}")
    return _record(row)


def summary(connection: Connection, recurring_id: int) -> Summary:
    """Count the occurrences of a recurring evaluation."""
    row = connection.execute(_SUMMARY, {"id": recurring_id, "closed": list(CLOSED)}).one()
    return Summary(row.occurrences, row.batches, list(row.open_batches))


def read_again(connection: Connection, record: RecurringRecord) -> RecurringRecord:
    """A recurring evaluation as it is now.

    Raises
    ------
    UnknownRecurring
        It was deleted.
    """
    row = connection.execute(_BY_ID, {"id": record.id}).first()
    if row is None:
        raise UnknownRecurring(f"the recurring evaluation {record.name!r} was deleted meanwhile")
    return _record(row)


def lock_recurring(connection: Connection, recurring_id: int) -> None:
    """Be the only one that makes occurrences of a recurring evaluation, for this transaction.

    Raises
    ------
    DatabaseError
        Somebody holds the lock who may not work on batches.
    """
    lock = AdvisoryLock(LOCK_CLASS, recurring_id)
    take_advisory_lock(connection, lock, MAY_WRITE_BATCHES, f"recurring evaluation {recurring_id}")


def try_to_lock_recurring(connection: Connection, recurring_id: int) -> bool:
    """As `lock_recurring`; False at once where a batch is being made."""
    return bool(connection.scalar(_TRY_LOCK, {"lock_class": LOCK_CLASS, "id": recurring_id}))


def start_anew(connection: Connection, recurring_id: int) -> None:
    """Count from now on, after the clock was set back: times that have passed are not made up."""
    connection.execute(_START_ANEW, {"id": recurring_id})


def missing_reference(connection: Connection, definition: "Recurring") -> tuple[str, str] | None:
    """The first connection, prompt or folder that no longer exists, as its kind and name."""
    chosen = {key: list(getattr(definition, key)) for key in ("connections", "prompts", "folders")}
    row = connection.execute(_MISSING, chosen).first()
    return None if row is None else (row[0], row[1])


def empty_folder(
    connection: Connection, recurring_id: int, definition: "Recurring"
) -> tuple[str, int] | None:
    """A folder in which nothing is found, beside the table `found`, and how many files were known there."""
    row = connection.execute(_EMPTY_FOLDER, {"id": recurring_id, "paths": list(definition.folders)}).first()
    return None if row is None else (row[0], row[1])


def has_unread(connection: Connection, recurring_id: int, reasons: Sequence[str]) -> bool:
    """Whether the newest batch could not read a file, for one of the given reasons."""
    return bool(connection.scalar(_UNREAD, {"id": recurring_id, "reasons": list(reasons)}))


def pause_recurring(connection: Connection, recurring_id: int) -> bool:
    """Pause: no batch is made until it is resumed; False where it is paused already."""
    return connection.execute(_PAUSE, {"id": recurring_id}).rowcount > 0


def resume_recurring(connection: Connection, recurring_id: int) -> bool:
    """Resume with the next time of the schedule; False where it is not paused."""
    return connection.execute(_RESUME, {"id": recurring_id}).rowcount > 0


def delete_recurring(connection: Connection, recurring_id: int) -> bool:
    """Delete a recurring evaluation and its occurrences; its batches stay. False where it is deleted already.

    Waits for an occurrence that is being made.
    """
    lock_recurring(connection, recurring_id)
    return connection.execute(_DELETE, {"id": recurring_id}).rowcount > 0


def see_arrivals(connection: Connection, recurring_id: int, digest: str) -> None:
    """Remember that something new is in the folders, and since when; writes only what changed."""
    connection.execute(_SEE, {"id": recurring_id, "digest": digest})


def forget_arrivals(connection: Connection, recurring_id: int) -> None:
    """Let the next look find what has arrived as if it were new."""
    connection.execute(_FORGET_ARRIVALS, {"id": recurring_id})


def know_digest(connection: Connection, recurring_id: int, digest: str) -> None:
    """Remember the folders as they are when nothing in them is new; writes only what is other than before."""
    connection.execute(_KNOW_DIGEST, {"id": recurring_id, "digest": digest})


def occurrences(connection: Connection, recurring_id: int, most: int) -> list[Occurrence]:
    """The newest occurrences, newest first."""
    rows = connection.execute(_OCCURRENCES, {"id": recurring_id, "most": most})
    return [_occurrence(row) for row in rows]


def known_now(connection: Connection, recurring_id: int) -> tuple[tuple[Any, ...], datetime]:
    """A value that differs after each occurrence, and the server's time."""
    *known, now = connection.execute(_KNOWN_NOW, {"id": recurring_id}).one()
    return tuple(known), now


def occurrence_at(connection: Connection, recurring_id: int, due_at: datetime) -> Occurrence | None:
    """What became of one time; None where nothing was recorded."""
    row = connection.execute(_OCCURRENCE, {"id": recurring_id, "due_at": due_at}).first()
    return None if row is None else _occurrence(row)


def record_occurrence(
    connection: Connection,
    recurring_id: int,
    due_at: datetime,
    outcome: Outcome,
    files: Comparison,
    reason: str | None = None,
    batch_id: int | None = None,
) -> Occurrence:
    """Record what became of a time; the primary key refuses a second record."""
    values = {"id": recurring_id, "due_at": due_at}
    connection.execute(
        _RECORD,
        {
            **values,
            "outcome": outcome.value,
            "reason": reason,
            "batch_id": batch_id,
            "new": files.new,
            "changed": files.changed,
            "unchanged": files.unchanged,
            "gone": files.gone,
        },
    )
    return _occurrence(connection.execute(_OCCURRENCE, values).one())


def origins_of(connection: Connection, batch_ids: Sequence[int]) -> dict[int, Origin]:
    """What made each of the given batches; the others, and those of deleted definitions, are left out."""
    rows = connection.execute(_ORIGINS, {"batch_ids": list(batch_ids)})
    return {row.batch_id: Origin(row.name, row.due_at) for row in rows}


def is_of_changes(connection: Connection, batch_id: int) -> bool:
    """Whether a batch was made of new and changed files alone; no rescan adds others to it."""
    return bool(connection.scalar(_IS_OF_CHANGES, {"batch_id": batch_id}))


def forget_old_occurrences(connection: Connection, days: int) -> int:
    """Remove records older than some days of times that made no batch, but the newest; returns how many."""
    return connection.execute(_FORGET_OLD, {"days": days}).rowcount


def folders_of(connection: Connection, definition: "Recurring") -> list[dict[str, object]]:
    """The folders of a definition as a configuration lists them."""
    return list(connection.scalars(_FOLDERS, {"paths": definition.folders}))


def compare_found(
    connection: Connection,
    recurring_id: int,
    definition: "Recurring",
    folder_reasons: Sequence[str],
    passing_reasons: Sequence[str],
) -> Comparison:
    """Compare the table `found` of this transaction with what the newest occurrence knew.

    `folder_reasons` are those of folders that were found and not entered, `passing_reasons` those of files
    that could not be read and may be readable by now.
    """
    parameters = {
        "id": recurring_id,
        "paths": list(definition.folders),
        "folder_reasons": list(folder_reasons),
        "passing_reasons": list(passing_reasons),
    }
    return Comparison(*connection.execute(_COMPARE, parameters).one())


def forget_gone(
    connection: Connection, recurring_id: int, definition: "Recurring", folder_reasons: Sequence[str]
) -> None:
    """Forget known files that are not in the table `found`; call it before what is unchanged is left out."""
    parameters = {
        "id": recurring_id,
        "paths": list(definition.folders),
        "folder_reasons": list(folder_reasons),
    }
    connection.execute(_FORGET_GONE, parameters)


def forget_unread(connection: Connection, recurring_id: int, reasons: Sequence[str]) -> None:
    """Forget files that a batch could not read, for one of the given reasons, and that are not usable now."""
    connection.execute(_FORGET_UNREAD, {"id": recurring_id, "reasons": list(reasons)})


def keep_new_and_changed(connection: Connection, recurring_id: int, passing_reasons: Sequence[str]) -> None:
    """Leave usable files that are neither new nor changed out of the table `found`."""
    connection.execute(_LEAVE_UNCHANGED_OUT, {"id": recurring_id, "passing_reasons": list(passing_reasons)})


def mark_of_changes(connection: Connection, batch_id: int) -> None:
    """Record that a batch was made of new and changed files alone."""
    connection.execute(_MARK_OF_CHANGES, {"batch_id": batch_id})


def know_files(connection: Connection, recurring_id: int, batch_id: int) -> None:
    """Know the usable files of the table `found` from now on, which a batch was assigned."""
    connection.execute(_KNOW, {"id": recurring_id, "batch_id": batch_id})


def _definition(name: str, stored: str) -> tuple["Recurring", str | None]:
    """A stored definition, and why it cannot be used: another version or a person may have written it."""
    # pydantic takes long to import, and most installations have no recurring evaluation.
    from pydantic import ValidationError

    from doceval_pipeline.doc_eval.definitions.error_messages import mistakes_of
    from doceval_pipeline.doc_eval.definitions.schema import Recurring

    try:
        return Recurring.model_validate({**json.loads(stored), "name": name}), None
    except ValidationError as error:
        mistake = mistakes_of(error.errors(include_input=False, include_url=False))[0]
        what = f"{'.'.join(map(str, mistake.location))} {mistake.problem}".strip()
    except (ValueError, RecursionError):
        what = "it is not readable"
    unusable = Recurring.model_construct(name=name, folders=[], connections=[], prompts=[])
    return unusable, f"{what}; apply its evaluation file again"


def _record(row: Row[Any]) -> RecurringRecord:
    definition, problem = _definition(row.name, row.definition)
    return RecurringRecord(
        id=row.id,
        name=row.name,
        definition=definition,
        watched_from=row.watched_from,
        paused_at=row.paused_at,
        known_digest=row.known_digest,
        seen_digest=row.seen_digest,
        waiting_from=row.waiting_from,
        changed_at=row.changed_at,
        now=row.now,
        newest_due_at=row.due_at,
        newest_outcome=None if row.outcome is None else Outcome(row.outcome),
        newest_reason=row.reason,
        newest_batch_id=row.batch_id,
        newest_batch_status=row.batch_status if row.batch_id is not None else None,
        held_reason=row.held_reason,
        scheduled_at=row.scheduled_at,
        was_set_back=bool(row.was_set_back),
        problem=problem,
    )


def _occurrence(row: Row[Any]) -> Occurrence:
    return Occurrence(
        due_at=row.due_at,
        outcome=Outcome(row.outcome),
        reason=row.reason,
        batch_id=row.batch_id,
        files=Comparison(row.new_files, row.changed_files, row.unchanged_files, row.gone_files),
        recorded_at=row.recorded_at,
    )
