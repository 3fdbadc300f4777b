"""Reads and changes recurring evaluations as they are stored: state, locks and waiting arrivals."""

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.domain.recurring import OccurrenceOutcome
from doceval_pipeline.errors import UnknownRecurring
from doceval_pipeline.lock_waits import MAY_WRITE_BATCHES, AdvisoryLock, take_advisory_lock
from doceval_pipeline.names import LONGEST, normal, normal_in_sql, similar

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition

# First key of the advisory locks, "recu" as bytes; the second key is the id of the recurring evaluation.
LOCK_CLASS = 0x72656375
# Number of names that an unknown name is compared with for a suggestion.
MOST_COMPARED = 1000
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock_class, :id)")
# Times of a schedule are whole minutes; those of arrivals and of requests by people are not.
_IS_SCHEDULED = "o.recurring_id = r.id AND extract(microseconds FROM o.due_at) = 0"
_RECORDS = f"""
    SELECT r.id, r.name, r.definition::text AS definition, r.watched_from, r.paused_at, r.known_digest,
           r.seen_digest, r.waiting_from, r.changed_at, now() AS now,
           newest.due_at AS newest_due_at, newest.outcome AS newest_outcome,
           newest.reason AS newest_reason, newest.batch_id AS newest_batch_id,
           CASE WHEN b.archived_at IS NULL THEN b.status ELSE 'ARCHIVED' END AS newest_batch_status,
           CASE WHEN b.status = 'PAUSED' AND b.archived_at IS NULL THEN b.held_reason END AS held_reason,
           scheduled.due_at AS scheduled_at,
           greatest(r.watched_from, r.waiting_from, r.changed_at) > now()
           OR EXISTS (SELECT 1 FROM occurrences o
                      WHERE {_IS_SCHEDULED} AND o.due_at > now() AND NOT o.was_ahead) AS was_set_back
    FROM recurring_evaluations r
    LEFT JOIN LATERAL (
        SELECT due_at, outcome, reason, batch_id FROM occurrences o
        WHERE o.recurring_id = r.id AND o.due_at <= now()
        ORDER BY due_at DESC LIMIT 1) AS newest ON true
    LEFT JOIN batches b ON b.id = newest.batch_id
    LEFT JOIN LATERAL (
        SELECT o.due_at FROM occurrences o WHERE {_IS_SCHEDULED} AND o.due_at <= now()
        ORDER BY o.due_at DESC LIMIT 1) AS scheduled ON true
"""
_ALL = text(f'{_RECORDS} ORDER BY r.name COLLATE "C"')
# Makes a concurrent DELETE wait until the occurrence is recorded.
_BY_ID = text(f"{_RECORDS} WHERE r.id = :id FOR KEY SHARE OF r")
_BY_NAME = text(f"{_RECORDS} WHERE {normal_in_sql('r.name')} = :name")
_NAMES = text(f"SELECT name FROM recurring_evaluations ORDER BY id LIMIT {MOST_COMPARED}")
_PAUSE = text("UPDATE recurring_evaluations SET paused_at = now() WHERE id = :id AND paused_at IS NULL")
# Times that passed during the pause are not made up.
_RESUME = text("""
    UPDATE recurring_evaluations
    SET paused_at = NULL, watched_from = now(), seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id AND paused_at IS NOT NULL
""")
_DELETE = text("DELETE FROM recurring_evaluations WHERE id = :id")
_RESTART_FROM_NOW = text("""
    WITH ahead AS (UPDATE occurrences SET was_ahead = true WHERE recurring_id = :id AND due_at > now())
    UPDATE recurring_evaluations
    SET watched_from = now(), seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id
""")
_NOTE_ARRIVALS = text("""
    UPDATE recurring_evaluations
    SET seen_digest = :digest, changed_at = now(), waiting_from = coalesce(waiting_from, now())
    WHERE id = :id AND seen_digest IS DISTINCT FROM :digest
""")
_FORGET_ARRIVALS = text("""
    UPDATE recurring_evaluations SET seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id AND waiting_from IS NOT NULL
""")
_REMEMBER_DIGEST = text("""
    UPDATE recurring_evaluations
    SET known_digest = :digest, seen_digest = NULL, waiting_from = NULL, changed_at = NULL
    WHERE id = :id AND (known_digest IS DISTINCT FROM :digest OR seen_digest IS NOT NULL)
""")
_MISSING = text("""
    SELECT 'connection' AS kind, name FROM unnest(CAST(:connections AS text[])) AS name
    WHERE NOT EXISTS (SELECT 1 FROM connections c WHERE c.name = name.name)
    UNION ALL
    SELECT 'prompt', name FROM unnest(CAST(:prompts AS text[])) AS name
    WHERE NOT EXISTS (SELECT 1 FROM prompts p WHERE p.name = name.name)
    UNION ALL
    SELECT 'folder', path FROM unnest(CAST(:folders AS text[])) AS path
    WHERE NOT EXISTS (SELECT 1 FROM folders f WHERE f.folder_path = path)
    LIMIT 1
""")
_FOLDERS = text("""
    SELECT json_build_object('id', id, 'path', folder_path) FROM folders
    WHERE folder_path = ANY(CAST(:paths AS text[])) ORDER BY id
""")


