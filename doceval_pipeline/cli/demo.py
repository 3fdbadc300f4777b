"""`doceval demo`: from sample documents to a completion report.

Uses both databases and Dagster's daemon with its sensors and run queue. Only the processor is simulated, and
its results are marked as such.
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
from typing import TYPE_CHECKING

from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from doceval_pipeline.cli.bars import ProgressBars
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.output import console, fail
from doceval_pipeline.cli.processor import NOTICE, Behaviour, Simulation
from doceval_pipeline.errors import StagingError
from doceval_pipeline.settings import Settings

if TYPE_CHECKING:
    from doceval_pipeline.batches.databases import Databases
    from doceval_pipeline.batches.monitoring.status import BatchProgress
    from doceval_pipeline.cli.supervision.supervisor import Supervisor
    from doceval_pipeline.doc_eval.files import Tally

SECONDS_TO_COMPLETE = 600


@command(epilog=examples("doceval demo"))
def demo() -> None:
    """Run a sample evaluation with a simulated processor.

    Stages sample documents, answers their queue rows with made-up results and writes the completion report.
    Takes about half a minute and calls no LLM.
    """
    from doceval_pipeline.batches.databases import open_databases
    from doceval_pipeline.batches.files.file_counts import batch_tallies
    from doceval_pipeline.batches.results.report_files import newest_report
    from doceval_pipeline.cli.supervision.supervisor import Supervisor

    started = time.monotonic()
    settings = Settings.from_environment()
    console.print(
        "[bold]doceval demo[/]: from sample documents to a report, with databases and Dagster's daemon"
    )
    console.print(f"[yellow]{NOTICE}[/]\n")
    number = None
    try:
        with Supervisor(settings, "doceval demo") as supervisor:
            opened = open_databases(settings)
            supervisor.start_daemon()
            number = _apply_sample(opened)
            # Rows of other batches are left to a processor that calls LLMs.
            # With 36 rows and 4 workers, all are answered before the sensors' next tick, 5 s after the one
            # that staged the batch.
            behaviour = Behaviour(failure_rate=0.12, latency=0.2, batch=number)
            with Simulation(settings, behaviour, workers=4) as simulation:
                progress = _wait_for_report(opened, number, supervisor, simulation)
            report = newest_report(opened, progress.batch)
            _print_result(progress, batch_tallies(opened, number), report, time.monotonic() - started)
    except KeyboardInterrupt:
        advice = f"; its waiting evaluations are still queued: doceval cancel {number}"
        fail(f"interrupted{'' if number is None else advice}")
        raise SystemExit(130) from None
    if console.is_terminal and sys.stdin.isatty():
        webbrowser.open(report.as_uri())


def _apply_sample(databases: "Databases") -> int:
    """Apply the sample evaluation under a name of its own; returns the batch's number."""
    from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
    from doceval_pipeline.doc_eval.definitions.evaluation_file import load_evaluation_file

    with as_file(files("doceval_pipeline").joinpath("sample")) as sample:
        located = load_evaluation_file(sample / "evaluation.yaml")
        name = f"demo {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        batches = [located.evaluation.batches[0].model_copy(update={"name": name})]
        evaluation = located.evaluation.model_copy(update={"batches": batches})
        applied = apply_evaluation(databases.doc_eval, replace(located, evaluation=evaluation), stage=True)
    return applied.numbers[name]


def _wait_for_report(
    databases: "Databases", number: int, supervisor: "Supervisor", simulation: Simulation
) -> "BatchProgress":
    from doceval_pipeline.cli.supervision.supervisor import StartFailed
    from doceval_pipeline.doc_eval.lifecycle import Status

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with ProgressBars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting Dagster's daemon", total=None)
        pause, before = Event(), None
        for progress in _poll_progress(databases, number, pause.wait):
            simulation.check()
            batch, cells = progress.batch, progress.cells
            # Without a terminal, print a line for each state.
            if batch.status is not before and not console.is_terminal:
                console.print(f"{batch.key} {batch.status.value}")
            before = batch.status
            bars.update(
                task, total=batch.expected_cells, completed=cells.done, description=_description(progress)
            )
            if batch.status in (Status.FAILED_STAGING, Status.FAILED):
                raise StagingError(f"{batch.key} is {batch.status}: {batch.failure_reason}")
            if batch.status is Status.COMPLETED and batch.reported_digest == batch.result_digest:
                return progress
    raise StartFailed(
        f"the demo's batch has no report after {SECONDS_TO_COMPLETE} s: see {supervisor.log('daemon')}"
    )


def _poll_progress(
    databases: "Databases", number: int, wait: Callable[[float], bool]
) -> "Iterator[BatchProgress]":
    """Yield the progress of a batch until the time limit is reached."""
    from doceval_pipeline.batches.monitoring.status import batch_progress

    deadline = time.monotonic() + SECONDS_TO_COMPLETE
    while time.monotonic() < deadline:
        yield batch_progress(databases, str(number))
        wait(0.3)


def _description(progress: "BatchProgress") -> str:
    from doceval_pipeline.doc_eval.lifecycle import Status

    waiting_for = {
        Status.SAVED: "saved; waiting for the sensor new_batches",
        Status.STAGING: "staging: snapshot, files, documents, queue",
        Status.COMPLETED: "completed; writing the report",
    }
    done, expected = progress.cells.done, progress.batch.expected_cells
    processing = f"{done} of {expected} evaluations answered by the simulated processor"
    return waiting_for.get(progress.batch.status, processing)


def _print_result(progress: "BatchProgress", files: "list[Tally]", report: Path, seconds: float) -> None:
    from doceval_pipeline.batches.files.file_counts import left_out, staged

    batch, documents, cells = progress.batch, progress.documents, progress.cells
    console.print(f"[bold]{batch.key}[/] [green]{batch.status}[/]  {batch.name}")
    console.print(f"  {staged(documents.staged, documents.distinct)}; {left_out(files)}")
    console.print(
        f"  {batch.expected_cells} evaluations: {cells.succeeded} succeeded, {cells.failed} failed "
        "(simulated)"
    )
    console.print(f"\nReport: {report}")
    console.print(f"Done in {seconds:.0f} s. Next: [bold]make up[/] shows the batch in Dagster's UI.")
