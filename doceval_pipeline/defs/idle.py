"""Says why work waits that Dagster's sensors should do: no daemon runs, or a sensor was stopped by hand."""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

from doceval_pipeline.batches.monitoring.pending_work import Work
from doceval_pipeline.defs.instance import LOCATION, open_instance
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.settings import Settings

# A daemon sends a heartbeat every 30 s.
SECONDS_BETWEEN_HEARTBEATS = 60
SENSORS = "SENSOR"


def why_waiting(settings: Settings, work: Sequence[Work]) -> list[str]:
    """One sentence for each reason why work is not done, with what to start; none where it will be.

    Raises
    ------
    ConfigurationError, DatabaseError, EmbeddedServerError
        As `open_instance`.
    """
    if not work:
        return []
    with open_instance(settings) as instance:
        heartbeat = instance.get_daemon_heartbeats().get(SENSORS)
        queued = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        stopped = {
            state.instigator_name
            for state in instance.all_instigator_state(
                instigator_type=InstigatorType.SENSOR, instigator_statuses={InstigatorStatus.STOPPED}
            )
            if state.origin.repository_origin.code_location_origin.location_name == LOCATION
        }
    return reasons(work, None if heartbeat is None else heartbeat.timestamp, time.time(), stopped, queued)


def reasons(
    work: Sequence[Work], heartbeat: float | None, now: float, stopped: Collection[str], queued: int
) -> list[str]:
    """The sentences. Pure: no instance, no clock.

    Parameters
    ----------
    heartbeat
        Of the daemon that runs sensors, in seconds since 1970; None where there never was one.
    stopped
        Names of the sensors that were stopped.
    queued
        How many runs are in Dagster's queue.
    """
    said = []
    # A heartbeat of the future is from before the clock was set back.
    if heartbeat is None or not 0 <= now - heartbeat < SECONDS_BETWEEN_HEARTBEATS:
        runs = [counted(queued, "run is queued", "runs are queued")] if queued else []
        heard = (
            "none was ever heard of"
            if heartbeat is None
            else f"last heard of at {datetime.fromtimestamp(heartbeat, UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
        said.append(
            f"{', '.join([*(each.said for each in work), *runs])}, and Dagster's daemon does not run "
            f"({heard}): start doceval up"
        )
    for sensor in sorted({each.sensor for each in work} & set(stopped)):
        what = ", ".join(each.said for each in work if each.sensor == sensor)
        said.append(
            f"{what}, and the sensor {sensor} is stopped: start it in Dagster, on the page Automation"
        )
    return said
