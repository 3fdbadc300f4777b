"""Processes of `doceval up` are killed: what was asked for is done, and nothing that lives is ended."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, query, running_up, status, write_evaluation
from doceval_pipeline_tests.faults.sizes import short_and_full

PORT = "3941"
# On a machine with nothing else to do it is three minutes at most: Dagster gives up a run that does not begin
# after 90 s, looks each 10 s, and 30 s later the run is asked for again.
SECONDS_TO_REPORT = 180
SECONDS_TO_FREE = 90
DONE = "UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE batch_id = %s"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Not below pytest's own folder, whose path may be too long to hold sockets.
    folder = Path(tempfile.mkdtemp(prefix="doceval-lost-"))
    yield folder
    EmbeddedServer(folder).stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator["subprocess.Popen[str]"]:
    yield from running_up(home, PORT)


def within(seconds: float, happened: Callable[[], Any], pause: float = 0.2) -> Any:
    """What happens within some seconds."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(pause)
    return found


def apply(home: Path, folder: Path, name: str, *options: str) -> int:
    file = write_evaluation(folder / name.replace(" ", "-"), name, documents=1)
    doceval("apply", str(file), *options, DOCEVAL_HOME=str(home))
    return int(status(home, name)["batch"])


def file_of(folder: Path, name: str) -> str:
    return str(folder / name.replace(" ", "-") / "evaluation.yaml")


def runs(home: Path, job: str, number: int) -> list[tuple[str, str]]:
    """Run id and status of the runs of a batch, the oldest first."""
    statement = "SELECT run_id, status FROM runs WHERE pipeline_name = %s AND partition = %s ORDER BY id"
    return query(home, statement, job, f"batch-{number:06d}", database="dagster")


def process_of(home: Path, run_id: str) -> psutil.Process | None:
    found = query(home, "SELECT process FROM live_runs WHERE run_id = %s", run_id, database="doc_eval")
    return psutil.Process(int(found[0][0].split(":")[1])) if found and found[0][0] else None


def reported(home: Path, number: int) -> bool:
    statement = "SELECT result_digest = reported_digest FROM batches WHERE id = %s"
    return bool(query(home, statement, number, database="doc_eval")[0][0])


def warm_processes(up: "subprocess.Popen[str]") -> int:
    """How many processes start runs, or are a run."""
    found = 0
    for process in psutil.Process(up.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += "doceval_pipeline.defs.warm" in process.cmdline()
    return found


def kill_code(up: "subprocess.Popen[str]") -> set[str]:
    """Kill the code servers, the warm process and all runs that it started; returns the kinds that lived."""
    killed = set()
    for process in psutil.Process(up.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            kind = "grpc" if "grpc" in words else "warm" if "doceval_pipeline.defs.warm" in words else None
            if kind is not None:
                process.kill()
                killed.add(kind)
    return killed


@pytest.mark.slow
def test_dead_runs_make_way_stopped_ones_live_and_a_report_survives_the_warm_process(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCEVAL_HOME", str(home))
    databases = open_databases(Settings.from_environment())
    killed, stopped, written = (apply(home, tmp_path, name) for name in ("killed", "stopped", "written"))
    doceval("stage", str(written), DOCEVAL_HOME=str(home))
    with number_lock(databases, stopped):
        with number_lock(databases, killed):
            # Nobody but the sensor sees that the process of a command is gone.
            command = subprocess.Popen([DOCEVAL, "stage", str(killed)], stderr=subprocess.DEVNULL)
            ((dead_run, _),) = within(60, lambda: runs(home, "stage_batch", killed))
            within(60, lambda: process_of(home, dead_run))
            doceval("apply", file_of(tmp_path, "stopped"), "--stage", DOCEVAL_HOME=str(home))
            ((stopped_run, _),) = within(60, lambda: runs(home, "stage_batch", stopped))
            alive = within(60, lambda: process_of(home, stopped_run))
            alive.suspend()
            command.kill()
            command.wait()
            at = time.monotonic()
            doceval("apply", file_of(tmp_path, "killed"), "--stage", DOCEVAL_HOME=str(home))
        within(SECONDS_TO_FREE, lambda: dict(runs(home, "stage_batch", killed))[dead_run] == "FAILURE")
        print(f"dead run reported after {time.monotonic() - at:.0f} s")
        within(60, lambda: status(home, "killed")["status"] == "STAGED", pause=2)
        print(f"staged by the next run after {time.monotonic() - at:.0f} s")
        assert dict(runs(home, "stage_batch", stopped))[stopped_run] == "STARTED"
        alive.resume()
    within(60, lambda: status(home, "stopped")["status"] == "STAGED", pause=2)
    assert runs(home, "stage_batch", stopped) == [(stopped_run, "SUCCESS")]

    query(home, DONE, written)
    within(60, lambda: runs(home, "report_batch", written) and warm_processes(up) > 1, pause=0.01)
    assert kill_code(up) == {"grpc", "warm"}
    print(f"killed: {runs(home, 'report_batch', written)}")
    at = time.monotonic()
    within(SECONDS_TO_REPORT, lambda: reported(home, written))
    print(f"report after {time.monotonic() - at:.0f} s: {runs(home, 'report_batch', written)}")


@short_and_full("spinners, batches", (4, 6), (16, 50))
def test_on_a_busy_machine_every_batch_that_was_applied_is_staged_and_reported(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path, spinners: int, batches: int
) -> None:
    file = write_evaluation(tmp_path, "busy", documents=1)
    content = json.loads(file.read_text())
    (batch,) = content["batches"]
    content["batches"] = [{**batch, "name": f"busy {n}"} for n in range(batches)]
    file.write_text(json.dumps(content))
    began = time.monotonic()
    spinning = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(spinners)]
    try:
        doceval("apply", str(file), "--stage", DOCEVAL_HOME=str(home))
        named = "SELECT id FROM batches WHERE starts_with(batch_name, 'busy ')"
        numbers = [row[0] for row in query(home, named, database="doc_eval")]
        assert len(numbers) == batches
        left = set(numbers)
        while left:
            states = dict(query(home, "SELECT id, status FROM batches", database="doc_eval"))
            assert "FAILED_STAGING" not in {states[number] for number in numbers}
            for number in left:
                if states[number] == "STAGED":
                    query(home, DONE, number)
            left = {number for number in left if not reported(home, number)}
            assert time.monotonic() - began < 60 * batches, f"{len(left)} of {batches} are not reported"
            time.sleep(2)
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    print(f"{batches} batches with {spinners} spinners: {time.monotonic() - began:.0f} s")
    for number in numbers:
        assert [state for _, state in runs(home, "report_batch", number)].count("SUCCESS") == 1
