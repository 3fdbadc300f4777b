"""`doceval compare`: how two batches differ, or two connections or prompts of one."""

from pathlib import Path
from typing import Any

import click

from doceval_pipeline.batches.results.comparing import (
    Kind,
    compare_batches,
    compare_in_batch,
    write_comparison,
)
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import (
    console,
    console_beside,
    errors,
    output_path,
    print_json,
    print_table,
)
from doceval_pipeline.names import printable
from doceval_pipeline.reports.comparison import CellStates, ComparedColumn, Comparison, Side
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
    help="The score from which on a document is good; documents that cross it are counted.",
)
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=output_path,
    help="Write a page into this file too; - is standard output.",
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

    Batches are compared over the documents and the columns (connection and prompt) that both have. The
    first line can be pasted into a message.
    """
    if len(batches) + bool(connections) + bool(prompts) != 2 or len(batches) > 2:
        raise click.UsageError("name two batches, or one batch with either --connections or --prompts")
    beside = console_beside(page, as_json=as_json)
    opened = databases()
    if connections:
        found = compare_in_batch(opened, batches[0], Kind.CONNECTION, connections, threshold)
    elif prompts:
        found = compare_in_batch(opened, batches[0], Kind.PROMPT, prompts, threshold)
    else:
        first, second = batches
        found = compare_batches(opened, first, second, threshold)
    if page is not None:
        write_comparison(found, page)
    if as_json:
        print_json(found.as_json())
    elif beside is errors:
        errors.print(printable(found.verdict), markup=False)
    else:
        _print(found)
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


def _print(found: Comparison) -> None:
    console.print(printable(found.verdict), markup=False)
    if found.simulated:
        errors.print("simulated results: no LLM was called", style="magenta")
    overall = found.overall
    console.print(
        f"documents that crossed {score_text(overall.threshold)}: {overall.flipped_up:,} upwards, "
        f"{overall.flipped_down:,} downwards; mean change {points_text(overall.net)}, mean size of changes "
        f"{points_text(overall.gross)}"
    )
    first, second = (f"{side.name} ({side.partition_key})" for side in (found.first, found.second))
    console.print(printable(f"first is {first}, second is {second}"), markup=False)
    console.print()
    title = None
    if len(found.columns) > 1:
        title = f"by column, p corrected for {len(found.columns):,} comparisons"
    print_table(_HEADINGS, [_row(column) for column in found.columns], title, optional=_OPTIONAL)
    _print_left_out(found)
    if overall.flips:
        moves = [(flip.document, score_text(flip.before), score_text(flip.after)) for flip in overall.flips]
        console.print()
        print_table(("file", "first", "second"), moves, "largest moves")


def _row(column: ComparedColumn) -> tuple[Any, ...]:
    names, changed = (column.connection, column.prompt), ", ".join(column.changed) or None
    moved = column.movement
    if moved is None or column.first_mean is None or column.second_mean is None:
        return (*names, 0, *(None,) * 8, changed)
    told = moved.difference
    interval = (
        None
        if told.low is None or told.high is None
        else f"{points_text(told.low)} to {points_text(told.high)}"
    )
    return (
        *names,
        told.n,
        score_text(column.first_mean),
        score_text(column.second_mean),
        points_text(told.mean),
        interval,
        None if told.p is None else probability_text(told.p).removeprefix("= "),
        moved.rose,
        moved.fell,
        moved.same,
        changed,
    )


def _print_left_out(found: Comparison) -> None:
    """What is not in the differences, and why."""
    rows = [
        (side.name, column.connection, column.prompt, *_without(cells))
        for column in found.columns
        for side, cells in ((found.first, column.first_cells), (found.second, column.second_cells))
        if any(_without(cells))
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
            "no cell",
            "reused",
        )
        print_table(columns, rows, "not compared, of the shared documents", optional=_OPTIONAL)
    for side in (found.first, found.second):
        _print_only(side)


def _without(cells: CellStates) -> tuple[int, ...]:
    return cells.without_score, cells.failed, cells.open, cells.absent, cells.same_results


def _print_only(side: Side) -> None:
    if side.documents or side.columns:
        console.print(
            f"only in {printable(side.name)}: documents {side.documents:,}, columns {len(side.columns):,}",
            markup=False,
        )
