"""Cases 8 and 9: Dagster's overhead, from the last result to the report, and in a run of a small staging.

Uses a complete installation: `doceval up` with its defaults, Dagster's storage in PostgreSQL.
"""

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import psycopg2
import yaml

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.empty_assets import empty_definitions
from benchmarks.errors import BenchmarkError, WrongResult
from benchmarks.figures import Figure, Measured, quantile, ratio, reported, seconds
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, require_rows
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli.runs import QUIET, open_job
from doceval_pipeline.cli.supervision.supervisor import script
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.instance import dagster_environment, open_instance
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.embedded.server import USER, EmbeddedServer
from doceval_pipeline.settings import Settings

EMPTY = "4 empty assets"
POOLED = "4 empty assets on our storage"
CHECKED = "4 empty assets and 3 empty checks on our storage"
SECONDS_TO_REPORT = 120
# Length of the daemon's loop, whose phase is independent of the processor.
LOOP_SECONDS = 5.0
_MATERIALIZED = """
    SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'
    AND asset_key = '["completion_report"]' AND partition = %s
"""
_ANSWER = """
    UPDATE llm_responses SET status = CASE WHEN id %% 4 = 0 THEN 'F' ELSE 'S' END, overall_score = 50
    WHERE batch_id = %s
"""


@dataclass(frozen=True)
class Started:
    """The ancestor of Dagster's processes, and the port of the webserver."""

    process: int
    port: int


def until_report(databases: Databases, batch: int, phase: float) -> Timed:
    """Commit the last results, then wait until Dagster shows the report's materialization."""
    home = databases.settings.home
    pause = Event()
    # A random phase of the daemon's loop, so that the trials together cover all of it.
    pause.wait(phase)

    def timed() -> Figures:
        with (
            closing(connect(home, "KnowledgeDocuments")) as knowledge,
            knowledge,
            knowledge.cursor() as cursor,
        ):
            cursor.execute(_ANSWER, (batch,))
        with closing(connect(home, "dagster")) as events:
            events.autocommit = True
            deadline = time.monotonic() + SECONDS_TO_REPORT
            while not _count(events, partition_key(batch)):
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"no report of batch {batch} after {SECONDS_TO_REPORT} s")
                pause.wait(0.02)  # Dagster sends no notification
        return {"batch": batch}

    return timed


def stage_in_dagster(databases: Databases, batch: int) -> Timed:
    """The job `stage_batch`, as `doceval stage` runs it, with everything imported."""

    def timed() -> Figures:
        with open_job("stage_batch", [batch], quiet=True) as run:
            run_id = run(batch).run_id
        return {"run_seconds": _run_seconds(databases.settings.home, run_id)}

    return timed


def run_empty_assets(databases: Databases, batch: int) -> Timed:
    """A chain of four empty assets of one partition, on Dagster's own storage."""
    return _run(databases, batch, empty_definitions(with_checks=False), _plain_instance)


def run_empty_assets_on_ours(databases: Databases, batch: int) -> Timed:
    """The same on our storage, which pools its connections."""
    return _run(databases, batch, empty_definitions(with_checks=False), open_instance)


def run_empty_assets_and_checks(databases: Databases, batch: int) -> Timed:
    """The same on our storage with as many empty checks as staging has: Dagster's own cost."""
    return _run(databases, batch, empty_definitions(with_checks=True), open_instance)


