"""Computes the leaderboard, the distribution of scores and the disagreement of models from a table of scores.

The table has a row per document and a column per connection and prompt, by their ids; NaN where there is no
score.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.insights import Agreement, Disagreement, Distribution, Standing
from doceval_pipeline.reports.model import ColumnFigures
from doceval_pipeline.statistics.inference import (
    clustered_estimate,
    corrected,
    difference,
    estimate,
    rank_correlation,
)

DISTRIBUTION_BINS = 20
DISAGREEMENTS_SHOWN = 20
# Most connections that are paired: the best ones.
CONNECTIONS_PAIRED = 12
# With more columns, differences to the leader have Student's interval, which is fast to compute.
COLUMNS_RESAMPLED = 20
# Two scores are close if they differ by at most this many points.
CLOSE = 10.0
# Smaller differences are rounding errors, as in `statistics`.
_DECIMALS = 9

Documents = NDArray[np.int64]
Values = NDArray[np.float64]


def mean_score(values: Values) -> Estimate | None:
    """The mean of all scores, with an interval that allows for dependent scores of one document."""
    has_score = ~np.isnan(values)
    return clustered_estimate(values[has_score], np.nonzero(has_score)[0])


def median_score(values: Values) -> float | None:
    """The median of all scores."""
    scores = values[~np.isnan(values)]
    return float(np.median(scores)) if scores.size else None


def leaderboard(
    figures: Sequence[ColumnFigures], columns: Sequence[Column], values: Values
) -> list[Standing]:
    """All columns of a report, best first; columns without a score last, in their order.

    Parameters
    ----------
    figures
        The counts and sums of each column; a column without evaluations is not in the table.
    """
    scores = {column: values[:, place] for place, column in enumerate(columns)}
    means = {key: estimate(scores[key][~np.isnan(scores[key])]) for key in scores}
    ranked = sorted(figures, key=lambda f: _rank(means.get(_key(f))))
    leader = scores.get(_key(ranked[0])) if ranked else None
    behind = {} if leader is None else _behind(leader, {_key(f): scores.get(_key(f)) for f in ranked[1:]})
    return [
        Standing(
            column=key,
            scores=means.get(key),
            behind=behind.get(key),
            tied=place > 0 and means.get(key) is not None and not _is_significant(behind.get(key)),
            failed=column_figures.cells.failed,
            without_score=column_figures.cells.succeeded
            - (column_figures.sums.scores.n if column_figures.sums.scores else 0),
            without_result=column_figures.cells.open,
        )
        for place, column_figures in enumerate(ranked)
        for key in (_key(column_figures),)
    ]


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


def agreements(standings: Sequence[Standing], columns: Sequence[Column], values: Values) -> list[Agreement]:
    """How closely each pair of connections agrees; with many connections, only pairs of the best ones."""
    best = list(dict.fromkeys(s.column[0] for s in standings if s.scores is not None))[:CONNECTIONS_PAIRED]
    scores = {column: values[:, place] for place, column in enumerate(columns)}
    pairs = (_agreement(first, second, scores) for first, second in combinations(sorted(best), 2))
    return [agreement for agreement in pairs if agreement is not None]


def _key(figures: ColumnFigures) -> Column:
    return figures.column.connection_id, figures.column.prompt_id


def _rank(mean: Estimate | None) -> tuple[bool, float]:
    return mean is None, 0.0 if mean is None else -round(mean.mean, _DECIMALS)


def _behind(leader: Values, others: dict[Column, Values | None]) -> dict[Column, Difference]:
    """The differences to the leader over shared documents; each p is corrected for all of them."""
    differences: dict[Column, Difference] = {}
    for column, scores in others.items():
        if scores is not None:
            both = ~(np.isnan(leader) | np.isnan(scores))
            behind = difference(leader[both], scores[both], resample=len(others) < COLUMNS_RESAMPLED)
            if behind is not None:
                differences[column] = behind
    return dict(zip(differences, corrected(list(differences.values())), strict=True))


def _is_significant(behind: Difference | None) -> bool:
    return behind is not None and behind.told_apart


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


def _agreement(first: int, second: int, scores: dict[Column, Values]) -> Agreement | None:
    shared = [prompt for connection, prompt in scores if connection == first and (second, prompt) in scores]
    if not shared:
        return None
    one = np.concatenate([scores[first, prompt] for prompt in shared])
    other = np.concatenate([scores[second, prompt] for prompt in shared])
    both = ~(np.isnan(one) | np.isnan(other))
    if not both.any():
        return None
    one, other = one[both], other[both]
    distances = np.round(np.abs(one - other), _DECIMALS)
    return Agreement(
        first=first,
        second=second,
        n=one.size,
        correlation=rank_correlation(one, other),
        distance=float(distances.mean()),
        close=int(np.count_nonzero(distances <= CLOSE)),
    )
