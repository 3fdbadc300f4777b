"""Compares two sides: two batches, or two connections or prompts of one batch.

Both score the same documents in the same columns. Evaluations without a score on one side are left out of the
differences and counted by reason. Shown as a page (`render_comparison`), on the terminal and as JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.domain.score_changes import ScoreChanges
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.reports.formatting import points_text, probability_text
from doceval_pipeline.reports.html import render_page
from doceval_pipeline.reports.sanitize import cut, visible_name
from doceval_pipeline.reports.score_changes import compare_scores, largest_changes
from doceval_pipeline.reports.standings import COMPARISONS_RESAMPLED
from doceval_pipeline.statistics.inference import corrected

TEMPLATE = "comparison.html.j2"
VERSION = 1
NAME_CHARACTERS = 80

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """One of the two sides: its name, and the partition key of its batch."""

    name: str
    partition_key: str
    documents: int
    """Documents that only this side has; 0 if both sides are of one batch."""
    columns: tuple[tuple[str, str], ...]
    """Columns that only this side has, by connection and prompt."""
    cells: int
    """Evaluations in compared columns."""
    simulated: int
    """How many of `cells` are simulated."""


@dataclass(frozen=True, slots=True)
class AlignedColumn:
    """A column of both sides, with its scores on each: NaN where there is none, for the counted reasons."""

    connection: str | None
    """None if the sides differ in the connection."""
    prompt: str | None
    """None if the sides differ in the prompt."""
    changed: tuple[str, ...]
    """Settings that differ although the name is the same: "prompt text", "connection"."""
    first: Values
    second: Values
    first_cells: ScoreStateCounts
    second_cells: ScoreStateCounts


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """How the second side differs from the first in one column; see `AlignedColumn`."""

    connection: str | None
    prompt: str | None
    changed: tuple[str, ...]
    first_cells: ScoreStateCounts
    second_cells: ScoreStateCounts
    first_mean: float | None
    """Over the documents that both sides scored."""
    second_mean: float | None
    score_changes: ScoreChanges | None
    """None if no document has both scores; p is corrected for all columns."""

    def as_json(self) -> dict[str, Any]:
        """The column for other programs; its keys are a public interface."""
        shown = asdict(self)
        return shown | {"movement": shown.pop("score_changes")}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the second side differs from the first."""

    first: ComparedSide
    second: ComparedSide
    documents: int
    """Documents that both sides have."""
    pairs: int
    """Compared pairs of results, out of `documents` times `columns`."""
    overall: ScoreChanges
    """Each document counts once, with its mean over the columns in which both sides scored it."""
    columns: tuple[ComparedColumn, ...]

    @property
    def left_out(self) -> int:
        """Pairs of results in which a side has no score."""
        return self.documents * len(self.columns) - self.pairs - self.same_results

    @property
    def same_results(self) -> int:
        """Pairs that are one reused result: also left out, because there is nothing to compare."""
        return sum(column.first_cells.same_results for column in self.columns)

    @property
    def simulated(self) -> int:
        """Simulated evaluations in compared columns, on both sides."""
        return self.first.simulated + self.second.simulated

    @property
    def cells(self) -> int:
        """Evaluations in compared columns, on both sides."""
        return self.first.cells + self.second.cells

    @property
    def verdict(self) -> str:
        """One line to paste into a message; every name in it is sanitized."""
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
            "columns": [column.as_json() for column in self.columns],
        }


def named_documents(documents: NDArray[np.int64], columns: Sequence[AlignedColumn]) -> set[int]:
    """The documents that a comparison names, so that their names can be read beforehand, all at once."""
    sides = [_averages(columns), *((column.first, column.second) for column in columns)]
    return {document for first, second in sides for document in largest_changes(documents, first, second)}


def compare_sides(
    sides: tuple[ComparedSide, ComparedSide],
    documents: NDArray[np.int64],
    columns: Sequence[AlignedColumn],
    name_of: Callable[[int], str],
    threshold: float,
) -> Comparison | None:
    """The comparison of the scores of two sides.

    Parameters
    ----------
    documents
        The ids of the documents that both sides have, in the order of the columns' scores.
    name_of
        Returns the name of each of `named_documents`.
    threshold
        A score at or above it is good; from 0 to 100.

    Returns
    -------
    Comparison | None
        None if no document has a score on both sides in any column.
    """
    overall = compare_scores(name_of, documents, *_averages(columns), threshold)
    if overall is None:
        return None
    resample = len(columns) <= COMPARISONS_RESAMPLED
    changes = [
        compare_scores(name_of, documents, column.first, column.second, threshold, resample=resample)
        for column in columns
    ]
    compared = [
        _compared(column, score_changes)
        for column, score_changes in zip(columns, _corrected(changes), strict=True)
    ]
    first, second = sides
    return Comparison(
        first=first,
        second=second,
        documents=documents.size,
        pairs=sum(column.score_changes.difference.n for column in compared if column.score_changes),
        overall=overall,
        columns=tuple(compared),
    )


