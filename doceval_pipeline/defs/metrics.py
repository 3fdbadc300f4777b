"""The page `/metrics` of the webserver, in Prometheus's text format.

Each database is read in a thread of its own, within a time limit: a database that is down sets its
`doceval_up` to 0, and the figures of the others stay. Labels are words of this project, Dagster's words, and
names of connections, of which at most `MOST_CONNECTIONS` are shown.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster_shared.serdes import deserialize_value
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, text
from starlette.requests import Request
from starlette.responses import Response

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, observed
from doceval_pipeline.batches.monitoring.figures import (
    SECONDS,
    OpenCounts,
    read_batch_figures,
    read_queue_figures,
)
from doceval_pipeline.domain.metrics import BatchFigures, OpenFigures, QueueFigures
from doceval_pipeline.errors import in_one_line
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.settings import Settings

# Prometheus waits 10 s by default.
SECONDS_FOR_ALL = 8.0
MOST_CONNECTIONS = 50
LONGEST_NAME = 100
OTHERS = "(others)"
# Media type of the format that `generate_latest` writes.
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# The sensors whose lag is shown, because sensors that users add may tick when they like. The last one exists
# only with a webhook.
WEBHOOK_SENSOR = "completion_webhook"
SENSORS = (
    "new_batches",
    "response_status",
    "stalled_work",
    "staging_failure",
    "dead_runs",
    "recurring_evaluations",
    "fresh_leaderboard",
    "fresh_series",
    WEBHOOK_SENSOR,
)
_log = logging.getLogger("dagster-webserver")
_RUNS = text("SELECT status, count(*) AS runs FROM runs GROUP BY status")
_SENSORS = text("SELECT instigator_body AS body FROM instigators WHERE instigator_type = 'SENSOR'")
# Dagster stores UTC without a time zone.
_HEARTBEATS = text("""
    SELECT daemon_type AS daemon,
           extract(epoch FROM (clock_timestamp() AT TIME ZONE 'UTC') - "timestamp")::float8 AS seconds
    FROM daemon_heartbeats ORDER BY daemon_type LIMIT 20
""")


@dataclass(frozen=True)
class DagsterFigures:
    """Figures of Dagster's database: runs by status, seconds by sensor and by daemon."""

    runs: dict[str, int]
    sensor_lags: dict[str, float]
    heartbeats: dict[str, float]


class Metrics(Collector):
    """The metrics of an installation; reads the databases whenever they are asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._counts = OpenCounts()
        self._readings = Readings()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def endpoint(self, _: Request) -> Response:
        """The response to a request for `/metrics`."""
        return Response(generate_latest(self._registry), media_type=MEDIA_TYPE, headers=HEADERS)

    def describe(self) -> Iterable[Metric]:
        """No metrics: they are known when the databases were read."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the databases side by side, and yield what they answered."""
        settings = self._settings
        found = self._readings.read(
            {
                DOC_EVAL[2]: lambda: read_batch_figures(settings),
                KNOWLEDGE[2]: lambda: read_queue_figures(settings),
                DAGSTER[2]: lambda: read_dagster_figures(settings),
                "open": lambda: self._counts.read(settings),
            },
            SECONDS_FOR_ALL,
        )
        databases = (DOC_EVAL[2], KNOWLEDGE[2], DAGSTER[2])
        yield labelled(
            "doceval_up",
            "Whether a database answers.",
            "database",
            {name: found[name] is not None for name in databases},
        )
        if (batches := found[DOC_EVAL[2]]) is not None:
            yield from _of_batches(batches)
        if (queue := found[KNOWLEDGE[2]]) is not None:
            yield from _of_queue(queue, found["open"])
        if (dagster := found[DAGSTER[2]]) is not None:
            yield from _of_dagster(dagster)


