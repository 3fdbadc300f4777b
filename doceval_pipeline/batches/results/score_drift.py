"""Compares the scores of a batch with those of its `drift_baseline`.

Separate from `checks`, so that numpy is loaded only when scores are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.checks import ColumnDrift, ScoreDrift, read_labels_of, require_rows
from doceval_pipeline.batches.results.clusters import cluster_numbers
from doceval_pipeline.doc_eval.baselines import drift_baseline
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.domain.columns import Column, Labels
from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.domain.scores import Scores, are_same_results
from doceval_pipeline.knowledge.scores import read_scores
from doceval_pipeline.statistics.inference import corrected, difference

# Scores are paired only if at least this share of each batch is scored in both: fewer pairs would represent
# few documents.
SHARE_PAIRED = 0.5
ARRANGEMENTS = 10_000


def judge_drift(databases: Databases, batch_id: int) -> ScoreDrift:
    """The drift of a batch from its baseline, the newest earlier completed batch of the same configuration.

    The baseline of an occurrence of a recurring evaluation is the previous occurrence, as in its report.
    Documents that both batches scored are paired (`statistics.difference`). If less than half of either batch
    is shared, all scores of one are compared with all of the other (Mann-Whitney). A result that one batch
    reused from the other, or both from a third, cannot show a change and is left out of both.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError if the batch is archived.
    """
    require_rows(databases, batch_id)
    with databases.doc_eval.connect() as connection:
        baseline = drift_baseline(connection, batch_id)
    if baseline is None:
        return ScoreDrift(None, 0, ())
    with databases.knowledge.connect() as connection:
        before, now = read_scores(connection, baseline), read_scores(connection, batch_id)
    # Includes columns that only one of the two batches has.
    columns = sorted({*before.columns, *now.columns})
    labels = read_labels_of(databases, columns)
    shared = np.intersect1d(before.documents, now.documents, assume_unique=True)
    with databases.doc_eval.connect() as connection:
        clusters = cluster_numbers(connection, [baseline, batch_id], shared)
    drifts = [_column_drift(column, labels, before, now, shared, clusters) for column in columns]
    return ScoreDrift(partition_key(baseline), int(shared.size), _corrected(drifts))


def _column_drift(
    column: Column,
    labels: Labels,
    earlier: Scores,
    later: Scores,
    shared: NDArray[np.int64],
    clusters: NDArray[np.int64] | None,
) -> ColumnDrift:
    rows_before, rows_now = (np.searchsorted(scores.documents, shared) for scores in (earlier, later))
    same = are_same_results(
        earlier.column_origins(column)[rows_before], later.column_origins(column)[rows_now]
    )
    before, now = earlier.column(column).copy(), later.column(column).copy()
    before[rows_before[same]] = now[rows_now[same]] = np.nan
    both = ~np.isnan(before[rows_before] + now[rows_now])
    paired_before, paired_now = before[rows_before[both]], now[rows_now[both]]
    before, now = before[~np.isnan(before)], now[~np.isnan(now)]
    pairs = paired_before.size
    is_paired = pairs >= SHARE_PAIRED * max(before.size, now.size)
    change = (
        difference(paired_before, paired_now, clusters=None if clusters is None else clusters[both])
        if is_paired
        else unpaired(before, now)
    )
    connection_id, prompt_id = column
    return ColumnDrift(
        connection=labels.connection(connection_id),
        prompt=labels.prompt(prompt_id),
        before=int(before.size),
        now=int(now.size),
        pairs=int(pairs) if is_paired else 0,
        change=None if change is None else change.mean,
        p=None if change is None else change.p,
        same_results=int(np.count_nonzero(same)),
    )


def unpaired(before: NDArray[np.float64], now: NDArray[np.float64]) -> Difference | None:
    """How the mean scores of different documents differ; its `n` is the smaller number of scores."""
    n = min(before.size, now.size)
    if not n:
        return None
    p = _rank_sum_p(before, now) if n > 1 else None
    return Difference(n, float(now.mean() - before.mean()), None, None, p, None)


def _rank_sum_p(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    # Loading scipy.stats takes most of a second.
    from scipy.stats import PermutationMethod, mannwhitneyu

    # Without any spread the approximation would divide by zero.
    if min(before.min(), now.min()) == max(before.max(), now.max()):
        return 1.0
    # For few scores with ties the approximation finds differences too often, but all arrangements of so few
    # can be counted.
    few = math.comb(before.size + now.size, now.size) <= ARRANGEMENTS
    method = PermutationMethod(n_resamples=ARRANGEMENTS) if few else "asymptotic"
    return float(mannwhitneyu(before, now, method=method).pvalue)


def _corrected(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    """The columns with each p corrected for all of them."""
    differences = corrected([Difference(c.now, c.change or 0.0, None, None, c.p, None) for c in columns])
    return [replace(column, p=change.p) for column, change in zip(columns, differences, strict=True)]