def render_comparison(comparison: Comparison, compiled: Path | None = None) -> str:
    """The comparison as a self-contained HTML page in the style of the report, without scripts.

    Parameters
    ----------
    comparison
        The names in it may be hostile.
    compiled
        A folder that keeps our compiled templates; it must exist.

    Returns
    -------
    str
        A whole HTML document that can be written as UTF-8; the same for the same comparison.
    """
    return render_page(TEMPLATE, compiled, comparison=comparison)


def _averages(columns: Sequence[AlignedColumn]) -> tuple[Values, Values]:
    """The mean score of each document on both sides, over the columns in which both have one."""
    first = np.column_stack([column.first for column in columns])
    second = np.column_stack([column.second for column in columns])
    both = ~(np.isnan(first) | np.isnan(second))
    counts = both.sum(axis=1).astype(np.float64)
    counts[counts == 0] = np.nan
    return np.where(both, first, 0).sum(axis=1) / counts, np.where(both, second, 0).sum(axis=1) / counts


def _corrected(columns: Sequence[ScoreChanges | None]) -> list[ScoreChanges | None]:
    """The same changes with each p corrected for all columns."""
    differences = iter(corrected([changes.difference for changes in columns if changes]))
    return [changes and replace(changes, difference=next(differences)) for changes in columns]


def _compared(column: AlignedColumn, changes: ScoreChanges | None) -> ComparedColumn:
    both = ~(np.isnan(column.first) | np.isnan(column.second))
    return ComparedColumn(
        connection=column.connection,
        prompt=column.prompt,
        changed=column.changed,
        first_cells=column.first_cells,
        second_cells=column.second_cells,
        first_mean=float(column.first[both].mean()) if changes else None,
        second_mean=float(column.second[both].mean()) if changes else None,
        score_changes=changes,
    )


def _finding(comparison: Comparison) -> str:
    changes, difference = comparison.overall, comparison.overall.difference
    first, second = (_name(side.name) for side in (comparison.first, comparison.second))
    over = _over(difference.n, len(comparison.columns))
    if changes.rose == changes.fell == 0:
        return f"{second} and {first} score the same{over}, without exception."
    much = f"{second} scores {_amount(difference.mean)} {first}"
    tested = "" if difference.p is None else f" ({_interval(difference)}p {probability_text(difference.p)})"
    counts = f"{changes.rose:,} of them rose and {changes.fell:,} fell"
    if difference.told_apart:
        return f"{much}{over}{tested}; {counts}."
    if difference.n == 1:
        return f"{much}{over}, too few to tell whether they differ."
    return (
        f"{second} and {first} do not differ significantly{over}: {much}{tested}; "
        f"{counts}{_power(difference)}."
    )


def _over(documents: int, columns: int) -> str:
    over = " over 1 document" if documents == 1 else f" over {documents:,} documents"
    return over if columns == 1 else f"{over}, each with its mean of up to {columns:,} columns"


def _amount(mean: float) -> str:
    points = points_text(abs(mean))
    if points == "0":
        return "on average as much as"
    return f"{points} points {'higher' if mean > 0 else 'lower'} than"


def _interval(difference: Difference) -> str:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "all by the same amount, "
    return f"95 % interval {points_text(low)} to {points_text(high)}, "


def _power(difference: Difference) -> str:
    detectable = difference.detectable
    if detectable is None:
        return ". There are too few to show a difference"
    return f". A true difference of {points_text(detectable)} points would show in 4 of 5 such comparisons"


def _left_out(comparison: Comparison) -> str:
    left_out = comparison.left_out
    if not left_out:
        return ""
    total = comparison.documents * len(comparison.columns)
    verb = "is" if left_out == 1 else "are"
    return f" {left_out:,} of {total:,} pairs of results {verb} left out, because one side has no score."


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
    part = "" if whole else f" in {comparison.simulated:,} of {comparison.cells:,} evaluations"
    return f" [SIMULATED{part}]"


def _name(name: str) -> str:
    return cut(visible_name(name), NAME_CHARACTERS) or "(no name)"
