"""`doceval compare`: compares two batches, or two connections or prompts of one batch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, console_beside, errors, output_path, print_json, print_table
from doceval_pipeline.domain.score_changes import THRESHOLD, Dimension
from doceval_pipeline.names import printable
from doceval_pipeline.reports.formatting import points_text, probability_text, score_text
from doceval_pipeline.reports.phrases import shown_name

if TYPE_CHECKING:
    from doceval_pipeline.domain.scores import ScoreStateCounts
    from doceval_pipeline.reports.comparison import ComparedColumn, ComparedSide, Comparison


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
    show_default=f"the threshold of each prompt, or else {THRESHOLD:g}",
    help="A score at or above it is good; documents that only one side scores so are counted.",
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
    threshold: float | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Compare two batches, connections or prompts.

    Says for each prompt which one scores higher on the same documents, by how much and at what price.

    \b
    doceval compare BATCH BATCH                      two batches (numbers or names)
    doceval compare BATCH --connections NAME NAME    two connections of a batch
    doceval compare BATCH --prompts NAME NAME        two prompts of a batch

    Leaves out documents and columns (connection and prompt) that only one of the two has. The first lines of
    the output, one for each column, can be pasted into a message.
    """
    from doceval_pipeline.batches.results.comparing import compare_batches, compare_in_batch, write_comparison

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


# Of more columns only the tables are printed.
_LINES_SHOWN = 20
# Of each of several columns.
_LARGEST_SHOWN = 5
_OPTIONAL = ("model", "connection", "prompt", "changed")


def _print(comparison: "Comparison") -> None:
    for sentence in comparison.sentences:
        console.print(printable(sentence), markup=False)
    if comparison.simulated:
        errors.print("simulated results: no LLM was called", style="magenta")
    if comparison.caution:
        console.print(comparison.caution, style="dim")
    console.print()
    _print_usage(comparison)
    console.print()
    _print_columns(comparison)
    _print_left_out(comparison)
    _print_largest(comparison)


def _print_usage(comparison: "Comparison") -> None:
    from doceval_pipeline.reports.comparison_words import usage_texts

    headings = (
        *_names(comparison),
        comparison.side_word,
        "cost",
        "cost per 1,000 documents",
        "p50 seconds",
        "input tokens",
        "output tokens",
        "failed",
    )
    rows = [
        (*_column_names(column), side.name, *usage_texts(used), used.failed)
        for column, side, used in comparison.usage
    ]
    print_table(headings, rows, "price and time", optional=_OPTIONAL)


def _print_columns(comparison: "Comparison") -> None:
    from doceval_pipeline.reports.score_changes import crossings_text

    sides = comparison.first, comparison.second
    first, second = (f"{side.name} ({side.partition_key})" for side in sides)
    console.print(printable(f"first is {first}, second is {second}"), markup=False)
    words = comparison.words
    headings = (
        *_names(comparison),
        "documents",
        "first",
        "second",
        words.difference,
        "95 % interval",
        "p",
        words.higher,
        words.lower,
        "same",
        "changed",
    )
    number = len(comparison.columns)
    title = f"p corrected for {number:,} comparisons" if number > 1 else None
    print_table(headings, [_row(column) for column in comparison.columns], title, optional=_OPTIONAL)
    for column in comparison.columns[:_LINES_SHOWN]:
        if column.score_changes is not None:
            names = [shown_name(side.name) for side in sides]
            crossed = crossings_text(column.score_changes, comparison.dimension, *names)
            console.print(printable(f"{_column_label(column)}: {crossed}"), markup=False)


def _row(column: "ComparedColumn") -> tuple[Any, ...]:
    names, changed = _column_names(column), ", ".join(column.changed) or None
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


def _names(comparison: "Comparison") -> tuple[str, str]:
    """The headings of `_column_names`."""
    return comparison.model_word, "prompt"


def _column_names(column: "ComparedColumn") -> tuple[str | None, str | None]:
    return column.connection, column.prompt


def _column_label(column: "ComparedColumn") -> str:
    return " · ".join(shown_name(name) for name in _column_names(column) if name is not None)


def _print_largest(comparison: "Comparison") -> None:
    """Print the documents whose scores differ most, of each of the first columns."""
    shown = None if len(comparison.columns) == 1 else _LARGEST_SHOWN
    for column in comparison.columns[:_LINES_SHOWN]:
        if column.score_changes is not None and column.score_changes.flips:
            shifts = [
                (flip.document, score_text(flip.before), score_text(flip.after))
                for flip in column.score_changes.flips[:shown]
            ]
            console.print()
            title = f"largest {comparison.words.difference}s: {_column_label(column)}"
            print_table(("file", "first", "second"), shifts, title)


def _print_left_out(comparison: "Comparison") -> None:
    """Print the results that are left out of the differences, by reason."""
    first, second = comparison.first, comparison.second
    rows = [
        (side.name, *_column_names(column), *_left_out(counts))
        for column in comparison.columns
        for side, counts in ((first, column.first_cells), (second, column.second_cells))
        if any(_left_out(counts))
    ]
    if rows:
        console.print()
        columns = (
            "name",
            *_names(comparison),
            "without a score",
            "failed",
            "not done",
            "missing",
            "reused",
        )
        print_table(columns, rows, "not compared, of the shared documents", optional=_OPTIONAL)
    for side in (first, second):
        _print_only(side)


def _left_out(counts: "ScoreStateCounts") -> tuple[int, ...]:
    return counts.without_score, counts.failed, counts.open, counts.absent, counts.same_results


def _print_only(side: "ComparedSide") -> None:
    if side.documents or side.columns:
        console.print(
            f"only in {printable(side.name)}: documents {side.documents:,}, columns {len(side.columns):,}",
            markup=False,
        )
