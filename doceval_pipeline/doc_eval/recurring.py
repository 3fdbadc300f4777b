"""Recurring evaluations: their definitions, what became of each of their times, and the files they know."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline.doc_eval.definitions import Recurring
from doceval_pipeline.doc_eval.lifecycle import CLOSED
from doceval_pipeline.errors import UnknownRecurring
from doceval_pipeline.names import LONGEST, normal, normal_in_sql
from doceval_pipeline.recurrence import Recurrence

# First key of the advisory locks; the second is the recurring evaluation. "recu" as bytes.
LOCK_CLASS = 0x72656375
# Names that an unknown one is compared with, for a suggestion.
MOST_COMPARED = 1000
_LOCK = text("SELECT pg_advisory_xact_lock(:lock_class, :id)")
_LISTED = """
    SELECT r.id, r.name, r.definition::text AS definition, r.watched_from, r.paused_at, r.known_digest,
           r.seen_digest, r.waiting_from, r.changed_at, now() AS now,
           newest.due_at, newest.outcome, newest.reason, newest.batch_id,
           CASE WHEN b.archived_at IS NULL THEN b.status ELSE 'ARCHIVED' END AS batch_status,
           CASE WHEN b.status = 'PAUSED' AND b.archived_at IS NULL THEN b.held_reason END AS held_reason
    FROM recurring_evaluations r
    LEFT JOIN LATERAL (
        SELECT due_at, outcome, reason, batch_id FROM occurrences o WHERE o.recurring_id = r.id
        ORDER BY due_at DESC LIMIT 1) AS newest ON true
    LEFT JOIN batches b ON b.id = newest.batch_id
"""
_ALL = text(f'{_LISTED} ORDER BY r.name COLLATE "C"')
_BY_ID = text(f"{_LISTED} WHERE r.id = :id")
_BY_NAME = text(f"{_LISTED} WHERE {normal_in_sql('r.name')} = :name")
_PAUSE = text("UPDATE recurring_evaluations SET paused_at = now() WHERE id = :id AND paused_at IS NULL")
# Times that passed while it was paused are not made up.
_RESUME = text("""
    UPDATE recurring_evaluations
    SET paused_at = NULL, watched_from = now()
    WHERE id = :id AND paused_at IS NOT NULL
""")
_DELETE = text("DELETE FROM recurring_evaluations WHERE id = :id")
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
_OCCURRENCES = text("""
    SELECT due_at, outcome, reason, batch_id, new_files, changed_files, unchanged_files, gone_files,
           recorded_at
    FROM occurrences WHERE recurring_id = :id ORDER BY due_at DESC LIMIT :most
""")
_SUMMARY = text("""
    SELECT count(*) AS occurrences, count(o.batch_id) AS batches,
           coalesce(array_agg(o.batch_id ORDER BY o.batch_id) FILTER (
               WHERE b.status <> ALL(:closed) AND b.archived_at IS NULL), '{}') AS open_batches
    FROM occurrences o LEFT JOIN batches b ON b.id = o.batch_id
    WHERE o.recurring_id = :id
""")
_SOME_NAMES = text(f"SELECT name FROM recurring_evaluations ORDER BY id LIMIT {MOST_COMPARED}")
_OCCURRENCE = text("""
    SELECT due_at, outcome, reason, batch_id, new_files, changed_files, unchanged_files, gone_files,
           recorded_at
    FROM occurrences WHERE recurring_id = :id AND due_at = :due_at
""")
_RECORD = text("""
    INSERT INTO occurrences (recurring_id, due_at, outcome, reason, batch_id, new_files, changed_files,
                             unchanged_files, gone_files)
    VALUES (:id, :due_at, :outcome, :reason, :batch_id, :new, :changed, :unchanged, :gone)
""")
_FOLDERS = text("""
    SELECT json_build_object('id', id, 'path', folder_path) FROM folders
    WHERE folder_path = ANY(CAST(:paths AS text[])) ORDER BY id
