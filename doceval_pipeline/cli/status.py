"""`doceval status`: progress, throughput and stalls of batches."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases, warn_of_waiting
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import NO_BATCHES, console, fail, grouped, print_json_list, print_table, warn
from doceval_pipeline.cli.reports import report_url, running_webserver
from doceval_pipeline.cli.selection import select
from doceval_pipeline.cli.streams import is_output_lost
from doceval_pipeline.errors import UnknownBatch
from doceval_pipeline.names import printable
from doceval_pipeline.reports.formatting import counted, rough_duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from doceval_pipeline.batches.databases import Databases
    from doceval_pipeline.batches.monitoring.status import BatchProgress
    from doceval_pipeline.batches.monitoring.throughput import BatchThroughput
    from doceval_pipeline.batches.results.failures import FirstFailure
    from doceval_pipeline.batches.results.low_scores import NamedLowScores
    from doceval_pipeline.cli.bars import ProgressBars

SECONDS_BETWEEN_POLLS = 2.0
REPORTS_SHOWN = 10
# In a narrow terminal.
LINES_OF_A_BAR = 4
# Characters of the message of a batch's largest group of failures.
MESSAGE_CHARACTERS = 120


@command(epilog=examples("doceval status", "doceval status 1 --watch"))
@click.argument("batches", nargs=-1, metavar="[BATCH]...")
@click.option("--watch", is_flag=True, help="Keep showing the progress until all batches are done.")
@as_json_option
def status(*, batches: tuple[str, ...], watch: bool, as_json: bool) -> None:
    """Show the progress of batches.

    Shows files, evaluations, time left, problems and report addresses of all open batches and the newest
    200, with --json of all, or of each BATCH (a number, a name, or a quoted pattern such as 'contracts-*').
    Of each BATCH also the most frequent failure, and how many documents score below the thresholds of its
    prompts.
    """
    from doceval_pipeline.batches.monitoring.status import every_progress

    opened = databases()
    if batches:
        _show_selected(opened, batches, watch=watch, as_json=as_json)
    elif as_json:
        _print_as_json(every_progress(opened), _Findings())
    elif watch:
        _follow_overview(opened)
    else:
        _print_overview(opened)


def _show_selected(opened: "Databases", batches: Sequence[str], *, watch: bool, as_json: bool) -> None:
    """Show the given batches; ends with code 1 if one of them does not exist."""
    from doceval_pipeline.batches.monitoring.status import progress_of

    def read() -> "tuple[list[BatchProgress], list[UnknownBatch]]":
        selection = select(opened.doc_eval, batches, with_archived=True)
        return progress_of(opened, selection.batches), selection.unknown

    all_progress, unknown = read()
    for error in unknown:
        fail(str(error))
    if as_json:
        _print_as_json(all_progress, _findings(opened, all_progress))
    elif watch:
        follow(lambda: read()[0])
    else:
        _print_progress(all_progress, _findings(opened, all_progress))
    if unknown:
        raise SystemExit(1)


def _print_overview(opened: "Databases") -> None:
    from doceval_pipeline.batches.monitoring.status import (
        failed_occurrences,
        lost_without_batch,
        progress_overview,
    )

    all_progress, total = progress_overview(opened)
    _print_progress(all_progress, _Findings())
    if total > len(all_progress):
        left_out = counted(total - len(all_progress), "older closed batch is", "older closed batches are")
        console.print(f"{left_out} not shown: doceval list shows them", markup=False)
    for run in lost_without_batch(opened):
        warn(run.sentence)
    for sentence in failed_occurrences(opened):
        warn(sentence)
    warn_of_waiting(opened)


def _follow_overview(opened: "Databases") -> None:
    from doceval_pipeline.batches.monitoring.status import progress_overview

    shown: set[int] = set()

    def read() -> "list[BatchProgress]":
        # A batch that was shown stays until it is done.
        all_progress, _ = progress_overview(opened, shown)
        shown.update(progress.batch.id for progress in all_progress)
        return all_progress

    follow(read)


def _print_as_json(all_progress: "Iterable[BatchProgress]", findings: "_Findings") -> None:
    server = running_webserver()
    print_json_list(
        {**p.as_json(), "report_url": report_url(server, p.report), **findings.as_json(p.batch.id)}
        for p in all_progress
    )


@dataclass(frozen=True)
class _Findings:
    """What the results of named batches show so far, by batch."""

    failures: "Mapping[int, FirstFailure]" = field(default_factory=dict)
    low_scores: "Mapping[int, Sequence[NamedLowScores]]" = field(default_factory=dict)
    """Of each batch whose results are not in an archive."""

    def as_json(self, batch_id: int) -> dict[str, Any]:
        failure, low = self.failures.get(batch_id), self.low_scores.get(batch_id)
        return {
            "first_failure": None if failure is None else failure.as_json(),
            "below_threshold": None if low is None else [counts.as_json() for counts in low],
        }

    def lines(self, batch_id: int) -> Iterator[str]:
        """A line on the most frequent failure, and one for each threshold that documents fall below."""
        if failure := self.failures.get(batch_id):
            yield _failure_line(batch_id, failure)
        for counts in self.low_scores.get(batch_id, ()):
            if counts.counts.documents:
                yield counts.sentence


def _findings(opened: "Databases", all_progress: "Sequence[BatchProgress]") -> _Findings:
    """The findings of the given batches; two statements for all, and none for archived ones."""
    # Imported here, because only a command that names batches shows findings.
    from doceval_pipeline.batches.results.failures import first_failures
    from doceval_pipeline.batches.results.low_scores import low_scores

    present = [progress for progress in all_progress if progress.batch.archived_at is None]
    failed = [progress.batch.id for progress in present if progress.cells.failed]
    scored = [progress.batch.id for progress in present if progress.cells.succeeded]
    none = {progress.batch.id: () for progress in present}
    return _Findings(first_failures(opened, failed), {**none, **low_scores(opened, scored)})


def _failure_line(batch_id: int, first: "FirstFailure") -> str:
    group, failures = first.group, first.failures
    message = " ".join((first.message or "(no message)").split())
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[: MESSAGE_CHARACTERS - 1]}…"
    simulated = " (simulated)" if group.simulated == group.cells else ""
    return (
        f"{group.cells:,} of {counted(failures.cells, 'failure', 'failures')}{simulated}: {message} — "
        f"doceval failures {batch_id}"
    )


def _print_progress(all_progress: "list[BatchProgress]", findings: _Findings) -> None:
    if not all_progress:
        console.print(NO_BATCHES)
        return
    columns = (
        "batch",
        "name",
        "status",
        "files",
        "left out",
        "evaluations",
        "open",
        "ok",
        "failed",
        "time left",
    )
    print_table(
        columns, [_progress_row(progress) for progress in all_progress], optional=("left out", "time left")
    )
    for progress in all_progress:
        if progress.reuse:
            console.print(f"{progress.batch.key}: {progress.reuse}", markup=False)
        for line in findings.lines(progress.batch.id):
            console.print(printable(f"{progress.batch.key}: {line}"), markup=False)
    for line in grouped(
        (p.batch.key, p.batch.failure_reason) for p in all_progress if p.batch.failure_reason
    ):
        fail(line)
    for line in grouped((p.batch.key, sentence) for p in all_progress for sentence in _warnings(p)):
        warn(line)
    _print_reports([progress for progress in all_progress if progress.report is not None])


def _warnings(progress: "BatchProgress") -> Iterator[str]:
    from doceval_pipeline.batches.monitoring.stalls import STALLED, WorkState

    assessment = progress.assessment
    if assessment and assessment.state in (*STALLED, WorkState.SLOW):
        yield f"{assessment.state.label}: {assessment.sentence}"
    yield from progress.notices
    for notice in (progress.deferred, progress.webhook):
        if notice:
            yield notice.sentence


def _print_reports(reported: "list[BatchProgress]") -> None:
    """Print the addresses of the newest batches' reports, as links that a terminal can open."""
    server = running_webserver() if reported else None
    for progress in reported[-REPORTS_SHOWN:]:
        address = report_url(server, progress.report) or progress.report
        console.print(f"{progress.batch.key}: {address}", markup=False)
    if len(reported) > REPORTS_SHOWN:
        console.print(f"{len(reported) - REPORTS_SHOWN:,} more reports: doceval open BATCH", markup=False)


