"""What a comparison of two sides says: two batches, or two connections or prompts of one. Plain data.

The two score the same documents under columns that both have; everything is told of these documents. What
has no score on a side is left out of the differences and counted by why. What it looks like is the business
of `comparison_page` and of the command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.reports.analysis import COLUMNS_RESAMPLED
from doceval_pipeline.reports.formatting import points_text, probability_text
from doceval_pipeline.reports.insights import Movement
from doceval_pipeline.reports.sanitize import cut, visible_name
from doceval_pipeline.reports.score_changes import most_moved, movement
from doceval_pipeline.statistics.inference import corrected

VERSION = 1
NAME_CHARACTERS = 80

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: what it is called, and the partition key of its batch.

    `documents` only this side has; where both are of one batch, none. `columns` are those that only this
    side has, by connection and prompt. `simulated` of its `cells` in compared columns are made up.
    """

    name: str
    partition_key: str
    documents: int
    columns: tuple[tuple[str, str], ...]
    cells: int
    simulated: int


@dataclass(frozen=True, slots=True)
class CellStates:
    """The cells that a side has of the shared documents in a column: scored, or why they have no score.

    `same_results` are one result on both sides, by reuse: it differs from nothing, and is in no other number.
    """

    scored: int
    without_score: int
    failed: int
    open: int
    absent: int
    same_results: int = 0