""")
# The usable files of the table `found`, beside what the newest occurrence knew of them. One that its batch
# could not read is not known.
_BESIDE_KNOWN = """
    SELECT f.folder_id, f.raw_path, f.file_size, f.modified_ns, k.document_id,
           k.document_id IS NOT NULL AND (
               (k.file_size, k.modified_ns) IS DISTINCT FROM (f.file_size, f.modified_ns)
               OR EXISTS (SELECT 1 FROM batch_documents b
                          WHERE b.batch_id = k.batch_id AND b.document_id = k.document_id
                            AND b.state = 'REJECTED')) AS is_changed
    FROM found f
    LEFT JOIN documents d ON d.folder_id = f.folder_id AND sha256(d.raw_path) = sha256(f.raw_path)
    LEFT JOIN recurring_files k ON k.recurring_id = :id AND k.document_id = d.id
    WHERE f.state = 'ASSIGNED'
"""
_COMPARE = text(f"""
    SELECT count(*) FILTER (WHERE document_id IS NULL), count(*) FILTER (WHERE is_changed),
           count(*) FILTER (WHERE document_id IS NOT NULL AND NOT is_changed),
           (SELECT count(*) FROM recurring_files WHERE recurring_id = :id) - count(document_id)
    FROM ({_BESIDE_KNOWN}) AS beside
""")
_LEAVE_UNCHANGED_OUT = text(f"""
    DELETE FROM found f USING ({_BESIDE_KNOWN}) AS beside
    WHERE f.state = 'ASSIGNED' AND f.folder_id = beside.folder_id AND f.raw_path = beside.raw_path
      AND beside.document_id IS NOT NULL AND NOT beside.is_changed
""")
_USABLE_TABLE = text("""
    CREATE TEMPORARY TABLE usable ON COMMIT DROP AS
    SELECT folder_id, raw_path, file_size, modified_ns FROM found WHERE state = 'ASSIGNED'
""")
# Files below a folder that was found and not entered are still there, for all that is known.
_FORGET_GONE = text("""
    WITH not_entered AS MATERIALIZED (
        SELECT folder_id, CASE raw_path WHEN CAST('.' AS bytea) THEN CAST('' AS bytea)
                                        ELSE raw_path || CAST('/' AS bytea) END AS beginning
        FROM found WHERE reason = ANY(:folder_reasons))
    DELETE FROM recurring_files k USING documents d
    WHERE k.recurring_id = :id AND d.id = k.document_id
      AND NOT EXISTS (SELECT 1 FROM usable u
                      WHERE u.folder_id = d.folder_id AND sha256(u.raw_path) = sha256(d.raw_path))
      AND NOT EXISTS (SELECT 1 FROM not_entered n WHERE n.folder_id = d.folder_id
                        AND substring(d.raw_path FOR octet_length(n.beginning)) = n.beginning)
""")
_KNOW = text("""
    INSERT INTO recurring_files AS k (recurring_id, document_id, file_size, modified_ns, batch_id)
    SELECT :id, d.id, u.file_size, u.modified_ns, :batch_id
    FROM usable u
    JOIN documents d ON d.folder_id = u.folder_id AND sha256(d.raw_path) = sha256(u.raw_path)
    JOIN batch_documents b ON b.batch_id = :batch_id AND b.document_id = d.id
    ON CONFLICT (recurring_id, document_id) DO UPDATE
    SET file_size = excluded.file_size, modified_ns = excluded.modified_ns, batch_id = excluded.batch_id
""")


_ADDS_NOTHING = text("""
    SELECT EXISTS (SELECT 1 FROM occurrences o JOIN recurring_evaluations r ON r.id = o.recurring_id
                   WHERE o.batch_id = :batch_id AND r.definition ->> 'scope' = 'changed')
""")


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
    is held. `now` is the server's time.
    """

    id: int
    name: str
    definition: Recurring
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

    @property
    def recurrence(self) -> Recurrence | None:
        """Its schedule; None where it makes batches of arrivals."""
        if self.definition.schedule is None:
            return None
        return Recurrence(self.definition.schedule, self.definition.timezone)

    @property
    def failure(self) -> str | None:
        """Why the newest occurrence has no batch, in a line; None where it did not fail."""
        if self.newest_outcome is not Outcome.FAILED:
            return None
        return f"{self.name}: no batch of {self.newest_due_at:%Y-%m-%d %H:%M} UTC: {self.newest_reason}"

    @property
    def when(self) -> str:
        """When it makes batches, for people."""
        if self.definition.schedule is None:
            return f"on arrival, quiet for {self.definition.quiet_for:,} s"
        return f"{self.definition.schedule} {self.definition.timezone}"

    @property
    def due_at(self) -> datetime | None:
        """The time for which a batch is missing: the newest one that has passed, however many were missed."""
        if self.recurrence is None or self.paused_at is not None:
            return None
        since = max(self.watched_from, self.newest_due_at or self.watched_from)
        return self.recurrence.newest(since, self.now)

    @property
    def next_at(self) -> datetime | None:
        """When its schedule fires next; None where it is paused or waits for arrivals."""
        if self.recurrence is None or self.paused_at is not None:
            return None
        return self.recurrence.first_after(max(self.now, self.newest_due_at or self.now))


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
        near = _similar(name, connection.scalars(_SOME_NAMES))
        advice = f"did you mean {near!r}?" if near else "doceval recurring list shows all of them"
        raise UnknownRecurring(f"there is no recurring evaluation {name[:LONGEST]!r}: {advice}")
    return _record(row)


