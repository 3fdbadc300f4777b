"""Case 13: a backfill of assets over many scattered batches, compared with one of four empty assets.

Measures the CPU time of all processes involved: the webserver, the daemon, the code servers, the runs, and
PostgreSQL. The duration depends on the number of concurrent runs.
"""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from threading import Event
from time import monotonic
from typing import Any

import yaml

from benchmarks import empty_assets, material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.dagster_runs import Started, connect, free_port, up
from benchmarks.errors import BenchmarkError, WrongResult
from benchmarks.figures import Figure, Measured, absolute, ratio, reported
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.server import ServerMeter, tree_cpu_seconds
from benchmarks.staging import OURS, require_rows
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import steps
from doceval_pipeline.cli.supervision.supervisor import script
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.embedded.server import EmbeddedServer

BARE = "4 empty assets"
BARE_DATABASE = "bare"
DOCUMENTS = 3
SECONDS_TO_START = 120
SECONDS_TO_STOP = 20
_STAGING = ("batch_config_snapshot", "document_assignment", "encoded_documents", "queue_rows")
_LAUNCH = """
    mutation ($params: LaunchBackfillParams!) {
        launchPartitionBackfill(backfillParams: $params) {
            __typename
            ... on LaunchBackfillSuccess { backfillId }
            ... on PythonError { message }
        }
    }
"""
_ADD_PARTITION = """
    mutation ($key: String!) {
        addDynamicPartition(
            partitionsDefName: "batches", partitionKey: $key,
            repositorySelector: {
                repositoryName: "__repository__", repositoryLocationName: "benchmarks.empty_assets"
            }
        ) { __typename }
    }
"""
_REGISTERED = "SELECT count(*) FROM dynamic_partitions"
_ENDED = """
    SELECT count(*) FILTER (WHERE status = 'SUCCESS'), count(*) FILTER (WHERE status = 'FAILURE')
    FROM runs JOIN run_tags USING (run_id) WHERE key = 'dagster/backfill' AND value = %s
"""
_BACKFILL_STATUS = "SELECT status FROM bulk_actions WHERE key = %s"


