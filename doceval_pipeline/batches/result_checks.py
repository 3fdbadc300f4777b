"""Judges the results of a batch: whether they moved since the last batch of its kind, and are sound.

A judgement warns and stops nothing: the report stands, and a person decides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.doc_eval.standings import Names, previous_batch, read_names
from doceval_pipeline.findings import SIGNIFICANT, Difference
from doceval_pipeline.knowledge.scores import Scores, read_scores
from doceval_pipeline.knowledge.soundness import Soundness, count_unsound
from doceval_pipeline.statistics import corrected, difference

# Of a million cells a tenth of a point is significant, and means nothing to anybody.
SMALLEST_DRIFT = 1.0
# So much of either batch must be scored in the other too, or pairs would speak for few documents.
SHARE_PAIRED = 0.5
ARRANGEMENTS = 10_000


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How the scores of a column differ from those of the previous batch.

    `pairs` documents were compared with themselves; 0 where too few are shared, and all scores of one
    batch were held against all of the other. `change` is the difference of means, and `p` corrected for all
    columns; None where one of the two has no score, or there are too few to test.
    """

    connection: str
    prompt: str
    before: int
    now: int
    pairs: int
    change: float | None
    p: float | None

    @property
    def has_drifted(self) -> bool:
        """Whether the change is no chance, and large enough to matter."""
        if self.p is None or self.change is None:
            return False
        return self.p < SIGNIFICANT and abs(self.change) >= SMALLEST_DRIFT


@dataclass(frozen=True, slots=True)
class Drift:
    """The drift of all columns; `previous` is the partition it is measured from, or None without any."""

    previous: str | None
    shared_documents: int
    columns: Sequence[ColumnDrift]

    @property
    def drifted(self) -> list[ColumnDrift]:
        """The columns that drifted."""
        return [column for column in self.columns if column.has_drifted]

    @property
    def sentence(self) -> str:
        """What was found, in a line without names."""
        if self.previous is None:
            return (
                "nothing to compare with: no earlier batch with the same connections and prompts is completed"
            )
        tested = sum(column.p is not None for column in self.columns)
        said = f"{len(self.drifted)} of {tested} columns scored differently than in {self.previous}"
        if tested < len(self.columns):
            said += f"; {len(self.columns) - tested} more have too few scores to tell"
        return said

    def numbers(self) -> dict[str, int | float]:
        """Under stable names; the largest change is the one that is furthest from 0."""
        changes = [column.change for column in self.columns if column.change is not None]
        numbers: dict[str, int | float] = {
            "columns": len(self.columns),
            "columns_compared": sum(column.p is not None for column in self.columns),
            "columns_drifted": len(self.drifted),
            "shared_documents": self.shared_documents,
        }
        return numbers | ({"largest_change": max(changes, key=abs)} if changes else {})


@dataclass(frozen=True, slots=True)
class Judged:
    """What `results_are_sound` found, with names for its columns."""

    columns: Sequence[Soundness]
    names: Names

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(column.is_sound for column in self.columns)

    @property
    def sentence(self) -> str:
        """What is wrong, in a line without names."""
        numbers = self.numbers()
        said = [
            f"{numbers[name]:,} {words}"
            for name, words in (
                ("cells_empty", "empty responses"),
                ("cells_not_json", "response_json that are no JSON"),
                ("cells_without_score", "succeeded cells without a score"),
                ("cells_out_of_range", "scores out of range"),
                ("columns_stuck", "columns with the same response for every document"),
            )
            if numbers[name]
        ]
        return ", ".join(said) or f"{numbers['cells_succeeded']:,} succeeded cells are sound"

    def numbers(self) -> dict[str, int]:
        """Added up over all columns, under stable names."""
        return {
            "cells_succeeded": sum(column.succeeded for column in self.columns),
            "cells_empty": sum(column.empty for column in self.columns),
            "cells_not_json": sum(column.not_json for column in self.columns),
            "cells_without_score": sum(column.without_score for column in self.columns),
            "cells_out_of_range": sum(column.out_of_range for column in self.columns),
            "columns_stuck": sum(column.stuck for column in self.columns),
        }


