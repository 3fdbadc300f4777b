"""`doceval compare`: compares two batches, or two connections or prompts of one batch."""

from pathlib import Path
from typing import Any

import click

from doceval_pipeline.batches.results.comparing import (
    Dimension,
    compare_batches,
    compare_in_batch,
    write_comparison,
)
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, console_beside, errors, output_path, print_json, print_table
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.names import printable
from doceval_pipeline.reports.comparison import ComparedColumn, ComparedSide, Comparison
from doceval_pipeline.reports.formatting import points_text, probability_text, score_text
from doceval_pipeline.reports.score_changes import THRESHOLD


@command(
    epilog=examples(
        "doceval compare 1 2",
        "doceval compare 1 --connections gpt llama",
        "doceval compare 1 2 --html comparison.html",
    )
)
@click.argument("batches", nargs=-1, required=True, metavar="BATCH [BATCH]")
@click.option("--connections", nargs=2, metavar="NAME NAME", help="Compare two connections of one BATCH.")
@click.option("--prompts", nargs=2, metavar="NAME NAME", help="Compare two prompts of one BATCH.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 100),
    default=THRESHOLD,
    show_default=True,
    help="A score at or above it is good; documents that cross it are counted.",
)
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=output_path,
    help="Also write an HTML page into this file; - is standard output.",
)
@as_json_option
def compare(
    *,
    batches: tuple[str, ...],
    connections: tuple[str, str] | None,
    prompts: tuple[str, str] | None,
    threshold: float,
    page: Path | None,
    as_json: bool,
) -> None:
    """Compare two batches, connections or prompts.

    Shows by how much the second scores higher than the first on the same documents.

    \b
    doceval compare BATCH BATCH                      two batches (numbers or names)
    doceval compare BATCH --connections NAME NAME    two connections of a batch
    doceval compare BATCH --prompts NAME NAME        two prompts of a batch

    Leaves out documents and columns (connection and prompt) that only one of the two has. The first line of
    the output can be pasted into a message.
    """
    if len(batches) + bool(connections) + bool(prompts) != 2 or len(batches) > 2:
        raise click.UsageError("pass two batches, or one batch with either --connections or --prompts")
    beside = console_beside(page, as_json=as_json)
    opened = databases()
    if connections:
        comparison = compare_in_batch(opened, batches[0], Dimension.CONNECTION, connections, threshold)
    elif prompts:
        comparison = compare_in_batch(opened, batches[0], Dimension.PROMPT, prompts, threshold)
    else:
        first, second = batches
        comparison = compare_batches(opened, first, second, threshold)
    if page is not None:
        write_comparison(comparison, page)
    if as_json:
        print_json(comparison.as_json())
    elif beside is errors:
        errors.print(printable(comparison.verdict), markup=False)
    else:
        _print(comparison)
        if page is not None:
            console.print(str(page), markup=False)


_OPTIONAL = ("connection", "prompt", "changed")
_HEADINGS = (
    "connection",
    "prompt",
    "documents",
    "first",
    "second",
    "difference",
    "95 % interval",
    "p",
    "rose",
    "fell",
    "same",
    "changed",
)


def _print(comparison: Comparison) -> None:
    console.print(printable(comparison.verdict), markup=False)
    if comparison.simulated:
        errors.print("simulated results: no LLM was called", style="magenta")
    overall = comparison.overall
    console.print(
        f"documents that crossed {score_text(overall.threshold)}: {overall.flipped_up:,} upwards, "
        f"{overall.flipped_down:,} downwards; mean change {points_text(overall.net)}, mean size of changes "
        f"{points_text(overall.gross)}"
    )
    first, second = (f"{side.name} ({side.partition_key})" for side in (comparison.first, comparison.second))
    console.print(printable(f"first is {first}, second is {second}"), markup=False)
    console.print()
    title = None
    if len(comparison.columns) > 1:
        title = f"by column, p corrected for {len(comparison.columns):,} comparisons"
    print_table(_HEADINGS, [_row(column) for column in comparison.columns], title, optional=_OPTIONAL)
    _print_left_out(comparison)
    if overall.flips:
        shifts = [(flip.document, score_text(flip.before), score_text(flip.after)) for flip in overall.flips]
        console.print()
        print_table(("file", "first", "second"), shifts, "largest changes")


def _row(column: ComparedColumn) -> tuple[Any, ...]:
    names, changed = (column.connection, column.prompt), ", ".join(column.changed) or None
    changes = column.score_changes
    if changes is None or column.first_mean is None or column.second_mean is None:
        return (*names, 0, *(None,) * 8, changed)
    difference = changes.difference
    interval = (
        None
        if difference.low is None or difference.high is None
        else f"{points_text(difference.low)} to {points_text(difference.high)}"
    )
    return (
        *names,
        difference.n,
        score_text(column.first_mean),
        score_text(column.second_mean),
        points_text(difference.mean),
        interval,
        None if difference.p is None else probability_text(difference.p).removeprefix("= "),
        changes.rose,
        changes.fell,
        changes.same,
        changed,
    )


def _print_left_out(comparison: Comparison) -> None:
    """Print the results that are left out of the differences, by reason."""
    first, second = comparison.first, comparison.second
    rows = [
        (side.name, column.connection, column.prompt, *_left_out(counts))
        for column in comparison.columns
        for side, counts in ((first, column.first_cells), (second, column.second_cells))
        if any(_left_out(counts))
    ]
    if rows:
        console.print()
        columns = (
            "name",
            "connection",
            "prompt",
            "without a score",
            "failed",
            "not done",
            "missing",
            "reused",
        )
        print_table(columns, rows, "not compared, of the shared documents", optional=_OPTIONAL)
    for side in (first, second):
        _print_only(side)


def _left_out(counts: ScoreStateCounts) -> tuple[int, ...]:
    return counts.without_score, counts.failed, counts.open, counts.absent, counts.same_results


def _print_only(side: ComparedSide) -> None:
    if side.documents or side.columns:
        console.print(
            f"only in {printable(side.name)}: documents {side.documents:,}, columns {len(side.columns):,}",
            markup=False,
        )
