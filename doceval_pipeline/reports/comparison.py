"""Compares two sides: two batches, or two connections or prompts of one batch.

Both score the same documents in the same columns. Evaluations without a score on one side are left out of the
differences and counted by reason. No figure that is shown to people goes over several columns: different
prompts are different questions. Shown as a page (`render_comparison`), on the terminal and as JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.score_changes import THRESHOLD, Dimension, ScoreChanges
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.reports.comparison_words import (
    SideUsage,
    WordedColumn,
    WordedSide,
    usage_texts,
)
from doceval_pipeline.reports.html import render_page
from doceval_pipeline.reports.phrases import GENEROUS, QUESTIONS, shown_name
from doceval_pipeline.reports.score_changes import (
    ChangeWords,
    Clusters,
    compare_scores,
    counts_text,
    crossings_text,
    largest_changes,
    words_of,
)
from doceval_pipeline.reports.standings import COMPARISONS_RESAMPLED
from doceval_pipeline.statistics.inference import corrected

TEMPLATE = "comparison.html.j2"
VERSION = 1
# More columns are compared in the tables only.
SENTENCES_SHOWN = 20

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
    first_usage: SideUsage = field(default_factory=SideUsage)
    second_usage: SideUsage = field(default_factory=SideUsage)
    threshold: float | None = None
    """A score at or above it is good; None for the threshold of the whole comparison."""


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """How the second side differs from the first in one column; see `AlignedColumn`."""

    connection: str | None
    prompt: str | None
    changed: tuple[str, ...]
    sentence: str
    """How they differ, at what price, and whether results are simulated; names in it are visible and cut."""
    first_cells: ScoreStateCounts
    second_cells: ScoreStateCounts
    first_usage: SideUsage
    second_usage: SideUsage
    first_mean: float | None
    """Over the documents that both sides scored."""
    second_mean: float | None
    score_changes: ScoreChanges | None
    """None if no document has both scores; p is corrected for all columns."""

    @property
    def told_apart(self) -> bool:
        """Whether the two sides differ significantly, of all columns compared together."""
        return self.score_changes is not None and self.score_changes.difference.told_apart

    def as_json(self) -> dict[str, Any]:
        """The column for other programs; its keys are a public interface."""
        shown = asdict(self)
        del shown["first_usage"], shown["second_usage"]
        return shown | {
            "movement": shown.pop("score_changes"),
            "told_apart": self.told_apart,
            "usage": {"first": _usage_json(self.first_usage), "second": _usage_json(self.second_usage)},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the second side differs from the first."""

    dimension: Dimension
    first: ComparedSide
    second: ComparedSide
    documents: int
    """Documents that both sides have."""
    pairs: int
    """Compared pairs of results, out of `documents` times `columns`."""
    overall: ScoreChanges
    """Each document counts once, with its mean over the columns in which both sides scored it. For programs:
    people are shown only one column, for which it is the same."""
    columns: tuple[ComparedColumn, ...]
    model_word: str = "connection"
    """What people read for a connection: "model" if each model of the batches has one connection."""

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
    def caution(self) -> str:
        """What a higher score does not mean; empty between two batches."""
        return {Dimension.CONNECTION: GENEROUS, Dimension.PROMPT: QUESTIONS}.get(self.dimension, "")

    @property
    def side_word(self) -> str:
        """What each of the two sides is."""
        return {
            Dimension.CONNECTION: self.model_word,
            Dimension.PROMPT: "prompt",
            Dimension.TIME: "batch",
        }[self.dimension]

    @property
    def column_word(self) -> str:
        """What a column is: a heading."""
        return {
            Dimension.CONNECTION: "Prompt",
            Dimension.PROMPT: self.model_word.capitalize(),
            Dimension.TIME: f"{self.model_word.capitalize()} · prompt",
        }[self.dimension]

    @property
    def words(self) -> ChangeWords:
        """The words for scores that differ between the sides."""
        return words_of(self.dimension)

    @property
    def sentences(self) -> tuple[str, ...]:
        """One line for each column to paste into a message, and how many columns have none."""
        shown = [column.sentence for column in self.columns[:SENTENCES_SHOWN]]
        more = len(self.columns) - len(shown)
        if more:
            shown.append(f"{more:,} more {'comparison is' if more == 1 else 'comparisons are'} in the table.")
        return tuple(shown)

    @property
    def verdict(self) -> str:
        """The sentences in one line; every name in it is sanitized."""
        return f"{' '.join(self.sentences)}{_same_results(self)}"

    @property
    def usage(self) -> tuple[tuple[ComparedColumn, ComparedSide, SideUsage], ...]:
        """What each side used in each column."""
        return tuple(
            (column, side, used)
            for column in self.columns
            for side, used in ((self.first, column.first_usage), (self.second, column.second_usage))
        )

    def as_json(self) -> dict[str, Any]:
        """The comparison for other programs; described in docs/statistics.md."""
        shown = asdict(self)
        del shown["model_word"]
        return {
            "version": VERSION,
            "verdict": self.verdict,
            "told_apart": self.overall.difference.told_apart,
            "left_out": self.left_out,
            "same_results": self.same_results,
            **shown,
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
    threshold: float = THRESHOLD,
    *,
    dimension: Dimension,
    model_word: str = "connection",
    clusters: Clusters | None = None,
) -> Comparison | None:
    """The comparison of the scores of two sides.

    Parameters
    ----------
    documents
        The ids of the documents that both sides have, in the order of the columns' scores.
    name_of
        Returns the name of each of `named_documents`.
    threshold
        A score at or above it is good, from 0 to 100: in columns that have no threshold of their own.
    dimension
        What the sides differ in: it decides the words.
    clusters
        The cluster of each document, in the same order; None if each is a cluster of its own.

    Returns
    -------
    Comparison | None
        None if no document has a score on both sides in any column.
    """
    overall = compare_scores(name_of, documents, *_averages(columns), threshold, clusters=clusters)
    if overall is None:
        return None
    resample = len(columns) <= COMPARISONS_RESAMPLED
    changes = [
        compare_scores(
            name_of,
            documents,
            column.first,
            column.second,
            threshold if column.threshold is None else column.threshold,
            clusters=clusters,
            resample=resample,
        )
        for column in columns
    ]
    compared = [
        _compared(dimension, sides, column, score_changes)
        for column, score_changes in zip(columns, _corrected(changes), strict=True)
    ]
    first, second = sides
    return Comparison(
        dimension=dimension,
        first=first,
        second=second,
        documents=documents.size,
        pairs=sum(column.score_changes.difference.n for column in compared if column.score_changes),
        overall=overall,
        columns=tuple(compared),
        model_word=model_word,
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
    return render_page(
        TEMPLATE,
        compiled,
        comparison=comparison,
        usage_texts=usage_texts,
        counts_text=counts_text,
        crossings_text=crossings_text,
    )


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


def _compared(
    dimension: Dimension,
    sides: tuple[ComparedSide, ComparedSide],
    column: AlignedColumn,
    changes: ScoreChanges | None,
) -> ComparedColumn:
    both = ~(np.isnan(column.first) | np.isnan(column.second))
    worded = WordedColumn(
        dimension,
        column.connection,
        column.prompt,
        WordedSide(sides[0].name, column.first_cells, column.first_usage, sides[0].documents),
        WordedSide(sides[1].name, column.second_cells, column.second_usage, sides[1].documents),
        changes,
    )
    return ComparedColumn(
        connection=column.connection,
        prompt=column.prompt,
        changed=column.changed,
        sentence=f"{worded.sentence()}{_simulation(*sides)}",
        first_cells=column.first_cells,
        second_cells=column.second_cells,
        first_usage=column.first_usage,
        second_usage=column.second_usage,
        first_mean=float(column.first[both].mean()) if changes else None,
        second_mean=float(column.second[both].mean()) if changes else None,
        score_changes=changes,
    )


def _usage_json(side: SideUsage) -> dict[str, Any]:
    """What a side used in a column, for other programs; null means unknown."""
    return {
        **asdict(side.usage),
        "cost_per_document": side.usage.cost_per_document,
        "failed": side.failed,
        "reused": side.reused,
    }


def _same_results(comparison: Comparison) -> str:
    same = comparison.same_results
    if not same:
        return ""
    if same == 1:
        return " 1 pair shares one reused result and is not compared."
    return f" {same:,} pairs share one reused result each and are not compared."


def _simulation(first: ComparedSide, second: ComparedSide) -> str:
    """Marks simulated results at the end of each sentence, so that they stay marked wherever it is pasted."""
    simulated, cells = first.simulated + second.simulated, first.cells + second.cells
    if not simulated:
        return ""
    if simulated == cells:
        return " [SIMULATED]"
    for side in (first, second):
        if simulated == side.simulated == side.cells:
            return f" [SIMULATED: all results of {shown_name(side.name)}, and no others]"
    return f" [SIMULATED in {simulated:,} of {cells:,} evaluations]"
