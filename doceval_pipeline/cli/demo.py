"""`doceval demo`: from sample documents to a completion report, on real parts.

Both databases, Dagster's daemon with its sensors and its queue of runs; only the processor on the
other side is a simulation, and says so.
"""

import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from threading import Event

import click
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.files.file_counts import batch_tallies, left_out, staged
from doceval_pipeline.batches.monitoring.status import BatchProgress, batch_progress
from doceval_pipeline.batches.results.report_files import newest_report
from doceval_pipeline.cli.bars import Bars
from doceval_pipeline.cli.output import console, fail
from doceval_pipeline.cli.processor import NOTICE, Behaviour, Simulation
from doceval_pipeline.cli.supervisor import StartFailed, Supervisor
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import load_evaluation_file
from doceval_pipeline.doc_eval.files import Tally
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.errors import StagingError
from doceval_pipeline.settings import Settings

SECONDS_TO_COMPLETE = 600


@click.command()
def demo() -> None:
    """Everything end to end on sample documents, with a simulated processor."""
    started = time.monotonic()
    settings = Settings.from_environment()
    console.print("[bold]doceval demo[/]: sample documents to a report, through all the real parts")
    console.print(f"[yellow]{NOTICE}[/]\n")
    number = None
    try:
        with Supervisor(settings, "doceval demo") as supervisor:
            opened = open_databases(settings)
            supervisor.start_daemon()
            number = _apply_sample(opened)
            # Rows of other batches are for a processor that calls LLMs.
            behaviour = Behaviour(failure_rate=0.12, latency=0.4, batch=number)
            with Simulation(settings, behaviour, workers=4) as simulation:
                progress = _wait_for_report(opened, number, supervisor, simulation)
            report = newest_report(opened, progress.batch)
            _say_result(progress, batch_tallies(opened, number), report, time.monotonic() - started)
    except KeyboardInterrupt:
        rest = f"; what waits of its batch is for any processor: doceval cancel {number}"
        said = "" if number is None else rest
        fail(f"interrupted{said}")
        raise SystemExit(130) from None
    if console.is_terminal and sys.stdin.isatty():
        webbrowser.open(report.as_uri())


COMMANDS = (demo,)


def _apply_sample(databases: Databases) -> int:
    """Apply the sample evaluation under a name of its own; returns the batch's number."""
    with as_file(files("doceval_pipeline").joinpath("sample")) as sample:
        located = load_evaluation_file(sample / "evaluation.yaml")
        name = f"demo {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        batches = [located.evaluation.batches[0].model_copy(update={"name": name})]
        evaluation = located.evaluation.model_copy(update={"batches": batches})
        applied = apply_evaluation(databases.doc_eval, replace(located, evaluation=evaluation), stage=True)
    return applied.numbers[name]


def _wait_for_report(
    databases: Databases, number: int, supervisor: Supervisor, simulation: Simulation
) -> BatchProgress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting Dagster's daemon", total=None)
        pause, before = Event(), None
        for progress in _each_look(databases, number, pause.wait):
            simulation.check()
            batch, cells = progress.batch, progress.cells
            # Where no bar can be drawn, each state has a line.
            if batch.status is not before and not console.is_terminal:
                console.print(f"{batch.key} {batch.status.value}")
            before = batch.status
            bars.update(
                task, total=batch.expected_cells, completed=cells.done, description=_stage_of(progress)
            )
            if batch.status in (Status.FAILED_STAGING, Status.FAILED):
                raise StagingError(f"{batch.key} is {batch.status}: {batch.failure_reason}")
            if batch.status is Status.COMPLETED and batch.reported_digest == batch.result_digest:
                return progress
    raise StartFailed(
        f"the demo's batch has no report after {SECONDS_TO_COMPLETE} s: see {supervisor.log('daemon')}"
    )


def _each_look(databases: Databases, number: int, wait: Callable[[float], bool]) -> Iterator[BatchProgress]:
    deadline = time.monotonic() + SECONDS_TO_COMPLETE
    while time.monotonic() < deadline:
        yield batch_progress(databases, str(number))[0]
        wait(0.3)


def _stage_of(progress: BatchProgress) -> str:
    waiting_for = {
        Status.SAVED: "saved; the sensor new_batches starts its staging",
        Status.STAGING: "staging: snapshot, assignment, documents, queue",
        Status.COMPLETED: "completed; the report is being written",
    }
    done, expected = progress.cells.done, progress.batch.expected_cells
    answering = f"{done} of {expected} cells answered by the simulated processor"
    return waiting_for.get(progress.batch.status, answering)


def _say_result(progress: BatchProgress, files: list[Tally], report: Path, seconds: float) -> None:
    batch, documents, cells = progress.batch, progress.documents, progress.cells
    console.print(f"[bold]{batch.key}[/] [green]{batch.status}[/]  {batch.name}")
    console.print(f"  {staged(documents.staged, documents.distinct)}; {left_out(files)}")
    console.print(
        f"  {batch.expected_cells} cells: {cells.succeeded} succeeded, {cells.failed} failed (simulated)"
    )
    console.print(f"\nReport: {report}")
    console.print(f"Done in {seconds:.0f} s. Next: [bold]make up[/] shows the batch in Dagster's UI.")
