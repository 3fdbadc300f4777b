"""Which runs of Dagster are alive: each holds an advisory lock, which dies with its process.

A row says that there is such a run; the lock with the row's id says that a process of it lives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from doceval_pipeline.lock_waits import held_numbers

# First key of the advisory locks; the second is the row's id. "docr" as bytes.
LOCK_CLASS = 0x646F6372

_ENTER = text("""
    INSERT INTO live_runs AS r (run_id, batch_id, process) VALUES (:run_id, :batch_id, :process)
    ON CONFLICT (run_id) DO UPDATE SET batch_id = excluded.batch_id, process = excluded.process,
        missing_since = NULL
    RETURNING id
""")
# Shared, so that several processes of one run can hold it.
_LOCK = text("SELECT pg_try_advisory_lock_shared(:lock_class, :id)")
_ROW = text("SELECT id FROM live_runs WHERE run_id = :run_id")
_LEAVE = text("DELETE FROM live_runs WHERE run_id = :run_id")
# A condition on `live_runs AS r`.
IS_ALIVE = f"(r.id IN ({held_numbers(LOCK_CLASS)}))"
# A run that was never seen alive gets a row too, so that it is missed from now on.
_MISS = text("""
    INSERT INTO live_runs (run_id) SELECT * FROM unnest(CAST(:run_ids AS text[]))
    ON CONFLICT (run_id) DO NOTHING
""")
_LOOK = text(f"""
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
    """A run that no process works on any more; `process` is where it was, None where it was never seen."""

    run_id: str
    process: str | None


def enter(connection: Connection, run_id: str, batch_id: int | None, process: str) -> int | None:
    """Say that a run is alive, for as long as the session of this connection lives; returns its row's id.

    None where a stranger has taken the lock of that number: the next time the run gets another one.
    """
    row = {"run_id": run_id, "batch_id": batch_id, "process": process}
    number: int = connection.execute(_ENTER, row).scalar_one()
    if connection.execute(_LOCK, {"lock_class": LOCK_CLASS, "id": number}).scalar_one():
        return number
    leave(connection, run_id)
    return None


def row_of(connection: Connection, run_id: str) -> int | None:
    """The id of a run's row, which another process of the run may have removed."""
    number: int | None = connection.scalar(_ROW, {"run_id": run_id})
    return number


def leave(connection: Connection, run_id: str) -> None:
    """Say that a run has done its work."""
    connection.execute(_LEAVE, {"run_id": run_id})


def known_runs(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """The given runs that have a row."""
    return set(connection.scalars(_KNOWN, {"run_ids": list(run_ids)}))


def miss(connection: Connection, run_ids: Sequence[str]) -> None:
    """Begin to miss runs that were never seen alive."""
    connection.execute(_MISS, {"run_ids": list(run_ids)})


def find_dead(connection: Connection, run_ids: Sequence[str], seconds: float) -> list[DeadRun]:
    """Note which of the given runs are alive; returns those that no process was seen of for `seconds`."""
    connection.execute(_LOOK, {"run_ids": list(run_ids)})
    rows = connection.execute(_DEAD, {"run_ids": list(run_ids), "seconds": seconds})
    return [DeadRun(*row) for row in rows]


def forget_others(connection: Connection, run_ids: Sequence[str]) -> None:
    """Remove the rows of all but the given runs that nobody holds any more."""
    connection.execute(_FORGET, {"run_ids": list(run_ids)})
