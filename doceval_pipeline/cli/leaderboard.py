"""`doceval leaderboard`: models by prompt, over all completed batches or in one batch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, print_json, print_table
from doceval_pipeline.domain.insights import Standing
from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.errors import ComparisonError
from doceval_pipeline.names import normal, printable, similar
from doceval_pipeline.reports.formatting import amount, counted, duration, interval_text, score_text
from doceval_pipeline.reports.leaderboard import (
    SIMULATED,
    Leaderboard,
    board_sentence,
    common_documents,
    cost_per_text,
    cost_text,
    difference_text,
    in_figures,
    leaderboard_data,
)
from doceval_pipeline.reports.phrases import GENEROUS, PER

if TYPE_CHECKING:
    from doceval_pipeline.reports.batch_leaderboard import BatchBoard

NO_BATCH = (
    "no batch is completed yet: run doceval demo to see an example, or doceval apply FILE to define a batch"
)


@command(
    epilog=examples(
        "doceval leaderboard",
        "doceval leaderboard --prompt clarity --open",
        "doceval leaderboard 1",
    )
)
@click.argument("batch", required=False)
@click.option("--prompt", metavar="NAME", help="Print only the boards of one prompt.")
@click.option("--open", "opens", is_flag=True, help="Also write the page and open it; without BATCH only.")
@as_json_option
def leaderboard(*, batch: str | None, prompt: str | None, opens: bool, as_json: bool) -> None:
    """Rank models by prompt.

    Each prompt has a board of its own. Without BATCH, the boards cover all completed batches: real results
    first, simulated ones apart. With BATCH, a number or a name, they are those of its completion report.
    """
    if batch is not None:
        if opens:
            raise click.UsageError(f"--open opens the page of all batches: run doceval open {batch}")
        _show_batch(batch, prompt, as_json=as_json)
    else:
        _show_all(prompt, opens=opens, as_json=as_json)


def _show_all(prompt: str | None, *, opens: bool, as_json: bool) -> None:
    from doceval_pipeline.batches.results.leaderboard import gather_leaderboard

    board = gather_leaderboard(databases())
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


def _show_batch(batch: str, prompt: str | None, *, as_json: bool) -> None:
    from doceval_pipeline.batches.results.report_input import gather
    from doceval_pipeline.doc_eval.batches import find_batch
    from doceval_pipeline.reports.batch_leaderboard import batch_boards, batch_boards_data
    from doceval_pipeline.reports.figures import figures
    from doceval_pipeline.reports.labels import connection_words

    opened = databases()
    data = gather(opened, find_batch(opened.doc_eval, batch).id)
    found = figures(data)
    boards = batch_boards(found)
    if prompt is not None:
        known = [board.prompt for board in boards if board.prompt is not None]
        boards = [board for board in boards if board.prompt == normal(prompt)]
        if not boards:
            raise _unknown_prompt(prompt, known, f"{found.partition_key} has no")
    if as_json:
        print_json(batch_boards_data(found, boards))
        return
    console.print(f"{found.partition_key} {printable(found.name)}: {found.verdict}", markup=False)
    for board in boards:
        console.print(f"- {printable(board.decision.sentence)}", markup=False)
    for board in boards:
        console.print()
        _print_board_of_batch(board, connection_words(data.config).one)
    console.print()
    console.print(GENEROUS, markup=False)


def _print_board_of_batch(board: "BatchBoard", word: str) -> None:
    console.print(printable(board.decision.prompt), style="bold", markup=False)
    print_table(
        (
            word,
            "mean",
            "95 % interval",
            "difference",
            "in common",
            "failed",
            "no score",
            "open",
            f"per {PER:,}",
            "p50",
            "margin",
            "kind",
        ),
        [_cells_of_standing(board, standing) for standing in board.board.standings],
        optional=("no score", "open", "margin", "kind"),
    )


def _cells_of_standing(board: "BatchBoard", standing: Standing) -> Sequence[Any]:
    scores, difference, usage = standing.scores, standing.difference, standing.usage
    against, tested = board.against(standing), standing.margin_test
    return (
        board.name(standing),
        None if scores is None else score_text(scores.mean),
        interval_text(scores),
        None
        if difference is None
        else f"{in_figures(difference)}{', no clear winner' if standing.tied else ''}",
        None if against is None else f"{amount(0 if difference is None else difference.n)} with {against}",
        standing.failed,
        standing.without_score or None,
        standing.without_result or None,
        cost_per_text([] if usage.cost is None else [usage.cost]),
        None if usage.seconds is None else duration(usage.seconds.p50),
        None if tested is None else str(tested.conclusion),
        "simulated" if standing.simulated else None,
    )


def _of_prompt(board: Leaderboard, prompt: str) -> Leaderboard:
    """The boards of one prompt.

    Raises
    ------
    ComparisonError
        No board has this prompt.
    """
    found = [each for each in board.boards if each.prompt == normal(prompt)]
    if found:
        return replace(board, boards=found)
    if not board.boards:
        raise ComparisonError(NO_BATCH)
    raise _unknown_prompt(prompt, [each.prompt for each in board.boards], "no completed batch has a")


def _unknown_prompt(prompt: str, known: Sequence[str], missing: str) -> ComparisonError:
    near = similar(prompt, dict.fromkeys(known))
    advice = f"did you mean {near!r}?" if near else "omit --prompt to print all boards"
    return ComparisonError(f"{missing} prompt {prompt!r}: {advice}")


def _written_page() -> Path:
    """Write the page by the job that the webserver knows, so that it serves the page."""
    with importing():
        from doceval_pipeline.cli.runs import open_job

    with open_job("refresh_leaderboard", [], quiet=True) as act:
        (event,) = act().get_asset_materialization_events()
    return Path(str(event.materialization.metadata["report"].value))


def _print_boards(board: Leaderboard) -> None:
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
        interval_text(row.scores),
        f"{difference_text(row)}{', no clear winner' if row.is_tied else ''}",
        None if against is None else f"{amount(common_documents(row))} with {against}",
        row.failed,
        cost_text(row.costs),
        cost_per_text(row.costs),
        None if row.median_seconds is None else duration(row.median_seconds),
        f"{amount(row.scored)} of {amount(row.cells)}",
        row.batches,
    )