def list_recurring(connection: Connection) -> list[RecurringRecord]:
    """All recurring evaluations, by name."""
    return [_record(row) for row in connection.execute(_ALL)]


def find_recurring(connection: Connection, name: str) -> RecurringRecord:
    """Find a recurring evaluation by its name, in any Unicode form.

    Raises
    ------
    UnknownRecurring
    """
    # Bytes of an argument that are not UTF-8 become lone surrogates; names contain neither those nor NUL.
    is_text = "\0" not in name and not any("\ud800" <= char <= "\udfff" for char in name)
    row = connection.execute(_BY_NAME, {"name": normal(name)}).first() if is_text else None
    if row is None:
        near = similar(name, connection.scalars(_NAMES))
        advice = f"did you mean {near!r}?" if near else "run doceval recurring list to see all"
        raise UnknownRecurring(f"recurring evaluation {name[:LONGEST]!r} does not exist: {advice}")
    return _record(row)


def read_again(connection: Connection, record: RecurringRecord) -> RecurringRecord:
    """The current record of a recurring evaluation.

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
    """Lock a recurring evaluation for this transaction, so that no other one makes an occurrence of it.

    Raises
    ------
    DatabaseError
        A role that may not work on batches holds the lock.
    """
    lock = AdvisoryLock(LOCK_CLASS, recurring_id)
    take_advisory_lock(connection, lock, MAY_WRITE_BATCHES, f"recurring evaluation {recurring_id}")


def try_to_lock_recurring(connection: Connection, recurring_id: int) -> bool:
    """As `lock_recurring`, but returns False at once while another transaction holds the lock."""
    return bool(connection.scalar(_TRY_LOCK, {"lock_class": LOCK_CLASS, "id": recurring_id}))


def pause_recurring(connection: Connection, recurring_id: int) -> bool:
    """Pause a recurring evaluation; return False if it is already paused."""
    return connection.execute(_PAUSE, {"id": recurring_id}).rowcount > 0


def resume_recurring(connection: Connection, recurring_id: int) -> bool:
    """Resume a recurring evaluation with its next time; return False if it is not paused."""
    return connection.execute(_RESUME, {"id": recurring_id}).rowcount > 0


def delete_recurring(connection: Connection, recurring_id: int) -> bool:
    """Delete a recurring evaluation with its occurrences; return False if it does not exist.

    Its batches stay. Waits for an occurrence that is being made.
    """
    lock_recurring(connection, recurring_id)
    return connection.execute(_DELETE, {"id": recurring_id}).rowcount > 0


def restart_from_now(connection: Connection, recurring_id: int) -> None:
    """Restart the schedule from now, after the clock was set back: past times are not made up."""
    connection.execute(_RESTART_FROM_NOW, {"id": recurring_id})


def note_arrivals(connection: Connection, recurring_id: int, digest: str) -> None:
    """Record that new files are in the folders, and since when; write nothing for a known digest."""
    connection.execute(_NOTE_ARRIVALS, {"id": recurring_id, "digest": digest})


def forget_arrivals(connection: Connection, recurring_id: int) -> None:
    """Forget waiting arrivals, so that the next poll finds them again."""
    connection.execute(_FORGET_ARRIVALS, {"id": recurring_id})


def remember_digest(connection: Connection, recurring_id: int, digest: str) -> None:
    """Record the digest of folders without new files; write nothing for a known digest."""
    connection.execute(_REMEMBER_DIGEST, {"id": recurring_id, "digest": digest})


def missing_reference(connection: Connection, definition: "RecurringDefinition") -> tuple[str, str] | None:
    """The kind and name of a connection, prompt or folder of the definition that no longer exists."""
    chosen = {key: list(getattr(definition, key)) for key in ("connections", "prompts", "folders")}
    row = connection.execute(_MISSING, chosen).first()
    return None if row is None else (row.kind, row.name)


def configured_folders(connection: Connection, definition: "RecurringDefinition") -> list[dict[str, object]]:
    """The folders of a definition, with ids and paths as in a sealed configuration."""
    return list(connection.scalars(_FOLDERS, {"paths": definition.folders}))


def _record(row: Row[Any]) -> RecurringRecord:
    definition, problem = _definition(row.name, row.definition)
    outcome = None if row.newest_outcome is None else OccurrenceOutcome(row.newest_outcome)
    values = {"definition": definition, "problem": problem, "newest_outcome": outcome}
    return RecurringRecord(**(dict(row._mapping) | values))


def _definition(name: str, stored: str) -> tuple["RecurringDefinition", str | None]:
    """A stored definition, and why it cannot be used: another version or a person may have changed it."""
    # pydantic takes long to import, and most installations have no recurring evaluation.
    from pydantic import ValidationError

    from doceval_pipeline.doc_eval.definitions.pydantic_messages import mistakes_of
    from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition

    try:
        return RecurringDefinition.model_validate({**json.loads(stored), "name": name}), None
    except ValidationError as error:
        mistake = mistakes_of(error.errors(include_input=False, include_url=False))[0]
        problem = f"{'.'.join(map(str, mistake.location))} {mistake.problem}".strip()
    except (ValueError, RecursionError):
        problem = "it is not readable"
    unusable = RecurringDefinition.model_construct(name=name, folders=[], connections=[], prompts=[])
    return unusable, f"{problem}; apply its evaluation file again"