def _progress_row(progress: "BatchProgress") -> tuple[Any, ...]:
    batch, files, cells = progress.batch, progress.documents, progress.cells
    if batch.archived_at is not None:
        return (batch.key, batch.name, batch.state, None, None, batch.expected_cells, None, None, None, None)
    return (
        batch.key,
        batch.name,
        batch.state,
        files.assigned + files.staged,
        files.skipped + files.rejected,
        batch.expected_cells,
        (batch.expected_cells or 0) - cells.done,
        cells.succeeded,
        cells.failed,
        _time_left(progress.throughput),
    )


def _time_left(throughput: "BatchThroughput | None") -> str | None:
    """The estimated time left, in words; None if it is unknown."""
    if throughput is None or throughput.seconds_left is None:
        return None
    left = throughput.seconds_left
    low, high = rough_duration(left.low), rough_duration(left.high)
    return f"about {low}" if low == high else f"{low} to {high}"


def follow(read: "Callable[[], list[BatchProgress]]") -> None:
    """Show progress until all batches are done or the output is lost: bars in a terminal, otherwise lines."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn

    from doceval_pipeline.cli.bars import ProgressBars

    draws = console.is_terminal
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]}", markup=False),
    )
    bars, tasks = ProgressBars(*columns, console=console), dict[int, "TaskID"]()
    printed: dict[int, tuple[Any, ...]] = {}
    with bars if draws else nullcontext():
        while True:
            all_progress = read()
            for progress in all_progress:
                if draws and not is_over(progress):
                    _draw(bars, tasks, progress)
                elif printed.get(progress.batch.id) != (state := _noteworthy_state(progress)):
                    printed[progress.batch.id] = state
                    _remove_bar(bars, tasks, progress)
                    console.print(f"{_heading(progress)} {_progress_line(progress)}", markup=False)
            if is_output_lost() or all(map(is_over, all_progress)):
                return
            time.sleep(SECONDS_BETWEEN_POLLS)


def _draw(bars: "ProgressBars", tasks: "dict[int, TaskID]", progress: "BatchProgress") -> None:
    batch = progress.batch
    if batch.id not in tasks:
        tasks[batch.id] = bars.add_task("", total=None, done="")
    # Only as many as fit into the terminal: below its last line nothing can be redrawn.
    is_shown = list(tasks).index(batch.id) < max(console.height // LINES_OF_A_BAR - 1, 1)
    bars.update(
        tasks[batch.id],
        total=batch.expected_cells or None,
        completed=progress.cells.done,
        description=_heading(progress),
        done=_progress_line(progress),
        visible=is_shown,
    )


def _remove_bar(bars: "ProgressBars", tasks: "dict[int, TaskID]", progress: "BatchProgress") -> None:
    """Remove the bar of a batch that is done; a line above the bars replaces it."""
    task = tasks.pop(progress.batch.id, None)
    if task is not None:
        bars.remove_task(task)


def is_over(progress: "BatchProgress") -> bool:
    """Whether nothing happens any more unless a person acts."""
    return progress.batch.status in ("COMPLETED", "FAILED", "FAILED_STAGING")


def _heading(progress: "BatchProgress") -> str:
    return f"{progress.batch.key} {progress.batch.status.value}"


def _noteworthy_state(progress: "BatchProgress") -> tuple[Any, ...]:
    """The state whose change deserves a line; a slightly higher rate does not."""
    return progress.batch.status, progress.cells, progress.assessment and progress.assessment.state


def _progress_line(progress: "BatchProgress") -> str:
    """Counts, rate, and the time left or the reason for a stall, in one line."""
    from doceval_pipeline.batches.monitoring.stalls import STALLED, WorkState

    cells, throughput = progress.cells, progress.throughput
    counts = f"{cells.done:,} of {progress.batch.expected_cells or 0:,} evaluations, {cells.failed:,} failed"
    if cells.reused:
        counts += f", {cells.reused:,} reused"
    if progress.batch.held_reason is not None:
        return f"{counts}; {printable(f'held: {progress.batch.held_reason}')}"
    if progress.assessment and progress.assessment.state in (*STALLED, WorkState.SLOW, WorkState.DEFERRED):
        return f"{counts}; {printable(progress.assessment.state.label)}"
    parts = [counts]
    if throughput and throughput.recent_rate:
        parts.append(f"{throughput.recent_rate:,.0f} per hour")
    if left := _time_left(throughput):
        parts.append(f"{left} left")
    return ", ".join(parts)