class Readings:
    """Reads in threads; a reading that hangs is waited for, and not begun a second time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[str, Future[Any]] = {}

    def read(self, readers: dict[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
        """What each reader returns; None if it fails, or takes longer than all may take together."""
        end = time.monotonic() + seconds
        begun = {name: self._begin(name, reader) for name, reader in readers.items()}
        return {name: _result(name, future, end - time.monotonic()) for name, future in begun.items()}

    def _begin(self, name: str, reader: Callable[[], Any]) -> Future[Any]:
        with self._lock:
            running = self._running.get(name)
            if running is not None and not running.done():
                return running
            future = self._running[name] = Future[Any]()
        # A daemon thread, unlike those of an executor, does not keep the webserver from ending.
        Thread(target=_run, args=(future, reader), name=f"metrics {name}", daemon=True).start()
        return future


def _run(future: Future[Any], reader: Callable[[], Any]) -> None:
    try:
        future.set_result(reader())
    except Exception as error:  # noqa: BLE001 - raised by the one who waits
        future.set_exception(error)


def _result(name: str, future: Future[Any], seconds: float) -> Any:
    try:
        return future.result(max(0.0, seconds))
    except TimeoutError:
        _log.warning("metrics: %s does not answer in time", name)
    except Exception as error:  # noqa: BLE001 - one database must not end the page
        _log.warning("metrics: %s: %s", name, in_one_line(error))
    return None


def read_dagster_figures(settings: Settings) -> DagsterFigures:
    """The figures of Dagster's database; raises as `observed`."""
    with observed(settings, DAGSTER, SECONDS) as connection:
        runs = {row.status: row.runs for row in connection.execute(_RUNS)}
        names = [name for name in SENSORS if name != WEBHOOK_SENSOR or settings.webhook_url]
        return DagsterFigures(
            dict.fromkeys((status.value for status in DagsterRunStatus), 0) | runs,
            _sensor_lags(connection, names),
            {row.daemon: max(0.0, row.seconds) for row in connection.execute(_HEARTBEATS)},
        )


def _sensor_lags(connection: Connection, names: Iterable[str]) -> dict[str, float]:
    """By running sensor: seconds since it was due; 0 if it is not."""
    lags: dict[str, float] = {}
    now = time.time()
    for row in connection.execute(_SENSORS):
        state = deserialize_value(row.body, InstigatorState)
        data = state.instigator_data
        if not state.is_running or state.name not in names or not isinstance(data, SensorInstigatorData):
            continue
        last = max(data.last_tick_timestamp or 0.0, data.last_sensor_start_timestamp or 0.0)
        if last:
            lag = max(0.0, now - last - (data.min_interval or 0))
            # The state of a location that no longer exists stays in the table.
            lags[state.name] = min(lag, lags.get(state.name, lag))
    return lags


def labelled(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label and all its values."""
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for word, value in values.items():
        family.add_metric([word], float(value))
    return family


def _of_batches(figures: BatchFigures) -> Iterator[Metric]:
    yield labelled("doceval_batches", "Batches that are not archived.", "status", figures.batches)
    if figures.completed_at is not None:
        seconds = max(0.0, time.time() - figures.completed_at)
        yield GaugeMetricFamily(
            "doceval_seconds_since_last_completion", "Seconds since a batch was last completed.", seconds
        )


def _of_queue(queue: QueueFigures, opened: OpenFigures | None) -> Iterator[Metric]:
    yield labelled(
        "doceval_evaluations", "Evaluations of all batches that are not archived.", "state", queue.evaluations
    )
    yield GaugeMetricFamily(
        "doceval_oldest_waiting_seconds",
        "Age of the oldest waiting evaluation; 0 without one.",
        queue.oldest_waiting_seconds,
    )
    leases = {"active": queue.active_leases, "expired": queue.expired_leases}
    yield labelled("doceval_leases", "Evaluations that a processor holds by a lease.", "state", leases)
    yield GaugeMetricFamily(
        "doceval_open_evaluations_counted",
        "Whether the counts by connection are on this page: 0 if counting takes too long.",
        float(opened is not None),
    )
    if opened is None:
        return
    family = GaugeMetricFamily(
        "doceval_open_evaluations",
        "Evaluations of batches with unfinished evaluations.",
        labels=["state", "connection"],
    )
    for words, number in _bounded(opened).items():
        family.add_metric(words, number)
    yield family
    if opened.last_result_at is not None:
        yield GaugeMetricFamily(
            "doceval_seconds_since_last_result",
            "Seconds since a processor last wrote a result for a batch with unfinished evaluations.",
            max(0.0, time.time() - opened.last_result_at),
        )


def _bounded(figures: OpenFigures) -> Counter[tuple[str, str]]:
    """The counts with names of bounded number and length; the smallest connections are one."""
    sizes: Counter[str] = Counter()
    for (_, connection), number in figures.evaluations.items():
        sizes[connection] += number
    shown = {name for name, _ in sizes.most_common(MOST_CONNECTIONS)}
    values: Counter[tuple[str, str]] = Counter()
    for (state, connection), number in figures.evaluations.items():
        name = without_keys(connection)[:LONGEST_NAME] if connection in shown else OTHERS
        values[state, name] += number
    return values


def _of_dagster(figures: DagsterFigures) -> Iterator[Metric]:
    yield labelled("doceval_runs", "Runs in Dagster's history.", "status", figures.runs)
    yield labelled(
        "doceval_sensor_lag_seconds", "Seconds since a sensor was due.", "sensor", figures.sensor_lags
    )
    yield labelled(
        "doceval_daemon_heartbeat_seconds",
        "Seconds since the last heartbeat of a part of Dagster's daemon.",
        "daemon",
        figures.heartbeats,
    )