def backfill(
    databases: Databases,
    process: int,
    port: int,
    database: str,
    assets: Sequence[str],
    keys: Sequence[str],
    idle_seconds: float,
) -> Timed:
    """Launch a backfill over GraphQL and wait for its end.

    Parameters
    ----------
    process
        The ancestor of Dagster's processes.
    database
        The database in which Dagster stores its runs.
    idle_seconds
        How long to observe first, to measure the CPU use without a backfill.
    """
    pause, home = Event(), databases.settings.home
    server = ServerMeter(home)

    def used() -> float:
        return tree_cpu_seconds(process) + server.cpu_seconds()

    before, started = used(), monotonic()
    pause.wait(idle_seconds)
    idle_rate = (used() - before) / (monotonic() - started)

    def timed() -> Figures:
        begun, at = used(), monotonic()
        params = {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": keys}
        launched = _graphql(port, _LAUNCH, params=params)["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise BenchmarkError(f"the backfill was not launched: {launched}")
        with closing(connect(home, database)) as runs, runs.cursor() as cursor:
            runs.autocommit = True
            status = "REQUESTED"
            while status == "REQUESTED":
                pause.wait(0.2)
                cursor.execute(_BACKFILL_STATUS, (launched["backfillId"],))
                ((status,),) = cursor.fetchall()
            cursor.execute(_ENDED, (launched["backfillId"],))
            ((succeeded, failed),) = cursor.fetchall()
        took, cpu = monotonic() - at, used() - begun
        return {
            "status": status,
            "succeeded": succeeded,
            "failed": failed,
            "cpu": cpu / len(keys),
            "cpu_above_idle": (cpu - idle_rate * took) / len(keys),
            "idle_cpu_per_minute": idle_rate * 60,
        }

    return timed


def scattered_backfill(*, quick: bool) -> Case:
    """Case 13."""
    batches, idle_seconds = (4, 2.0) if quick else (100, 65.0)
    # Every other batch, so that no two are adjacent.
    numbers = range(1, 2 * batches, 2)
    keys = [partition_key(number) for number in numbers]
    running: list[Started] = []

    def prepare(installation: Installation) -> None:
        for number in range(1, 2 * batches):
            folder = material.documents(installation.folder / f"few-{number}", DOCUMENTS, 300, 0)
            installation.apply(folder, 2, 2)
            if number in numbers:
                material.store_batch(installation, number)
                steps.queue_evaluations(installation.databases, number)

    def before(database: str, assets: Sequence[str], installation: Installation) -> dict[str, Any]:
        _await_partitions(installation, database, len(keys))
        (started,) = running
        return {
            "process": started.process,
            "port": started.port,
            "database": database,
            "assets": assets,
            "keys": keys,
            "idle_seconds": idle_seconds,
        }

    def check(installation: Installation, figures: Figures) -> None:
        if (figures["status"], figures["succeeded"]) != ("COMPLETED_SUCCESS", batches):
            raise WrongResult(f"of {batches} batches: {figures}")
        require_rows(installation, batches * DOCUMENTS * 4)

    @contextmanager
    def ours(installation: Installation) -> Iterator[None]:
        with up(installation) as started:
            running[:] = [started]
            yield

    @contextmanager
    def bare(installation: Installation) -> Iterator[None]:
        with _bare(installation) as started:
            running[:] = [started]
            for key in keys:
                _graphql(started.port, _ADD_PARTITION, key=key)
            yield

    def judge(measured: Measured) -> list[Figure]:
        found = [*measured["ours"], *measured["bare"]]
        return [
            absolute("CPU for each batch", "s", found, OURS, reported("cpu"), 1.0),
            absolute("CPU for each batch, above idle", "s", found, OURS, reported("cpu_above_idle")),
            ratio("CPU beside the empty assets", found, OURS, BARE, None, reported("cpu")),
            absolute("CPU of the empty assets for each batch", "s", found, BARE, reported("cpu")),
            absolute("idle, CPU in a minute", "s", found, OURS, reported("idle_cpu_per_minute")),
        ]

    experiments = [
        Experiment(
            "ours",
            prepare,
            [Side(OURS, backfill, partial(before, "dagster", _STAGING), check)],
            1,
            ours,
        ),
        Experiment(
            "bare",
            lambda _: None,
            [Side(BARE, backfill, partial(before, BARE_DATABASE, empty_assets.NAMES), check)],
            1,
            bare,
        ),
    ]
    return Case(
        "13", f"a backfill of {batches} scattered batches of {DOCUMENTS} documents", BARE, experiments, judge
    )


@contextmanager
def _bare(installation: Installation) -> Iterator[Started]:
    """`dagster dev` with its defaults and Dagster's own PostgreSQL storage."""
    server = EmbeddedServer(installation.home)
    server.ensure_database(BARE_DATABASE)
    home = installation.home / "bare"
    home.mkdir(exist_ok=True)
    configuration = {
        "storage": {"postgres": {"postgres_url": server.url(BARE_DATABASE)}},
        "concurrency": {"runs": {"max_concurrent_runs": 4}},
        "telemetry": {"enabled": False},
    }
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [script("dagster"), "dev", "-m", "benchmarks.empty_assets", "-p", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "DAGSTER_HOME": str(home)},
            start_new_session=True,
        )
    try:
        _until(lambda: _answers(port), "the bare project did not start")
        yield Started(process.pid, port)
    finally:
        # Processes that `dagster dev` started do not always end with it.
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(SECONDS_TO_STOP)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        return bool(_graphql(port, "{ repositoriesOrError { __typename } }"))
    except OSError:
        return False


def _await_partitions(installation: Installation, database: str, least: int) -> None:
    def registered() -> bool:
        with closing(connect(installation.home, database)) as found, found.cursor() as cursor:
            cursor.execute(_REGISTERED)
            ((count,),) = cursor.fetchall()
        return bool(count >= least)

    _until(registered, "the partitions were not registered")


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    pause, deadline = Event(), monotonic() + SECONDS_TO_START
    while not condition():
        if monotonic() > deadline:
            raise BenchmarkError(otherwise)
        pause.wait(0.2)


def _graphql(port: int, query: str, **variables: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - a loopback address of ours
        data: dict[str, Any] = json.load(answer)["data"]
    return data
