"""Gathers what a batch's results say beyond counts, from both databases; what is computed of it is told by
`reports.analysis`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.batches.results.file_names import Names
from doceval_pipeline.batches.results.series.findings import samples_of, since_occurrence
from doceval_pipeline.doc_eval.baselines import previous_batch
from doceval_pipeline.doc_eval.batches import batch_names, partition_key
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.prices import prices_of_batch
from doceval_pipeline.doc_eval.recurring.series import OCCURRENCES_READ, occurrences_up_to
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.usage import Cost, TokenUsage
from doceval_pipeline.knowledge import usage
from doceval_pipeline.knowledge.counts import count_origins, newest_origins
from doceval_pipeline.knowledge.scores import Scores, are_same_results, read_scores
from doceval_pipeline.knowledge.usage import Pace
from doceval_pipeline.reports import analysis
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.insights import (
    ColumnMovement,
    Insights,
    Movement,
    Provenance,
    ReusedFrom,
    Samples,
    Seconds,
    SincePrevious,
    Stall,
    Throughput,
)
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline.reports.score_changes import most_moved, movement
from doceval_pipeline.statistics.inference import corrected

# Of more batches that results were reused from, the newest.
ORIGINS_SHOWN = 20
# Of more columns that a batch shares with the previous one, only the best are compared.
COLUMNS_MOVED = 20
# Of a connection, what may change its answers; not how it is called, nor where its key is.
_SETTINGS = ("provider_type", "model_name", "base_url", "port_no", "connection_config")


def gather_insights(
    doc_eval: Connection,
    knowledge: Connection,
    data: ReportInput,
    stored: Sequence[int],
    names: Names,
    scores: Scores,
    provenance: Provenance,
) -> Insights:
    """All that is said of a batch beyond counts.

    Parameters
    ----------
    data
        The rest of the report.
    stored
        The documents of the batch's staged files, by `docs.id`.
    """
    batch_id = data.batch_id
    standings = analysis.leaderboard(figures(data).columns, scores.columns, scores.values)
    table = scores.documents, scores.columns, scores.values
    names.know(analysis.most_disagreed(*table))
    reused, content_bytes = usage.read_storage(knowledge, batch_id, stored)
    origins = count_origins(knowledge, [batch_id]) if data.total.reused else {}
    all_origins, is_from_elsewhere = origins.get(batch_id, (0, False))
    seconds, tokens = usage.read_seconds(knowledge, batch_id), usage.read_tokens(knowledge, batch_id)
    return Insights(
        scores=analysis.mean_score(scores.values),
        leaderboard=standings,
        distributions=analysis.distributions(scores.columns, scores.values),
        disagreements=analysis.disagreements(names.of_document, *table),
        agreements=analysis.agreements(standings, scores.columns, _without_repetitions(scores)),
        previous=_since_previous(
            doc_eval, knowledge, data, [standing.column for standing in standings], scores, names
        ),
        throughput=_throughput(usage.read_pace(knowledge, batch_id)),
        costs=_costs(tokens, prices_of_batch(doc_eval, batch_id), data.total.reused),
        seconds=None if seconds is None else Seconds(seconds.n, seconds.p50, seconds.p95),
        reused=reused,
        content_bytes=content_bytes,
        attempts=usage.count_attempts(knowledge, batch_id),
        provenance=provenance,
        origins=_origins(doc_eval, knowledge, batch_id) if data.total.reused else (),
        all_origins=all_origins,
        is_from_elsewhere=is_from_elsewhere,
    )


def _costs(tokens: Sequence[TokenUsage], prices: Mapping[int, Prices], reused: int) -> list[Cost]:
    """What a batch cost; one in which everything was reused cost 0, in each currency of its connections."""
    if tokens or not reused:
        return add_up_costs(tokens, prices)
    return [Cost(0.0, currency, 0, 0) for currency in sorted({price.currency for price in prices.values()})]


def _without_repetitions(scores: Scores) -> NDArray[np.float64]:
    """The scores, without those of a result that a column before has too.

    Two connections that ask the same question reuse one result: that they agree says nothing.
    """
    order = np.argsort(scores.origins, axis=1, kind="stable")
    origins = np.take_along_axis(scores.origins, order, axis=1)
    repeated = np.zeros(origins.shape, np.bool_)
    repeated[:, 1:] = are_same_results(origins[:, 1:], origins[:, :-1])
    values = scores.values.copy()
    np.put_along_axis(
        values, order, np.where(repeated, np.nan, np.take_along_axis(values, order, axis=1)), axis=1
    )
    return values


def _origins(doc_eval: Connection, knowledge: Connection, batch_id: int) -> list[ReusedFrom]:
    found = newest_origins(knowledge, batch_id, ORIGINS_SHOWN)
    names = batch_names(doc_eval, [number for number, _ in found])
    return [
        ReusedFrom(partition_key(number), names.get(number, "(unknown here)"), cells)
        if number
        else ReusedFrom(None, "", cells)
        for number, cells in found
    ]


def add_up_costs(tokens: Sequence[TokenUsage], prices: Mapping[int, Prices]) -> list[Cost]:
    """What finished cells cost, for each currency in which any is known."""
    priced = [
        (taken, price)
        for taken in tokens
        if (price := prices.get(taken.connection_id)) is not None and _is_priced(taken, price)
    ]
    unpriced = sum(taken.cells for taken in tokens) - sum(taken.cells for taken, _ in priced)
    costs = []
    for currency in sorted({price.currency for _, price in priced}):
        found = [(taken, price) for taken, price in priced if price.currency == currency]
        amount = sum(_amount(taken, price) for taken, price in found)
        costs.append(Cost(amount, currency, sum(taken.cells for taken, _ in found), unpriced))
    return costs


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], column: Column, was: Column | None = None
) -> tuple[str, ...]:
    """What of a column is not the same in two sealed configurations.

    Parameters
    ----------
    was
        The column before, where it had other numbers.
    """

    def differs(kind: str, place: int, keys: Sequence[str]) -> bool:
        settings = [
            [item.get(key) for key in keys]
            for config, key_of in ((before, was or column), (now, column))
            for item in config[kind]
            if item["id"] == key_of[place]
        ]
        return any(found != settings[0] for found in settings)

    changes = {
        "prompt text": differs("prompts", 1, ("text",)),
        "connection": differs("connections", 0, _SETTINGS),
    }
    return tuple(name for name, is_changed in changes.items() if is_changed)


@dataclass(frozen=True)
class _Compared:
    """Two batches' scores of the same documents, in the columns that both have.

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
    names: Names,
) -> SincePrevious | None:
    previous = previous_batch(doc_eval, data.batch_id)
    if previous is None:
        return None
    before, now = read_scores(knowledge, previous.id), scores
    history = occurrences_up_to(doc_eval, data.batch_id, OCCURRENCES_READ)
    occurrence = None
    if any(one.batch_id == previous.id for one in history):
        occurrence = since_occurrence(doc_eval, knowledge, history, previous.id)
    compared = _compare(before, now, best_first)
    sealed = read_snapshot(doc_eval, previous.id)
    # Without rows or columns in common it was archived meanwhile, or its choice is not what it was. Two
    # occurrences may well have no document in common.
    if sealed is None or not compared.columns or not (compared.documents.size or occurrence):
        return None
    changed = {c: changed_settings(sealed.config, data.config, c) for c in compared.columns}
    moved = _movements(compared, names)
    samples = {c: samples_of(before, now, c) for c in compared.columns[:COLUMNS_MOVED]} if occurrence else {}
    apart = {column: found for column, found in samples.items() if found is not None}
    # All comparisons of the report together.
    tested = corrected([*(m.difference for m in moved.values()), *(found[2] for found in apart.values())])
    if occurrence is not None:
        rest = tested[len(moved) :]
        together = zip(apart.items(), rest, strict=True)
        found = tuple(Samples(c, n, m, difference, changed[c]) for (c, (n, m, _)), difference in together)
        occurrence = replace(occurrence, samples=found)
    return SincePrevious(
        partition_key=previous.key,
        name=previous.name,
        completed_at=previous.completed_at,
        shared_documents=compared.documents.size,
        columns=tuple(
            ColumnMovement(column, replace(movement_, difference=difference), changed[column])
            for (column, movement_), difference in zip(moved.items(), tested, strict=False)
        ),
        shared_columns=len(compared.columns),
        same_results=compared.same_results,
        occurrence=occurrence,
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


def _movements(compared: _Compared, names: Names) -> dict[Column, Movement]:
    """How the best columns moved that have a document with both scores; no p is corrected."""
    both = ~np.isnan(compared.before + compared.now)
    places = np.flatnonzero(both.any(axis=0))[:COLUMNS_MOVED]
    pairs = {compared.columns[place]: (compared.before[:, place], compared.now[:, place]) for place in places}
    names.know(id_ for pair in pairs.values() for id_ in most_moved(compared.documents, *pair))
    return {
        column: moved
        for column, pair in pairs.items()
        if (moved := movement(names.of_document, compared.documents, *pair)) is not None
    }


def _throughput(pace: Pace | None) -> Throughput | None:
    if pace is None:
        return None
    stalls = tuple(Stall(start, seconds) for start, seconds in pace.stalls)
    return Throughput(pace.start, pace.span_seconds, pace.spans, stalls, pace.without_time, pace.all_stalls)


def _is_priced(taken: TokenUsage, price: Prices) -> bool:
    """Whether both prices are known, and cells say how many tokens they took where these cost something."""
    return all(
        per_million is not None and (is_said or per_million == 0)
        for per_million, is_said in (
            (price.input_per_million, taken.has_input),
            (price.output_per_million, taken.has_output),
        )
    )


def _amount(taken: TokenUsage, price: Prices) -> float:
    return (
        taken.input_tokens * (price.input_per_million or 0)
        + taken.output_tokens * (price.output_per_million or 0)
    ) / 1e6
