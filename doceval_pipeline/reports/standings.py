"""Ranks the models of a batch under each prompt, and overall where prompts carry weights.

The table of scores has a row per document and a column per connection and prompt, by their ids; NaN where
there is no score. Models are compared over the documents that both scored; every p is corrected for all
comparisons of the report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.criteria import Criterion
from doceval_pipeline.domain.findings import Difference, MarginTest
from doceval_pipeline.domain.insights import PromptLeaderboard, Standing
from doceval_pipeline.domain.usage import NO_USAGE, ColumnUsage, Cost
from doceval_pipeline.reports.model import ColumnFigures
from doceval_pipeline.statistics.inference import (
    clustered_estimate,
    corrected,
    difference,
)
from doceval_pipeline.statistics.margins import MarginEvidence, conclude, margin_test
from doceval_pipeline.statistics.model_means import adjusted_means

# With more comparisons, differences have Student's interval, which is fast to compute.
COMPARISONS_RESAMPLED = 20

Documents = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RankingInput:
    """What leaderboards are made from, besides the counts of columns."""

    columns: Sequence[Column]
    """The columns of `values`."""
    values: Values
    usage: Mapping[Column, ColumnUsage] = field(default_factory=dict)
    criteria: Mapping[int, Criterion] = field(default_factory=dict)
    """By prompt."""
    margin: float | None = None
    clusters: Documents | None = None
    """The cluster of each document; None if each is a cluster of its own."""


@dataclass(frozen=True, slots=True)
class Leaderboards:
    """The leaderboards of a batch: one for each prompt, and the overall one."""

    by_prompt: Sequence[PromptLeaderboard]
    overall: PromptLeaderboard | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """A model under one prompt, or overall: its scores and counts."""

    connection_id: int
    scores: Values
    failed: int
    without_score: int
    without_result: int
    simulated: int
    usage: ColumnUsage


@dataclass(frozen=True, slots=True)
class _Board:
    """Entries in their order, and the comparison of each with the first."""

    prompt_id: int | None
    entries: Sequence[_Entry]
    ranked: int
    """The first of `entries`, which have a score."""
    is_same_documents: bool
    weights: tuple[tuple[int, float], ...] = ()


def rank_models(figures: Sequence[ColumnFigures], given: RankingInput) -> Leaderboards:
    """The leaderboards of a batch, best model first; models without a score last, in their order.

    Parameters
    ----------
    figures
        The counts of each column; a column without evaluations is not in the table of scores.
    """
    prompts = list(dict.fromkeys(column.column.prompt_id for column in figures))
    entries = {
        prompt: [_entry(column, given) for column in figures if column.column.prompt_id == prompt]
        for prompt in prompts
    }
    boards = [_ordered(prompt, entries[prompt]) for prompt in prompts]
    weights = _weights(prompts, given.criteria)
    if len(weights) > 1:
        boards.append(_ordered(None, _weighted(entries, weights), weights))
    finished = _compared(boards, given)
    return Leaderboards(finished[: len(prompts)], finished[-1] if len(weights) > 1 else None)


def _entry(column: ColumnFigures, given: RankingInput) -> _Entry:
    key = column.column.connection_id, column.column.prompt_id
    scores = (
        given.values[:, given.columns.index(key)]
        if key in given.columns
        else np.full(given.values.shape[0], np.nan)
    )
    scored = column.sums.scores.n if column.sums.scores else 0
    return _Entry(
        connection_id=key[0],
        scores=scores,
        failed=column.cells.failed,
        without_score=column.cells.succeeded - scored,
        without_result=column.cells.open,
        simulated=column.sums.simulated,
        usage=given.usage.get(key, NO_USAGE),
    )


def _weights(prompts: Iterable[int], criteria: Mapping[int, Criterion]) -> tuple[tuple[int, float], ...]:
    """The prompts that carry a weight, in their order."""
    known = ((prompt, criteria.get(prompt, Criterion()).weight) for prompt in prompts)
    return tuple((prompt, weight) for prompt, weight in known if weight is not None)


def _ordered(
    prompt_id: int | None, entries: Sequence[_Entry], weights: tuple[tuple[int, float], ...] = ()
) -> _Board:
    """The entry with the highest mean on equal documents first, the others by their difference to it."""
    scored = [entry for entry in entries if not np.isnan(entry.scores).all()]
    rest = [entry for entry in entries if np.isnan(entry.scores).all()]
    if not scored:
        return _Board(prompt_id, rest, 0, is_same_documents=True, weights=weights)
    table = np.column_stack([entry.scores for entry in scored])
    has_score = ~np.isnan(table)
    return _Board(
        prompt_id,
        [*(scored[place] for place in _places(table)), *rest],
        len(scored),
        is_same_documents=bool((has_score == has_score[:, :1]).all()),
        weights=weights,
    )


def _places(table: Values) -> list[int]:
    """The columns of a table in their order.

    Only the leader is found by adjusted means: the others are ordered by the differences that are shown.
    Those without a document in common with the leader come last.
    """
    order = np.argsort(-adjusted_means(table), kind="stable").tolist()
    differences = table - table[:, order[:1]]
    common = ~np.isnan(differences)
    counts = common.sum(axis=0)
    means = np.where(common, differences, 0.0).sum(axis=0) / np.maximum(counts, 1)
    rest = sorted(order[1:], key=lambda place: (counts[place] == 0, -round(float(means[place]), 9)))
    return [order[0], *rest]


def _weighted(entries: Mapping[int, Sequence[_Entry]], weights: Sequence[tuple[int, float]]) -> list[_Entry]:
    """Each model with the weighted mean of each document that it scored under every weighted prompt."""
    total = sum(weight for _, weight in weights)
    by_connection: dict[int, list[_Entry]] = {}
    for prompt, _ in weights:
        for entry in entries[prompt]:
            by_connection.setdefault(entry.connection_id, []).append(entry)
    return [
        _Entry(
            connection_id=connection,
            scores=sum(
                (entry.scores * (weight / total) for entry, (_, weight) in zip(own, weights, strict=True)),
                start=np.zeros_like(own[0].scores),
            ),
            failed=sum(entry.failed for entry in own),
            without_score=sum(entry.without_score for entry in own),
            without_result=sum(entry.without_result for entry in own),
            simulated=sum(entry.simulated for entry in own),
            usage=_together([entry.usage for entry in own]),
        )
        for connection, own in by_connection.items()
        if len(own) == len(weights)
    ]


def _together(parts: Sequence[ColumnUsage]) -> ColumnUsage:
    """The usage of one document under all weighted prompts; only its cost adds up."""
    cells = sum(part.cells for part in parts)
    costs = [part.cost for part in parts if part.cost is not None]
    if len(costs) < len(parts) or len({cost.currency for cost in costs}) > 1:
        return ColumnUsage(cells)
    documents = max(cost.cells for cost in costs)
    amount = documents * sum(cost.per_document for cost in costs)
    unpriced = sum(cost.unpriced for cost in costs)
    return ColumnUsage(cells, cost=Cost(amount, costs[0].currency, documents, unpriced))


def _compared(boards: Sequence[_Board], given: RankingInput) -> list[PromptLeaderboard]:
    """The boards with the differences to each leader and the tests of the margin, corrected together."""
    resample = sum(max(0, board.ranked - 1) for board in boards) < COMPARISONS_RESAMPLED
    differences = _corrected(
        {
            (place, rank): _difference(board.entries[rank], board.entries[0], given, resample=resample)
            for place, board in enumerate(boards)
            for rank in range(1, board.ranked)
        }
    )
    tests = _margin_tests(boards, given)
    return [
        PromptLeaderboard(
            prompt_id=board.prompt_id,
            standings=[
                _standing(board, rank, differences, tests, place, given) for rank in range(len(board.entries))
            ],
            is_same_documents=board.is_same_documents,
            weights=board.weights,
        )
        for place, board in enumerate(boards)
    ]


def _pairs(entry: _Entry, leader: _Entry, given: RankingInput) -> tuple[Values, Values, Documents | None]:
    """The scores of the leader and of an entry over the documents that both scored, and their clusters."""
    both = ~(np.isnan(entry.scores) | np.isnan(leader.scores))
    clusters = None if given.clusters is None else given.clusters[both]
    return leader.scores[both], entry.scores[both], clusters


def _difference(entry: _Entry, leader: _Entry, given: RankingInput, *, resample: bool) -> Difference | None:
    first, second, clusters = _pairs(entry, leader, given)
    return difference(first, second, resample=resample, clusters=clusters)


def _corrected(
    differences: Mapping[tuple[int, int], Difference | None],
) -> dict[tuple[int, int], Difference]:
    known = {key: each for key, each in differences.items() if each is not None}
    return dict(zip(known, corrected(list(known.values())), strict=True))


def _margin_tests(boards: Sequence[_Board], given: RankingInput) -> dict[tuple[int, int], MarginTest]:
    """The tests of all models that are cheaper or faster than their leader, corrected together.

    Never of the overall ranking: weights are not sealed, so that they could be chosen by the results.
    """
    if given.margin is None:
        return {}
    tested: dict[tuple[int, int], MarginEvidence] = {}
    by_prompt = [(place, board) for place, board in enumerate(boards) if board.prompt_id is not None]
    for place, board in by_prompt:
        for rank in range(1, board.ranked):
            entry, leader = board.entries[rank], board.entries[0]
            if entry.usage.is_cheaper(leader.usage) or entry.usage.is_faster(leader.usage):
                first, second, clusters = _pairs(entry, leader, given)
                if first.size:
                    tested[place, rank] = margin_test(first, second, given.margin, clusters=clusters)
    # Any model could have become its leader.
    models = sum(board.ranked for _, board in by_prompt)
    return dict(zip(tested, conclude(list(tested.values()), models=models), strict=True))


def _standing(
    board: _Board,
    rank: int,
    differences: Mapping[tuple[int, int], Difference],
    tests: Mapping[tuple[int, int], MarginTest],
    place: int,
    given: RankingInput,
) -> Standing:
    entry = board.entries[rank]
    behind = differences.get((place, rank))
    against, shown = board.entries[0].connection_id if 0 < rank < board.ranked else None, behind
    if rank == 0 and board.ranked > 1:
        second = differences.get((place, 1))
        against, shown = board.entries[1].connection_id, None if second is None else second.turned()
    has_score = ~np.isnan(entry.scores)
    clusters = np.arange(entry.scores.size) if given.clusters is None else given.clusters
    return Standing(
        connection_id=entry.connection_id,
        scores=clustered_estimate(entry.scores[has_score], clusters[has_score]),
        against=against,
        difference=shown,
        tied=0 < rank < board.ranked and not (behind is not None and behind.told_apart),
        failed=entry.failed,
        without_score=entry.without_score,
        without_result=entry.without_result,
        simulated=entry.simulated,
        usage=entry.usage,
        margin_test=tests.get((place, rank)),
    )
