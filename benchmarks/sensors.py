"""Case 12: ticks of all sensors beside many batches, as Dagster's daemon evaluates them.

A tick is what Dagster does for a sensor: it opens an instance, calls the sensor, stores its events about
assets, and adds its partitions. The runs that it requests are not started.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from dagster import DagsterInstance
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_sensor_execution

from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, reported
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.many_batches import make_batches, reopen
from benchmarks.staging import client_mib
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.definitions import SENSORS, defs
from doceval_pipeline.defs.instance import open_instance

NAMES = (*(sensor.name for sensor in SENSORS), "completion_webhook")
# Of these sensors, a tick changes nothing unless a batch changed.
CALM = (
    "new_batches",
    "response_status",
    "stalled_work",
    "staging_failure",
    "dead_runs",
    "completion_webhook",
)
TICKS = "ticks"
# Ticks of each sensor in a row.
IDLE_TICKS = 5
# Nothing is sent to it: every message was delivered.
_RECEIVER = {
    "DOCEVAL_WEBHOOK_URL": "http://127.0.0.1:9",
    "DOCEVAL_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
_ANSWER = """
    UPDATE llm_responses SET status = 'S', overall_score = 50
    WHERE id IN (SELECT min(id) FROM llm_responses WHERE status = 'QUEUED' GROUP BY batch_id)
"""


@dataclass
class Daemon:
    """Ticks sensors as Dagster's daemon does, and keeps their cursors.

    `acted` counts, by sensor, the events, partitions and runs that the last tick asked for.
    """

    instance: DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)
    acted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._repository = defs().get_repository_def()
        target = LoadableTargetOrigin(module_name="doceval_pipeline.definitions")
        self._origin = InProcessCodeLocationOrigin(target)

    def tick(self, name: str) -> float:
        """Tick a sensor; returns how long it took, in seconds."""
        started = time.perf_counter()
        reference, cursor = self.instance.get_ref(), self.cursors.get(name)
        found = get_external_sensor_execution(
            self._repository, self._origin, reference, name, None, None, cursor, None, None
        )
        if not isinstance(found, SensorExecutionData):
            raise WrongResult(f"{name}: {found.error}")
        self.acted[name] = self._apply(found) + len(found.run_requests or ())
        self.cursors[name] = found.cursor
        return time.perf_counter() - started

    def _apply(self, found: SensorExecutionData) -> int:
        added = 0
        for event in found.asset_events:
            self.instance.report_runless_asset_event(event)
        for request in found.dynamic_partitions_requests or ():
            for key in request.partition_keys:
                self.instance.has_dynamic_partition(request.partitions_def_name, key)
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
            added += len(request.partition_keys)
        return len(found.asset_events) + added


def ticks(databases: Databases) -> Timed:
    """The first tick of each sensor without a cursor, idle ticks, and one after each open batch changed."""
    daemon = Daemon(open_instance(databases.settings))

    def timed() -> Figures:
        first = {name: daemon.tick(name) for name in NAMES}
        # After the first tick of one sensor, another one may still have to act.
        for name in NAMES:
            daemon.tick(name)
        took = {name: median(daemon.tick(name) for _ in range(IDLE_TICKS)) for name in NAMES}
        idle = sum(daemon.acted[name] for name in CALM)
        changed = []
        for _ in range(2):
            with databases.knowledge.begin() as connection:
                connection.exec_driver_sql(_ANSWER)
            changed.append(daemon.tick("response_status"))
        return {
            **took,
            # The first prediction of the time left imports scipy.
            "first": max(*first.values(), changed[0]),
            "changed": changed[1],
            "acted_idle": idle,
            "acted_on_changes": daemon.acted["response_status"],
            "cursors": sum(len(cursor or "") for cursor in daemon.cursors.values()) / 1e3,
        }

    return timed


def sensors(*, quick: bool) -> Case:
    """Case 12."""
    count, opened, series = (200, 10, 3) if quick else (100_000, 100, 100)

    def prepare(installation: Installation) -> None:
        make_batches(installation, count, count // opened, series)

    def before(installation: Installation) -> dict[str, Any]:
        reopen(installation, count, count // opened)
        return {}

    sides = [Side(TICKS, ticks, before, partial(_check, opened), _RECEIVER)]
    experiment = Experiment(TICKS, prepare, sides, 1 if quick else 3)

    def judge(measured: Measured) -> list[Figure]:
        found = measured[TICKS]

        def figure(name: str, unit: str, value: str, goal: float | None) -> Figure:
            return absolute(name, unit, found, TICKS, reported(value), goal)

        return [
            *(figure(name, "s", name, 0.3) for name in NAMES),
            figure(f"response_status, {opened} batches changed", "s", "changed", 0.3),
            figure("the longest first tick, without cursors", "s", "first", 1.0),
            figure("all cursors", "kB", "cursors", None),
            absolute("client above idle", "MiB", found, TICKS, client_mib),
        ]

    work = f"ticks of all sensors, {count:,} batches, {opened} of them open"
    return Case("12", work, "–", [experiment], judge)


def _check(opened: int, _: Installation, figures: Figures) -> None:
    if figures["acted_idle"] or figures["acted_on_changes"] != opened:
        raise WrongResult(f"expected nothing, then {opened} changes, found {figures}")