@dataclass(frozen=True, slots=True)
class AlignedColumn:
    """A column of both sides: its scores on each, NaN where there is none, and why not.

    `connection` and `prompt` are names; None for what the sides differ in. `changed` names what is not the
    same on both sides though it is called so.
    """

    connection: str | None
    prompt: str | None
    changed: tuple[str, ...]  # of "prompt text", "connection"
    first: Values
    second: Values
    first_cells: CellStates
    second_cells: CellStates


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """How the second side differs from the first in one column; see `AlignedColumn`.

    The means are over the documents that both sides scored. `movement` is None where there is none. The p
    of its difference allows for all columns.
    """

    connection: str | None
    prompt: str | None
    changed: tuple[str, ...]
    first_cells: CellStates
    second_cells: CellStates
    first_mean: float | None
    second_mean: float | None
    movement: Movement | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the second side differs from the first.

    `overall` is over documents, each of which counts once, with its mean over the columns in which both
    sides scored it. `pairs` of results were compared, of as many as the shared `documents` have `columns`.
    """

    first: Side
    second: Side
    documents: int
    pairs: int
    overall: Movement
    columns: tuple[ComparedColumn, ...]

    @property
    def left_out(self) -> int:
        """Pairs of results of which a side has no score."""
        return self.documents * len(self.columns) - self.pairs - self.same_results

    @property
    def same_results(self) -> int:
        """Pairs of results that are one result, by reuse: left out too, because it differs from nothing."""
        return sum(column.first_cells.same_results for column in self.columns)

    @property
    def simulated(self) -> int:
        """Cells of compared columns that are made up, on both sides."""
        return self.first.simulated + self.second.simulated

    @property
    def cells(self) -> int:
        """Cells of compared columns, on both sides."""
        return self.first.cells + self.second.cells

    @property
    def verdict(self) -> str:
        """What a person can paste into a message: one line, in which every name is inert."""
        return f"{_finding(self)}{_left_out(self)}{_same_results(self)}{_simulation(self)}"

    def as_json(self) -> dict[str, Any]:
        """The comparison for other programs; described in docs/statistics.md."""
        return {
            "version": VERSION,
            "verdict": self.verdict,
            "told_apart": self.overall.difference.told_apart,
            "left_out": self.left_out,
            "same_results": self.same_results,
            **asdict(self),
        }


def moved_documents(documents: NDArray[np.int64], columns: Sequence[AlignedColumn]) -> set[int]:
    """The documents that a comparison names, so that their names can be read before, all at once."""
    sides = [_averages(columns), *((column.first, column.second) for column in columns)]
    return {document for first, second in sides for document in most_moved(documents, first, second)}


def compare_sides(
    sides: tuple[Side, Side],
    documents: NDArray[np.int64],
    columns: Sequence[AlignedColumn],
    name_of: Callable[[int], str],
    threshold: float,
) -> Comparison | None:
    """Compare what two sides scored.

    Parameters
    ----------
    documents
        The ids of the documents that both have, in the order of the columns' scores.
    name_of
        Gives the name of each of `moved_documents`.
    threshold
        A score of it or more is good, 0 to 100.

    Returns
    -------
    Comparison | None
        None where no document has a score of both sides in any column.
    """
    overall = movement(name_of, documents, *_averages(columns), threshold)
    if overall is None:
        return None
    few = len(columns) <= COLUMNS_RESAMPLED
    moved = [movement(name_of, documents, column.first, column.second, threshold, few) for column in columns]
    found = [_compared(*pair) for pair in zip(columns, _corrected(moved), strict=True)]
    pairs = sum(column.movement.difference.n for column in found if column.movement)
    return Comparison(*sides, documents.size, pairs, overall, tuple(found))


def _averages(columns: Sequence[AlignedColumn]) -> tuple[Values, Values]:
    """The mean score of each document on both sides, over the columns in which both have one."""
    first = np.column_stack([column.first for column in columns])
    second = np.column_stack([column.second for column in columns])
    both = ~(np.isnan(first) | np.isnan(second))
    counts = both.sum(axis=1).astype(np.float64)
    counts[counts == 0] = np.nan
    return np.where(both, first, 0).sum(axis=1) / counts, np.where(both, second, 0).sum(axis=1) / counts


def _corrected(movements: Sequence[Movement | None]) -> list[Movement | None]:
    """The same, with the p of each as it is when all of them are looked at."""
    differences = iter(corrected([found.difference for found in movements if found]))
    return [found and replace(found, difference=next(differences)) for found in movements]


def _compared(column: AlignedColumn, moved: Movement | None) -> ComparedColumn:
    both = ~(np.isnan(column.first) | np.isnan(column.second))
    return ComparedColumn(
        connection=column.connection,
        prompt=column.prompt,
        changed=column.changed,
        first_cells=column.first_cells,
        second_cells=column.second_cells,
        first_mean=float(column.first[both].mean()) if moved else None,
        second_mean=float(column.second[both].mean()) if moved else None,
        movement=moved,
    )


def _finding(comparison: Comparison) -> str:
    moved, told = comparison.overall, comparison.overall.difference
    first, second = (_name(side.name) for side in (comparison.first, comparison.second))
    over = _over(told.n, len(comparison.columns))
    if moved.rose == moved.fell == 0:
        return f"{second} and {first} score the same{over}, without exception."
    much = f"{second} scores {_amount(told.mean)} {first}"
    tested = "" if told.p is None else f" ({_interval(moved)}p {probability_text(told.p)})"
    counts = f"{moved.rose:,} of them rose and {moved.fell:,} fell"
    if told.told_apart:
        return f"{much}{over}{tested}; {counts}."
    if told.n == 1:
        return f"{much}{over}, which is too few to tell them apart."
    return f"{second} and {first} cannot be told apart{over}: {much}{tested}; {counts}{_power(moved)}."


def _over(documents: int, columns: int) -> str:
    over = " over 1 document" if documents == 1 else f" over {documents:,} documents"
    return over if columns == 1 else f"{over}, each with its mean of up to {columns:,} columns"


def _amount(mean: float) -> str:
    points = points_text(abs(mean))
    if points == "0":
        return "on average as much as"
    return f"{points} points {'higher' if mean > 0 else 'lower'} than"


def _interval(moved: Movement) -> str:
    low, high = moved.difference.low, moved.difference.high
    if low is None or high is None:
        return "each by as much, "
    return f"95 % interval {points_text(low)} to {points_text(high)}, "


def _power(moved: Movement) -> str:
    detectable = moved.difference.detectable
    if detectable is None:
        return ". There are too few to show a difference"
    return f". A true difference of {points_text(detectable)} points would show in 4 of 5 such comparisons"


def _left_out(comparison: Comparison) -> str:
    left_out = comparison.left_out
    if not left_out:
        return ""
    total = comparison.documents * len(comparison.columns)
    verb = "is" if left_out == 1 else "are"
    return f" {left_out:,} of {total:,} pairs of results {verb} left out, because a side has no score there."


def _same_results(comparison: Comparison) -> str:
    same = comparison.same_results
    if not same:
        return ""
    if same == 1:
        return " 1 pair shares one reused result and is not compared."
    return f" {same:,} pairs share one reused result each and are not compared."


def _simulation(comparison: Comparison) -> str:
    if not comparison.simulated:
        return ""
    whole = comparison.simulated == comparison.cells
    part = "" if whole else f" in {comparison.simulated:,} of {comparison.cells:,} cells"
    return f" [SIMULATED{part}]"


def _name(name: str) -> str:
    return cut(visible_name(name), NAME_CHARACTERS) or "(no name)"
