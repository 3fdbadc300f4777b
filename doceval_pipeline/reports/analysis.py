"""Computes the distribution of scores and the agreement of models from a table of scores.

The table has a row per document and a column per connection and prompt, by their ids; NaN where there is no
score.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, zip_longest

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.domain.insights import Agreement, Disagreement, Distribution, PromptLeaderboard
from doceval_pipeline.statistics.inference import clustered_estimate, correlation_of_places, places

DISTRIBUTION_BINS = 20
DISAGREEMENTS_SHOWN = 20
# Most connections that are paired: the best ones.
CONNECTIONS_PAIRED = 12
# Two scores are close if they differ by at most this many points.
CLOSE = 10.0
# Smaller differences are rounding errors, as in `statistics`.
_DECIMALS = 9

Documents = NDArray[np.int64]
Values = NDArray[np.float64]


def mean_score(values: Values, clusters: Documents | None = None) -> Estimate | None:
    """The mean of all scores, with an interval that allows for dependent scores of one cluster.

    Parameters
    ----------
    clusters
        The cluster of each document; None if each document is a cluster of its own.
    """
    has_score = ~np.isnan(values)
    rows = np.nonzero(has_score)[0]
    return clustered_estimate(values[has_score], rows if clusters is None else clusters[rows])


def distributions(columns: Sequence[Column], values: Values) -> list[Distribution]:
    """The distribution of the scores of each column that has any."""
    return [
        _distribution(column, scores)
        for place, column in enumerate(columns)
        if (scores := values[:, place][~np.isnan(values[:, place])]).size
    ]


def most_disagreed(documents: Documents, columns: Sequence[Column], values: Values) -> list[int]:
    """The documents that `disagreements` names, so that their names can be read beforehand, all at once."""
    return [int(documents[row]) for row, _ in _most_disagreed(documents, columns, values)]


def disagreements(
    name_of: Callable[[int], str], documents: Documents, columns: Sequence[Column], values: Values
) -> list[Disagreement]:
    """The documents on which connections differ most under one prompt, each with that prompt."""
    return [
        Disagreement(
            document=name_of(int(documents[row])),
            document_id=int(documents[row]),
            prompt_id=prompt,
            scores=tuple(
                (connection, float(values[row, place]))
                for place, (connection, prompt_id) in enumerate(columns)
                if prompt_id == prompt and not np.isnan(values[row, place])
            ),
        )
        for row, prompt in _most_disagreed(documents, columns, values)
    ]


def agreements(
    boards: Sequence[PromptLeaderboard], columns: Sequence[Column], values: Values
) -> list[Agreement]:
    """How closely each pair of connections agrees; with many connections, only pairs of the best ones."""
    best = list(dict.fromkeys(connection for connection, _ in best_columns(boards, scored_only=True)))
    paired = sorted(best[:CONNECTIONS_PAIRED])
    scores = {connection: _scores_by_prompt(connection, columns, values) for connection in paired}
    pairs = (_agreement(first, second, scores) for first, second in combinations(paired, 2))
    return [agreement for agreement in pairs if agreement is not None]


def best_columns(boards: Sequence[PromptLeaderboard], *, scored_only: bool = False) -> list[Column]:
    """All columns, the leaders of all prompts first, then the second ones, and so on."""
    ranks = zip_longest(*(board.ranked if scored_only else board.standings for board in boards))
    return [
        (standing.connection_id, board.prompt_id)
        for rank in ranks
        for board, standing in zip(boards, rank, strict=True)
        if standing is not None and board.prompt_id is not None
    ]


def _distribution(column: Column, scores: Values) -> Distribution:
    low, median, high = (float(value) for value in np.quantile(scores, (0.25, 0.5, 0.75)))
    bins = np.minimum(DISTRIBUTION_BINS - 1, scores // (100 / DISTRIBUTION_BINS)).astype(np.int64)
    return Distribution(
        column=column,
        n=scores.size,
        minimum=float(scores.min()),
        lower_quartile=low,
        median=median,
        upper_quartile=high,
        maximum=float(scores.max()),
        bins=tuple(int(count) for count in np.bincount(bins, minlength=DISTRIBUTION_BINS)),
    )


def _most_disagreed(documents: Documents, columns: Sequence[Column], values: Values) -> list[tuple[int, int]]:
    """Rows of the table, each with its prompt; among equal ones, the lowest document and prompt ids."""
    prompts = sorted({prompt for _, prompt in columns})
    if not prompts or not documents.size:
        return []
    spreads = np.column_stack(
        [
            _spread(values[:, [place for place, (_, prompt) in enumerate(columns) if prompt == p]])
            for p in prompts
        ]
    )
    worst, size = spreads.argmax(axis=1), spreads.max(axis=1)
    order = np.lexsort((documents, -size))[:DISAGREEMENTS_SHOWN]
    return [(int(row), prompts[worst[row]]) for row in order if size[row] > 0]


def _spread(values: Values) -> Values:
    """The distance between the lowest and highest score of each row; 0 with fewer than two scores."""
    spread = np.fmax.reduce(values, axis=1) - np.fmin.reduce(values, axis=1)
    rounded: Values = np.round(np.nan_to_num(spread, nan=0.0), _DECIMALS)
    return rounded


def _scores_by_prompt(
    connection: int, columns: Sequence[Column], values: Values
) -> dict[int, tuple[Values, Documents]]:
    """The scores of a connection under each prompt, and the place of each among all of them."""
    own = {prompt: place for place, (known, prompt) in enumerate(columns) if known == connection}
    scores = values[:, list(own.values())]
    ranked = places(scores).reshape(scores.shape)
    return {prompt: (scores[:, n], ranked[:, n]) for n, prompt in enumerate(own)}


def _agreement(
    first: int, second: int, scores: Mapping[int, Mapping[int, tuple[Values, Documents]]]
) -> Agreement | None:
    shared = [prompt for prompt in scores[first] if prompt in scores[second]]
    if not shared:
        return None
    one, other = (np.concatenate([scores[c][prompt][0] for prompt in shared]) for c in (first, second))
    both = ~(np.isnan(one) | np.isnan(other))
    if not both.any():
        return None
    ranked = (np.concatenate([scores[c][prompt][1] for prompt in shared])[both] for c in (first, second))
    one, other = one[both], other[both]
    distances = np.round(np.abs(one - other), _DECIMALS)
    return Agreement(
        first=first,
        second=second,
        n=one.size,
        correlation=correlation_of_places(*ranked),
        distance=float(distances.mean()),
        close=int(np.count_nonzero(distances <= CLOSE)),
    )
