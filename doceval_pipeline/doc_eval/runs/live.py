"""Which runs of Dagster are alive: each holds an advisory lock, which ends with its process.

A row says that the run exists; the lock with the row's id says that its process is alive.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.lock_waits import held_numbers

# First key of the advisory locks; the second is the row's id. "docr" as bytes.
LOCK_CLASS = 0x646F6372

_REGISTER = text("""
    INSERT INTO live_runs AS r (run_id, batch_id, process) VALUES (:run_id, :batch_id, :process)
    ON CONFLICT (run_id) DO UPDATE SET batch_id = excluded.batch_id, process = excluded.process,
        missing_since = NULL
    RETURNING id
""")
# Shared, so that several processes of one run can hold it.
_LOCK = text("SELECT pg_try_advisory_lock_shared(:lock_class, :id)")
_ROW = text("SELECT id FROM live_runs WHERE run_id = :run_id")
_UNREGISTER = text("DELETE FROM live_runs WHERE run_id = :run_id")
# A condition on `live_runs AS r`.
IS_ALIVE = f"(r.id IN ({held_numbers(LOCK_CLASS)}))"
# A run that was never seen alive gets a row too, so that it counts as missing from now on.
_MARK_MISSING = text("""
    INSERT INTO live_runs (run_id) SELECT * FROM unnest(CAST(:run_ids AS text[]))
    ON CONFLICT (run_id) DO NOTHING
""")
_UPDATE_MISSING = text(f"""
    UPDATE live_runs r
    SET missing_since = CASE WHEN {IS_ALIVE} THEN NULL ELSE coalesce(missing_since, now()) END
    WHERE run_id = ANY(:run_ids) AND ({IS_ALIVE} = (missing_since IS NOT NULL))
""")
_DEAD = text(f"""
    SELECT run_id, process FROM live_runs r
    WHERE run_id = ANY(:run_ids) AND missing_since < now() - make_interval(secs => :seconds)
        AND NOT {IS_ALIVE}
    ORDER BY id
""")
_KNOWN = text("SELECT run_id FROM live_runs WHERE run_id = ANY(:run_ids)")
_FORGET = text(f"""
    DELETE FROM live_runs r
    WHERE run_id <> ALL(:run_ids) AND started_at < now() - interval '1 hour' AND NOT {IS_ALIVE}
""")


@dataclass(frozen=True, slots=True)
class DeadRun:
    """A run without a living process; `process` is its last known process, None if none was ever seen."""

    run_id: str
    process: str | None


def register_run(connection: Connection, run_id: str, batch_id: int | None, process: str) -> int | None:
    """Mark a run as alive until the session of this connection ends; returns the id of its row.

    None if another session holds the lock of that number: the next call uses another number.
    """
    row = {"run_id": run_id, "batch_id": batch_id, "process": process}
    number: int = connection.execute(_REGISTER, row).scalar_one()
    if connection.execute(_LOCK, {"lock_class": LOCK_CLASS, "id": number}).scalar_one():
        return number
    unregister_run(connection, run_id)
    return None


def find_row_id(connection: Connection, run_id: str) -> int | None:
    """The id of a run's row; None if another process of the run has deleted it."""
    number: int | None = connection.scalar(_ROW, {"run_id": run_id})
    return number


def unregister_run(connection: Connection, run_id: str) -> None:
    """Delete the row of a run that has done its work."""
    connection.execute(_UNREGISTER, {"run_id": run_id})


def known_runs(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """The given runs that have a row."""
    return set(connection.scalars(_KNOWN, {"run_ids": list(run_ids)}))


def mark_missing(connection: Connection, run_ids: Sequence[str]) -> None:
    """Store runs that were never seen alive, so that they count as missing from the next check on."""
    connection.execute(_MARK_MISSING, {"run_ids": list(run_ids)})


def find_dead(connection: Connection, run_ids: Sequence[str], seconds: float) -> list[DeadRun]:
    """Record which of the given runs are alive; returns runs without a process for `seconds`."""
    connection.execute(_UPDATE_MISSING, {"run_ids": list(run_ids)})
    rows = connection.execute(_DEAD, {"run_ids": list(run_ids), "seconds": seconds})
    return [DeadRun(**row._mapping) for row in rows]


def forget_other_runs(connection: Connection, run_ids: Sequence[str]) -> None:
    """Delete the rows of runs that are not given and that no process holds."""
    connection.execute(_FORGET, {"run_ids": list(run_ids)})