def _plain_instance(settings: Settings) -> dg.DagsterInstance:
    """Our instance, but with Dagster's own storage on the same tables."""
    configuration = yaml.safe_load(files("doceval_pipeline").joinpath("dagster.yaml").read_text())
    configuration["storage"] = {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    home = settings.home / "plain"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    os.environ.update(dagster_environment(settings))
    return dg.DagsterInstance.from_config(str(home))


def _run(
    databases: Databases, batch: int, defs: dg.Definitions, opened: Callable[[Settings], dg.DagsterInstance]
) -> Timed:
    def timed() -> Figures:
        key = partition_key(batch)
        with opened(databases.settings) as instance:
            instance.add_dynamic_partitions(partitions.NAME, [key])
            job = defs.resolve_job_def("empty")
            result = job.execute_in_process(instance=instance, partition_key=key, run_config=QUIET)
        return {"run_seconds": _run_seconds(databases.settings.home, result.run_id)}

    return timed


def time_to_report(*, quick: bool) -> Case:
    """Case 8."""
    trials = 2 if quick else 30
    chance = random.Random(8)

    def before(installation: Installation) -> dict[str, Any]:
        number = installation.apply(numbered_folder(installation, "answered"), 2, 2)
        _stage(number)
        return {"batch": number, "phase": chance.uniform(0, LOOP_SECONDS)}

    def check(installation: Installation, figures: Figures) -> None:
        reports = list((installation.home / "reports").glob(f"{partition_key(figures['batch'])}-*.html"))
        if len(reports) != 1 or "8 of 32 evaluations failed" not in reports[0].read_text():
            raise WrongResult(f"batch {figures['batch']} has {len(reports)} reports, or a wrong one")

    def judge(measured: Measured) -> list[Figure]:
        found = measured["trials"]
        return [
            quantile("p50", "s", found, OURS, seconds, 50, 8),
            quantile("p95", "s", found, OURS, seconds, 95, 12),
        ]

    sides = [Side(OURS, until_report, before, check)]
    experiment = Experiment("trials", Installation.empty, sides, trials, up)
    return Case(
        "8", "last S or F committed → report materialized", "Dagster's loop of 5 s", [experiment], judge
    )


def in_one_process(*, quick: bool) -> Case:
    """The part of case 9 that leaves out the start of the process."""

    def before(installation: Installation) -> dict[str, Any]:
        return {"batch": installation.apply(numbered_folder(installation, "run"), 2, 2)}

    def before_ours(installation: Installation) -> dict[str, Any]:
        installation.empty()
        return before(installation)

    def prepare(installation: Installation) -> None:
        # The first run creates the tables of Dagster's storage.
        _stage(before(installation)["batch"])

    def check(rows: int, installation: Installation, _: Figures) -> None:
        require_rows(installation, rows)

    sides = [
        Side(OURS, stage_in_dagster, before_ours, partial(check, 32)),
        Side(EMPTY, run_empty_assets, before_ours, partial(check, 0)),
        Side(POOLED, run_empty_assets_on_ours, before_ours, partial(check, 0)),
        Side(CHECKED, run_empty_assets_and_checks, before_ours, partial(check, 0)),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["runs"]
        return [
            ratio("run, from start to end", found, OURS, EMPTY, 1.30, reported("run_seconds")),
            ratio(f"the run of {POOLED}", found, POOLED, EMPTY, None, reported("run_seconds")),
            ratio(f"the run of {CHECKED}", found, CHECKED, EMPTY, None, reported("run_seconds")),
            ratio("with opening Dagster's instance", found, OURS, EMPTY, None, seconds),
        ]

    experiment = Experiment("runs", prepare, sides, 1 if quick else 11)
    return Case(
        "9", "stage 8 documents, the whole run", "an in-process run of 4 empty assets", [experiment], judge
    )


def connect(home: Path, database: str) -> "psycopg2.extensions.connection":
    """A connection to a database of an installation, as another program would open it."""
    return psycopg2.connect(host=str(EmbeddedServer(home).sockets), user=USER, dbname=database)


def _stage(batch: int) -> None:
    subprocess.run([script("doceval"), "stage", str(batch)], check=True, stdout=subprocess.DEVNULL)


def numbered_folder(installation: Installation, name: str) -> Path:
    """A new folder of 8 documents; a new one for each batch, because a batch is named after its folder."""
    number = len(list(installation.folder.glob(f"{name}-*")))
    return material.documents(installation.folder / f"{name}-{number}", 8, 20 * material.KIB)


@contextmanager
def up(installation: Installation) -> Iterator[Started]:
    """`doceval up` with its defaults, on a free port."""
    port = free_port()
    command = [script("doceval"), "up", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        lines: Callable[[], str] = process.stdout.readline if process.stdout else str
        while "Dagster is at" not in (line := lines()):
            if not line:
                raise BenchmarkError("doceval up ended unexpectedly: see its output")
        yield Started(process.pid, port)
    finally:
        # Not SIGINT, which processes that a shell starts in the background ignore.
        process.terminate()
        process.wait()


def free_port() -> int:
    """A free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_seconds(home: Path, run_id: str) -> float:
    """The duration of a run in seconds, as Dagster recorded it."""
    with closing(connect(home, "dagster")) as events, events.cursor() as cursor:
        cursor.execute("SELECT end_time - start_time FROM runs WHERE run_id = %s", (run_id,))
        ((took,),) = cursor.fetchall()
    return float(took)


def _count(connection: "psycopg2.extensions.connection", partition: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_MATERIALIZED, (partition,))
        ((count,),) = cursor.fetchall()
    return int(count)
