"""Compares the scores of a batch with those of the previous one of its kind.

Apart from `result_checks`, so that numpy is loaded only where scores are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.checks import ColumnDrift, Drift, names_of, require_rows
from doceval_pipeline.doc_eval.baselines import batch_of_same_configuration
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.labels import Names
from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.knowledge.scores import Scores, are_same_results, read_scores
from doceval_pipeline.statistics.inference import corrected, difference

# So much of either batch must be scored in the other too, or pairs would speak for few documents.
SHARE_PAIRED = 0.5
ARRANGEMENTS = 10_000


def judge_drift(databases: Databases, batch_id: int) -> Drift:
    """Compare a batch with the newest earlier completed one that has the same connections and prompts.

    An occurrence of a recurring evaluation is compared with the one before, as in its report.
    Documents that both scored are compared with themselves (`statistics.difference`); where less than half of
    either batch is shared, all scores of one with all of the other (Mann-Whitney). A result that one batch
    reused from the other, or both from a third, is one result: it says nothing about a change, and is left
    out of both.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError where the batch is archived.
    """
    require_rows(databases, batch_id)
    with databases.doc_eval.connect() as connection:
        previous = batch_of_same_configuration(connection, batch_id)
    if previous is None:
        return Drift(None, 0, ())
    with databases.knowledge.connect() as connection:
        before, now = read_scores(connection, previous), read_scores(connection, batch_id)
    # What the previous batch had, and now is gone, is seen as well.
    keys = sorted({*before.columns, *now.columns})
    names = names_of(databases, keys)
    shared = np.intersect1d(before.documents, now.documents, assume_unique=True)
    columns = [_drift(key, names, before, now, shared) for key in keys]
    return Drift(partition_key(previous), int(shared.size), _corrected(columns))


def _column(scores: Scores, key: tuple[int, int]) -> NDArray[np.float64]:
    """The score of each document of a batch in a column; NaN where there is none."""
    if key not in scores.columns:
        return np.full(scores.documents.size, np.nan)
    return scores.values[:, scores.columns.index(key)]


def _origins(scores: Scores, key: tuple[int, int]) -> NDArray[np.int64]:
    """The origin of each document's result of a batch in a column; 0 where there is none."""
    if key not in scores.columns:
        return np.zeros(scores.documents.size, np.int64)
    return scores.origins[:, scores.columns.index(key)]


def _drift(
    key: tuple[int, int],
    names: Names,
    earlier: Scores,
    later: Scores,
    shared: NDArray[np.int64],
) -> ColumnDrift:
    places = np.searchsorted(earlier.documents, shared), np.searchsorted(later.documents, shared)
    same = are_same_results(_origins(earlier, key)[places[0]], _origins(later, key)[places[1]])
    before, now = _column(earlier, key).copy(), _column(later, key).copy()
    before[places[0][same]] = now[places[1][same]] = np.nan
    both = ~np.isnan(before[places[0]] + now[places[1]])
    pairs = before[places[0][both]], now[places[1][both]]
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
        same_results=int(np.count_nonzero(same)),
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
