"""Reads from both databases what the results of a batch show beyond counts, as `domain.insights`.

`reports.analysis` and `reports.score_changes` compute it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.batches.results.clusters import cluster_numbers
from doceval_pipeline.batches.results.costs import add_up_costs, column_usage
from doceval_pipeline.batches.results.file_names import FileNames
from doceval_pipeline.batches.results.series.findings import samples_of, since_occurrence
from doceval_pipeline.doc_eval.baselines import latest_overlapping_batch
from doceval_pipeline.doc_eval.batches import batch_names, partition_key
from doceval_pipeline.doc_eval.criteria import read_criteria
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.history import prices_of_batch
from doceval_pipeline.doc_eval.recurring.series import OCCURRENCES_READ, occurrences_up_to
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.criteria import Criterion
from doceval_pipeline.domain.current_results import CurrentResults
from doceval_pipeline.domain.insights import (
    BatchCounts,
    BelowThreshold,
    ColumnChanges,
    Insights,
    Provenance,
    ReusedFrom,
    SincePrevious,
    UnsharedScores,
)
from doceval_pipeline.domain.scores import Scores, are_same_results
from doceval_pipeline.domain.usage import Cost, TokenUsage
from doceval_pipeline.knowledge import usage
from doceval_pipeline.knowledge.counts import count_origins, newest_origins
from doceval_pipeline.knowledge.scores import read_attempt_scores, read_scores
from doceval_pipeline.reports import analysis, thresholds
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline.reports.score_changes import compare_scores, largest_changes
from doceval_pipeline.reports.standings import RankingInput, rank_models
from doceval_pipeline.statistics.inference import corrected

# At most this many batches that results were reused from are listed, the newest.
ORIGINS_SHOWN = 20
# At most this many columns that a batch shares with the previous one are compared, the best.
COLUMNS_COMPARED = 20
_ROWS_SORTED = 1_000
# Settings of a connection that may change its answers; its name and `api_key_env` do not.
_SETTINGS = ("provider_type", "model_name", "base_url", "port_no", "connection_config")


def read_counts(
    doc_eval: Connection, knowledge: Connection, data: ReportInput, stored: Sequence[int]
) -> BatchCounts:
    """What the database counts of a batch.

    Parameters
    ----------
    stored
        The documents of the batch's staged files, by `docs.id`.
    """
    batch_id = data.batch_id
    reused, content_bytes = usage.read_storage(knowledge, batch_id, stored)
    origins = count_origins(knowledge, [batch_id]) if data.total.reused else {}
    all_origins, is_from_elsewhere = origins.get(batch_id, (0, False))
    return BatchCounts(
        throughput=usage.read_throughput(knowledge, batch_id),
        reused=reused,
        content_bytes=content_bytes,
        attempts=_attempts(knowledge, data),
        origins=_origins(doc_eval, knowledge, batch_id) if data.total.reused else (),
        all_origins=all_origins,
        is_from_elsewhere=is_from_elsewhere,
    )


def gather_insights(
    doc_eval: Connection,
    knowledge: Connection,
    data: ReportInput,
    counts: BatchCounts,
    names: FileNames,
    results: CurrentResults,
    provenance: Provenance,
) -> Insights:
    """What the results of a batch show beyond counts; `data` is the rest of the report."""
    batch_id, margin = data.batch_id, data.config["batch"].get("margin")
    scores = results.scores
    clusters = cluster_numbers(doc_eval, [batch_id], scores.documents)
    criteria = read_criteria(doc_eval, [*dict.fromkeys(column.prompt_id for column in data.columns)])
    prices = prices_of_batch(doc_eval, batch_id)
    used = column_usage(results.tokens, results.times, prices)
    ranking = RankingInput(scores.columns, scores.values, used, criteria, margin, clusters)
    boards = rank_models(figures(data).columns, ranking)
    table = scores.documents, scores.columns, scores.values
    names.load(analysis.most_disagreed(*table))
    return Insights(
        scores=analysis.mean_score(scores.values, clusters),
        leaderboards=boards.by_prompt,
        overall=boards.overall,
        below_thresholds=_below_thresholds(knowledge, batch_id, scores, criteria, names),
        margin=margin,
        distributions=analysis.distributions(scores.columns, scores.values),
        disagreements=analysis.disagreements(names.of_document, *table),
        agreements=analysis.agreements(
            boards.by_prompt,
            scores.columns,
            _without_repetitions(scores) if data.total.reused else scores.values,
        ),
        previous=_since_previous(
            doc_eval, knowledge, data, analysis.best_columns(boards.by_prompt), scores, names
        ),
        costs=_costs(results.tokens, prices, data.total.reused),
        seconds=results.times.get(None),
        provenance=provenance,
        counts=counts,
    )


def _below_thresholds(
    knowledge: Connection,
    batch_id: int,
    scores: Scores,
    criteria: Mapping[int, Criterion],
    names: FileNames,
) -> list[BelowThreshold]:
    below = thresholds.below_thresholds(scores.documents, scores.columns, scores.values, criteria)
    names.load(thresholds.named_documents(below))
    repeated = read_attempt_scores(knowledge, batch_id, thresholds.near_evaluations(below))
    return thresholds.with_names(below, names.of_document, repeated)


def _attempts(knowledge: Connection, data: ReportInput) -> list[tuple[int, int]]:
    """Attempt numbers, and how many evaluations have each as their current attempt."""
    rows = data.total.cells.rows
    if data.total.reprocessed:
        return usage.count_attempts(knowledge, data.batch_id)
    return [(1, rows)] if rows else []


def _costs(tokens: Sequence[TokenUsage], prices: Mapping[int, Prices], reused: int) -> list[Cost]:
    """The cost of a batch; 0 in each currency of its connections if every result was reused."""
    if tokens or not reused:
        return add_up_costs(tokens, prices)
    return [Cost(0.0, currency, 0, 0) for currency in sorted({price.currency for price in prices.values()})]


def _without_repetitions(scores: Scores) -> NDArray[np.float64]:
    """The scores without results that an earlier column already has.

    Two connections that ask the same question reuse one result: their agreement means nothing.
    """
    values = scores.values.copy()
    # Some rows at a time, because sorting takes several times the memory of what is sorted.
    for first in range(0, len(values), _ROWS_SORTED):
        rows = slice(first, first + _ROWS_SORTED)
        order = np.argsort(scores.origins[rows], axis=1, kind="stable")
        origins = np.take_along_axis(scores.origins[rows], order, axis=1)
        repeated = np.zeros(origins.shape, np.bool_)
        repeated[:, 1:] = are_same_results(origins[:, 1:], origins[:, :-1])
        at, places = np.nonzero(repeated)
        values[first + at, order[at, places]] = np.nan
    return values


def _origins(doc_eval: Connection, knowledge: Connection, batch_id: int) -> list[ReusedFrom]:
    origins = newest_origins(knowledge, batch_id, ORIGINS_SHOWN)
    names = batch_names(doc_eval, [number for number, _ in origins])
    return [
        ReusedFrom(partition_key(number), names.get(number, "(unknown here)"), cells)
        if number
        else ReusedFrom(None, "", cells)
        for number, cells in origins
    ]


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], column: Column, was: Column | None = None
) -> tuple[str, ...]:
    """Which settings of a column differ between two sealed configurations.

    Parameters
    ----------
    was
        The column in `before`, if its ids differ.
    """

    def differs(kind: str, place: int, keys: Sequence[str]) -> bool:
        settings = [
            [item.get(key) for key in keys]
            for config, key_of in ((before, was or column), (now, column))
            for item in config[kind]
            if item["id"] == key_of[place]
        ]
        return any(values != settings[0] for values in settings)

    changes = {
        "prompt text": differs("prompts", 1, ("text",)),
        "connection": differs("connections", 0, _SETTINGS),
    }
    return tuple(name for name, is_changed in changes.items() if is_changed)


@dataclass(frozen=True)
class _Compared:
    """The scores of two batches for the documents and columns that both have.

    `same_results` are in both by reuse, and have no score here.
    """

    documents: NDArray[np.int64]
    columns: tuple[Column, ...]
    before: NDArray[np.float64]
    now: NDArray[np.float64]
    same_results: int


def _since_previous(
    doc_eval: Connection,
    knowledge: Connection,
    data: ReportInput,
    best_first: Sequence[Column],
    scores: Scores,
    names: FileNames,
) -> SincePrevious | None:
    previous = latest_overlapping_batch(doc_eval, data.batch_id)
    if previous is None:
        return None
    before = read_scores(knowledge, previous.id)
    history = occurrences_up_to(doc_eval, data.batch_id, OCCURRENCES_READ)
    occurrence = None
    if any(one.batch_id == previous.id for one in history):
        occurrence = since_occurrence(doc_eval, knowledge, history, previous.id)
    compared = _compare(before, scores, best_first)
    clusters = cluster_numbers(doc_eval, [previous.id, data.batch_id], compared.documents)
    sealed = read_snapshot(doc_eval, previous.id)
    # Without shared rows or columns it was archived meanwhile, or its selection was changed. Two occurrences
    # may well share no document.
    if sealed is None or not compared.columns or not (compared.documents.size or occurrence):
        return None
    changed = {c: changed_settings(sealed.config, data.config, c) for c in compared.columns}
    shared = _changed_columns(compared, names, changed, clusters)
    apart = _samples(before, scores, compared.columns, changed) if occurrence else []
    # All comparisons of the report are corrected together.
    tested = iter(corrected([*(c.changes.difference for c in shared), *(s.difference for s in apart)]))
    columns = tuple(replace(c, changes=replace(c.changes, difference=next(tested))) for c in shared)
    samples = tuple(replace(sample, difference=next(tested)) for sample in apart)
    return SincePrevious(
        partition_key=previous.key,
        name=previous.name,
        completed_at=previous.completed_at,
        shared_documents=compared.documents.size,
        columns=columns,
        shared_columns=len(compared.columns),
        same_results=compared.same_results,
        occurrence=None if occurrence is None else replace(occurrence, samples=samples),
    )


def _compare(before: Scores, now: Scores, best_first: Sequence[Column]) -> _Compared:
    documents, rows_before, rows_now = np.intersect1d(
        before.documents, now.documents, assume_unique=True, return_indices=True
    )
    both = {*before.columns} & {*now.columns}
    columns = tuple(column for column in best_first if column in both)
    places_before = [before.columns.index(column) for column in columns]
    places_now = [now.columns.index(column) for column in columns]
    same = are_same_results(
        before.origins[rows_before][:, places_before], now.origins[rows_now][:, places_now]
    )
    return _Compared(
        documents,
        columns,
        np.where(same, np.nan, before.values[rows_before][:, places_before]),
        np.where(same, np.nan, now.values[rows_now][:, places_now]),
        int(np.count_nonzero(same)),
    )


def _changed_columns(
    compared: _Compared,
    names: FileNames,
    changed: Mapping[Column, tuple[str, ...]],
    clusters: NDArray[np.int64] | None,
) -> list[ColumnChanges]:
    """How the best columns changed that have a document with both scores; no p is corrected."""
    both = ~np.isnan(compared.before + compared.now)
    places = np.flatnonzero(both.any(axis=0))[:COLUMNS_COMPARED]
    pairs = {compared.columns[place]: (compared.before[:, place], compared.now[:, place]) for place in places}
    names.load(id_ for pair in pairs.values() for id_ in largest_changes(compared.documents, *pair))
    return [
        ColumnChanges(column, changes, changed[column])
        for column, (before, now) in pairs.items()
        if (changes := compare_scores(names.of_document, compared.documents, before, now, clusters=clusters))
        is not None
    ]


def _samples(
    before: Scores, now: Scores, columns: Sequence[Column], changed: Mapping[Column, tuple[str, ...]]
) -> list[UnsharedScores]:
    """The scores of documents that only one of the two batches has; no p is corrected."""
    by_column = ((column, samples_of(before, now, column)) for column in columns[:COLUMNS_COMPARED])
    return [replace(samples, changed=changed[column]) for column, samples in by_column if samples is not None]
