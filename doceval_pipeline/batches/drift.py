"""Compares the scores of a batch with those of the previous one of its kind.

Apart from `result_checks`, so that numpy is loaded only where scores are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.result_checks import ColumnDrift, Drift, names_of, require_rows
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.standings import Names, previous_batch
from doceval_pipeline.findings import Difference
from doceval_pipeline.knowledge.scores import Scores, read_scores
from doceval_pipeline.statistics import corrected, difference

# So much of either batch must be scored in the other too, or pairs would speak for few documents.
SHARE_PAIRED = 0.5
ARRANGEMENTS = 10_000


def judge_drift(databases: Databases, batch_id: int) -> Drift:
    """Hold a batch against the newest earlier completed one with the same connections and prompts.

    Documents that both scored are compared with themselves (`statistics.difference`); where less than half of
    either batch is shared, all scores of one with all of the other (Mann-Whitney).

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError where the batch is archived.
    """
    require_rows(databases, batch_id)
    with databases.doc_eval.connect() as connection:
        previous = previous_batch(connection, batch_id)
    if previous is None:
        return Drift(None, 0, ())
    with databases.knowledge.connect() as connection:
        before, now = read_scores(connection, previous), read_scores(connection, batch_id)
    # What the previous batch had, and now is gone, is seen as well.
    keys = sorted({*before.columns, *now.columns})
    names = names_of(databases, keys)
    shared = np.intersect1d(before.documents, now.documents, assume_unique=True)
    columns = [
        _drift(key, names, _column(before, key), _column(now, key), _pairs(before, now, shared, key))
        for key in keys
    ]
    return Drift(partition_key(previous), int(shared.size), _corrected(columns))


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
    found = difference(*pairs) if is_paired else unpaired(before, now)
    return ColumnDrift(
        connection=names.connection(key[0]),
        prompt=names.prompt(key[1]),
        before=int(before.size),
        now=int(now.size),
        pairs=int(pairs[0].size) if is_paired else 0,
        change=None if found is None else found.mean,
        p=None if found is None else found.p,
    )


def unpaired(before: NDArray[np.float64], now: NDArray[np.float64]) -> Difference | None:
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
