"""Why work waits for Dagster's sensors: no daemon is running, or a person stopped a sensor."""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

from doceval_pipeline.batches.monitoring.pending_work import PendingWork
from doceval_pipeline.defs.instance import LOCATION, open_instance
from doceval_pipeline.reports.formatting import counted
from doceval_pipeline.settings import Settings

# A daemon sends a heartbeat every 30 s.
SECONDS_BETWEEN_HEARTBEATS = 60
SENSORS = "SENSOR"


def why_waiting(settings: Settings, work: Sequence[PendingWork]) -> list[str]:
    """One sentence for each reason why work is not done, with what to start; empty where it will be done.

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
    work: Sequence[PendingWork], heartbeat: float | None, now: float, stopped: Collection[str], queued: int
) -> list[str]:
    """The sentences. Pure: no instance, no clock.

    Parameters
    ----------
    heartbeat
        Last heartbeat of the daemon that runs sensors, in seconds since 1970; None without any.
    stopped
        Names of stopped sensors.
    queued
        How many runs are in Dagster's queue.
    """
    sentences = []
    # A heartbeat in the future was stored before the clock was set back.
    if heartbeat is None or not 0 <= now - heartbeat < SECONDS_BETWEEN_HEARTBEATS:
        runs = [counted(queued, "run is queued", "runs are queued")] if queued else []
        waiting = ", ".join([*(each.description for each in work), *runs])
        last = (
            "it has never sent a heartbeat"
            if heartbeat is None
            else f"its last heartbeat was at {datetime.fromtimestamp(heartbeat, UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
        sentences.append(f"{waiting}, and Dagster's daemon is not running ({last}): start doceval up")
    for sensor in sorted({each.sensor for each in work} & set(stopped)):
        waiting = ", ".join(each.description for each in work if each.sensor == sensor)
        sentences.append(
            f"{waiting}, and the sensor {sensor} is stopped: start it on the Automation page in Dagster"
        )
    return sentences
