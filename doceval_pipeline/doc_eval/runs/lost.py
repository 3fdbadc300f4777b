"""Runs that ended before they started, as the sensor `stalled_work` found them in Dagster."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from doceval_pipeline import arrays

_REPLACE = text("""
    WITH found AS (
        SELECT * FROM json_to_recordset(:runs)
            AS f(run_id text, job text, batch_id int, batch_name text, ended_at timestamptz)),
    gone AS (DELETE FROM lost_runs l WHERE NOT EXISTS (SELECT 1 FROM found f WHERE f.run_id = l.run_id))
    INSERT INTO lost_runs (run_id, job, batch_id, batch_name, ended_at)
    SELECT run_id, job, batch_id, batch_name, ended_at FROM found
    ON CONFLICT (run_id) DO NOTHING
""")
_READ = """
    SELECT run_id, job, batch_id, batch_name, ended_at FROM lost_runs WHERE {which} ORDER BY ended_at, run_id
"""
_OF_BATCHES = text(_READ.format(which="batch_id = ANY(CAST(:ids AS int[]))"))
_WITHOUT_BATCH = text(_READ.format(which="batch_id IS NULL"))


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run that ended before it started, and that no later run has replaced.

    `batch_id` is the batch of its partition. `batch_name` is the name in the config of `create_batch`. Each
    is None for other runs.
    """

    run_id: str
    job: str
    batch_id: int | None
    batch_name: str | None
    ended_at: datetime

    @property
    def sentence(self) -> str:
        """A line about the run and what to do."""
        created = "" if self.batch_name is None else f", which should have created batch {self.batch_name!r},"
        at = f"{self.ended_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return (
            f"run {self.run_id[:8]} of {self.job}{created} ended as FAILURE at {at} before it started: "
            "re-execute it in Dagster's UI, or delete it there"
        )


def replace_lost(connection: Connection, runs: Sequence[LostRun]) -> None:
    """Store these lost runs, and delete all others."""
    rows = [{**asdict(run), "ended_at": run.ended_at.isoformat()} for run in runs]
    connection.execute(_REPLACE, {"runs": json.dumps(rows)})


def lost_runs_of(connection: Connection, batch_ids: Iterable[int]) -> list[LostRun]:
    """The lost runs of the given batches, oldest first."""
    rows = connection.execute(_OF_BATCHES, {"ids": arrays.of_numbers(batch_ids)})
    return [LostRun(**row._mapping) for row in rows]


def lost_runs_without_batch(connection: Connection) -> list[LostRun]:
    """The lost runs that belong to no batch, oldest first."""
    return [LostRun(**row._mapping) for row in connection.execute(_WITHOUT_BATCH)]