def _similar(name: str, known: Iterable[str]) -> str | None:
    """The known name that is meant, if any is like it."""
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(normal(name[:LONGEST]).casefold(), folded, 1)
    return folded[near[0]] if near else None


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
    """Be the only one that makes occurrences of a recurring evaluation, for this transaction."""
    connection.execute(_LOCK, {"lock_class": LOCK_CLASS, "id": recurring_id})


def pause_recurring(connection: Connection, recurring_id: int) -> bool:
    """Make no batch until it is resumed; False where it is paused already."""
    return connection.execute(_PAUSE, {"id": recurring_id}).rowcount > 0


def resume_recurring(connection: Connection, recurring_id: int) -> bool:
    """Go on with the next time of the schedule; False where it is not paused."""
    return connection.execute(_RESUME, {"id": recurring_id}).rowcount > 0


def delete_recurring(connection: Connection, recurring_id: int) -> None:
    """Forget a recurring evaluation and its occurrences; its batches stay."""
    connection.execute(_DELETE, {"id": recurring_id})


def see_arrivals(connection: Connection, recurring_id: int, digest: str) -> None:
    """Remember that something new is in the folders, and since when; writes only what changed."""
    connection.execute(_SEE, {"id": recurring_id, "digest": digest})


def know_digest(connection: Connection, recurring_id: int, digest: str) -> None:
    """Remember the folders as they are when nothing in them is new; writes only what is other than before."""
    connection.execute(_KNOW_DIGEST, {"id": recurring_id, "digest": digest})


def occurrences(connection: Connection, recurring_id: int, most: int = 1000) -> list[Occurrence]:
    """The newest occurrences, newest first."""
    rows = connection.execute(_OCCURRENCES, {"id": recurring_id, "most": most})
    return [_occurrence(row) for row in rows]


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


def is_of_what_changed(connection: Connection, batch_id: int) -> bool:
    """Whether a batch is an occurrence of new and changed files alone; no rescan adds others to it."""
    return bool(connection.scalar(_ADDS_NOTHING, {"batch_id": batch_id}))


def folders_of(connection: Connection, definition: Recurring) -> list[dict[str, object]]:
    """The folders of a definition as a configuration lists them."""
    return list(connection.scalars(_FOLDERS, {"paths": definition.folders}))


def compare_found(connection: Connection, recurring_id: int) -> Comparison:
    """Compare the table `found` of this transaction with what the newest occurrence knew."""
    return Comparison(*connection.execute(_COMPARE, {"id": recurring_id}).one())


def keep_new_and_changed(connection: Connection, recurring_id: int) -> None:
    """Leave out of the table `found` what is not new or changed; `usable` keeps what was usable."""
    connection.execute(_LEAVE_UNCHANGED_OUT, {"id": recurring_id})


def note_usable(connection: Connection) -> None:
    """Keep the usable files of the table `found` in a table of this transaction, `usable`."""
    connection.execute(_USABLE_TABLE)


def know_files(
    connection: Connection, recurring_id: int, batch_id: int, folder_reasons: Sequence[str]
) -> None:
    """Know from now on the files that a batch was assigned, and forget those that are gone."""
    connection.execute(_FORGET_GONE, {"id": recurring_id, "folder_reasons": list(folder_reasons)})
    connection.execute(_KNOW, {"id": recurring_id, "batch_id": batch_id})


def _record(row: Row[Any]) -> RecurringRecord:
    return RecurringRecord(
        id=row.id,
        name=row.name,
        definition=Recurring.model_construct(name=row.name, **json.loads(row.definition)),
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