def judge_soundness(databases: Databases, batch_id: int) -> Judged:
    """Look for results that cannot be what they claim to be.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError where the batch is archived.
    """
    _require_rows(databases, batch_id)
    with databases.knowledge.connect() as connection:
        columns = count_unsound(connection, batch_id)
    return Judged(columns, _names(databases, [(c.connection_id, c.prompt_id) for c in columns]))


def judge_drift(databases: Databases, batch_id: int) -> Drift:
    """Hold a batch against the newest earlier completed one with the same connections and prompts.

    Documents that both scored are compared with themselves (`statistics.difference`); where less than half of
    either batch is shared, all scores of one with all of the other (Mann-Whitney).

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError where the batch is archived.
    """
    _require_rows(databases, batch_id)
    with databases.doc_eval.connect() as connection:
        previous = previous_batch(connection, batch_id)
    if previous is None:
        return Drift(None, 0, ())
    with databases.knowledge.connect() as connection:
        before, now = read_scores(connection, previous), read_scores(connection, batch_id)
    # What the previous batch had, and now is gone, is seen as well.
    keys = sorted({*before.columns, *now.columns})
    names = _names(databases, keys)
    shared = np.intersect1d(before.documents, now.documents, assume_unique=True)
    columns = [
        _drift(key, names, _column(before, key), _column(now, key), _pairs(before, now, shared, key))
        for key in keys
    ]
    return Drift(partition_key(previous), int(shared.size), _corrected(columns))


def _require_rows(databases: Databases, batch_id: int) -> None:
    with databases.doc_eval.connect() as connection:
        batch_by_id(connection, batch_id).require_rows()


def _names(databases: Databases, keys: Sequence[tuple[int, int]]) -> Names:
    with databases.doc_eval.connect() as connection:
        return read_names(connection, {key[0] for key in keys}, {key[1] for key in keys})


def _column(scores: Scores, key: tuple[int, int]) -> NDArray[np.float64]:
    """The score of each document of a batch in a column; NaN where there is none."""
    if key not in scores.columns:
        return np.full(scores.documents.size, np.nan)
    return scores.values[:, scores.columns.index(key)]


def _pairs(
    before: Scores, now: Scores, shared: NDArray[np.int64], key: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of documents that both batches scored, in the same order."""
    first = _column(before, key)[np.searchsorted(before.documents, shared)]
    second = _column(now, key)[np.searchsorted(now.documents, shared)]
    both = ~(np.isnan(first) | np.isnan(second))
    return first[both], second[both]


def _drift(
    key: tuple[int, int],
    names: Names,
    before: NDArray[np.float64],
    now: NDArray[np.float64],
    pairs: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> ColumnDrift:
    before, now = before[~np.isnan(before)], now[~np.isnan(now)]
    is_paired = pairs[0].size >= SHARE_PAIRED * max(before.size, now.size)
    found = difference(*pairs) if is_paired else _unpaired(before, now)
    return ColumnDrift(
        connection=names.connection(key[0]),
        prompt=names.prompt(key[1]),
        before=int(before.size),
        now=int(now.size),
        pairs=int(pairs[0].size) if is_paired else 0,
        change=None if found is None else found.mean,
        p=None if found is None else found.p,
    )


def _unpaired(before: NDArray[np.float64], now: NDArray[np.float64]) -> Difference | None:
    """How scores of different documents differ; its `n` is the smaller number of them."""
    n = min(before.size, now.size)
    if not n:
        return None
    p = _rank_sum_p(before, now) if n > 1 else None
    return Difference(n, float(now.mean() - before.mean()), None, None, p, None)


def _rank_sum_p(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    # Loading it takes most of a second.
    from scipy.stats import PermutationMethod, mannwhitneyu

    # Without any spread the approximation divides by it.
    if min(before.min(), now.min()) == max(before.max(), now.max()):
        return 1.0
    # Of few scores with ties the approximation finds too much; so few can be rearranged in all ways.
    few = math.comb(before.size + now.size, now.size) <= ARRANGEMENTS
    method = PermutationMethod(n_resamples=ARRANGEMENTS) if few else "asymptotic"
    return float(mannwhitneyu(before, now, method=method).pvalue)


def _corrected(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    """With each p as it is when all columns are looked at together."""
    found = corrected([Difference(c.now, c.change or 0.0, None, None, c.p, None) for c in columns])
    return [replace(column, p=together.p) for column, together in zip(columns, found, strict=True)]
