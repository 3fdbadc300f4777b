"""The second part of case 11: the cost of a tick as the number of batches grows."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import dagster as dg

from benchmarks import material
from benchmarks.child import Figures, Timed
from benchmarks.dagster_runs import connect
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, absolute, ratio, reported
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.knowledge.digests import digest

BATCHES = "batches"
SENSORS = ("new_batches", "response_status", "staging_failure")
# Open batches out of a hundred; the others are completed.
OPEN_OF_100 = 1
_BATCHES = """
    INSERT INTO batches (id, batch_number, batch_name, status, config_snapshot, config_sha256, expected_cells,
                         result_digest, reported_digest)
    SELECT n, n, 'batch ' || n, CASE WHEN n % 100 < :open THEN 'ANALYZING' ELSE 'COMPLETED' END, '{}',
           'of nothing', 4, digest, digest
    FROM generate_series(1, :batches) AS n,
         LATERAL (SELECT CASE WHEN n % 100 >= :open THEN :digest END) AS known(digest)
"""


def tick(databases: Databases, batches: int) -> Timed:
    """One tick of each sensor, after a tick that has processed everything new."""
    instance = open_instance(databases.settings)
    # One statement, because Dagster deletes partitions one by one.
    with closing(connect(databases.settings.home, "dagster")) as storage, storage, storage.cursor() as cursor:
        cursor.execute("TRUNCATE dynamic_partitions")
    instance.add_dynamic_partitions(partitions.NAME, [partition_key(n) for n in range(1, batches + 1)])
    sensors = _sensors()
    cursors = {name: _tick(sensors[name], instance, None)[1] for name in SENSORS}

    def timed() -> Figures:
        took: dict[str, Any] = {"requests": 0}
        for name in SENSORS:
            started = time.perf_counter()
            requests, _ = _tick(sensors[name], instance, cursors[name])
            took[name] = time.perf_counter() - started
            took["requests"] += requests
        return took

    return timed


def tick_figures(found: list[Measurement], numbers: tuple[int, ...]) -> list[Figure]:
    """Seconds of each sensor's tick, and how they grow."""
    fewest, most = numbers[0], numbers[-1]
    ticks = [
        absolute(f"{name} at {most:,} batches", "s", found, str(most), reported(name), 0.5)
        for name in SENSORS
    ]
    return ticks + [
        ratio(f"{name}, {most:,} / {fewest:,}", found, str(most), str(fewest), None, reported(name))
        for name in SENSORS
    ]


def batches(numbers: tuple[int, ...], rounds: int) -> Experiment:
    """Ticks beside each of the numbers of batches."""

    def prepare(installation: Installation) -> None:
        installation.empty()
        material.stored_batch(
            installation, material.documents(installation.folder / "few", 1, material.KIB), 2, 2
        )

    def before(count: int) -> Callable[[Installation], dict[str, Any]]:
        return lambda installation: _make_batches(installation, count)

    def check(_: Installation, figures: Figures) -> None:
        if figures["requests"]:
            raise WrongResult(f"nothing was new, but the sensors requested {figures['requests']} runs")

    sides = [Side(str(count), tick, before(count), check) for count in numbers]
    return Experiment(BATCHES, prepare, sides, rounds)


def _make_batches(installation: Installation, count: int) -> dict[str, Any]:
    installation.doc_eval("TRUNCATE batches CASCADE")
    installation.empty_queue()
    material.finished_rows(installation, range(1, count + 1), 2, 2)
    with installation.databases.knowledge.connect() as connection:
        # A batch's number is not part of its digest, and these batches are alike.
        result = digest(connection, 1)
    installation.make_rows(
        "UPDATE llm_responses SET status = 'QUEUED' WHERE batch_id % 100 < :open",
        range(1, count + 1),
        open=OPEN_OF_100,
    )
    installation.doc_eval(_BATCHES, open=OPEN_OF_100, batches=count, digest=result)
    installation.vacuum("llm_responses")
    installation.checkpoint()
    return {"batches": count}


def _sensors() -> dict[str, dg.SensorDefinition]:
    from doceval_pipeline.defs import sensors

    return {name: getattr(sensors, name) for name in SENSORS}


def _tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None
) -> tuple[int, str | None]:
    """The number of requests of a tick, and its cursor."""
    found = sensor(dg.build_sensor_context(instance=instance, cursor=cursor), doc_eval=DocEval())
    if not isinstance(found, dg.SensorResult):
        return 0, None
    return len(found.run_requests or []) + len(found.dynamic_partitions_requests or []), found.cursor
