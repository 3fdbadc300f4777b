"""`doceval leaderboard`: models by prompt, over all completed batches or in one batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, print_json, print_table
from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.errors import ComparisonError
from doceval_pipeline.names import normal, printable, similar
from doceval_pipeline.reports.formatting import amount, counted, duration, score_text
from doceval_pipeline.reports.leaderboard import (
    PER,
    SIMULATED,
    Leaderboard,
    board_sentence,
    common_documents,
    cost_per_text,
    cost_text,
    difference_text,
    interval_text,
    leaderboard_data,
)

NO_BATCH = (
    "no batch is completed yet: run doceval demo to see an example, or doceval apply FILE to define a batch"
)


@command(
    epilog=examples(
        "doceval leaderboard",
        "doceval leaderboard --prompt clarity --open",
    )
)
@click.option("--prompt", metavar="NAME", help="Print the boards of one prompt only.")
@click.option("--open", "opens", is_flag=True, help="Also write the page and open it in a browser.")
@as_json_option
def leaderboard(*, prompt: str | None, opens: bool, as_json: bool) -> None:
    """Rank models by prompt.

    Ranks models under each prompt over all completed batches, with a board for each prompt. Real results come
    first; simulated ones are on boards of their own.
    """
    from doceval_pipeline.batches.results.leaderboard import gather_leaderboard

    opened = databases()
    board = gather_leaderboard(opened)
    shown = board if prompt is None else _of_prompt(board, prompt)
    page = _written_page() if opens and board.boards else None
    if as_json:
        print_json({**leaderboard_data(shown), **({} if page is None else {"path": str(page)})})
    elif not board.boards:
        console.print(NO_BATCH)
    else:
        _print_boards(shown)
    if page is not None:
        from doceval_pipeline.cli.reports import open_report

        open_report(page, quiet=as_json)


def _of_prompt(board: Leaderboard, prompt: str) -> Leaderboard:
    """The boards of one prompt.

    Raises
    ------
    ComparisonError
        No board has this prompt.
    """
    from dataclasses import replace

    found = [each for each in board.boards if each.prompt == normal(prompt)]
    if found:
        return replace(board, boards=found)
    if not board.boards:
        raise ComparisonError(NO_BATCH)
    known = dict.fromkeys(each.prompt for each in board.boards)
    near = similar(prompt, known)
    advice = f"did you mean {near!r}?" if near else "doceval leaderboard prints all boards"
    raise ComparisonError(f"no completed batch has a prompt {prompt!r}: {advice}")


def _written_page() -> Path:
    """Write the page by the job that the webserver knows, so that it serves the page."""
    from doceval_pipeline.cli.runs import open_job

    with open_job("refresh_leaderboard", [], quiet=True) as act:
        (event,) = act().get_asset_materialization_events()
    return Path(str(event.materialization.metadata["report"].value))


def _print_boards(board: Leaderboard) -> None:
    from doceval_pipeline.reports.decision import GENEROUS

    for each in board.boards:
        _print_board(each, board.word)
        console.print()
    left_out = f"{amount(board.batches_left_out)} left out (open, cancelled or archived)"
    console.print(f"{counted(board.batches, 'batch', 'batches')}; {left_out}")
    for note in (GENEROUS, *board.notes):
        console.print(note, markup=False)


def _print_board(board: Board, word: str) -> None:
    tag = f" · {SIMULATED}: no LLM was called" if board.is_simulated else ""
    console.print(f"{printable(board.prompt)}{tag}", style="bold", markup=False)
    console.print(printable(board_sentence(board)), markup=False)
    print_table(
        (
            word,
            "mean",
            "95 % interval",
            "difference",
            "in common",
            "failed",
            "cost",
            f"per {PER:,}",
            "p50",
            "scored",
            "batches",
        ),
        [_cells(board, row) for row in board.rows],
    )


def _cells(board: Board, row: LeaderboardRow) -> Sequence[Any]:
    scores = row.scores
    against = None if row.against is None else board.row_of(row.against).connection
    return (
        row.connection,
        None if scores is None else score_text(scores.mean),
        interval_text(row),
        f"{difference_text(row)}{', tied' if row.is_tied else ''}",
        None if against is None else f"{amount(common_documents(row))} with {against}",
        row.failed,
        cost_text(row),
        cost_per_text(row),
        None if row.median_seconds is None else duration(row.median_seconds),
        f"{amount(row.scored)} of {amount(row.cells)}",
        row.batches,
    )
