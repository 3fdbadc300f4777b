"""Says of a table of scores who leads, how scores are spread, and where models disagree. Pure: numbers in.

A table has a row for each document and a column for each connection and prompt, by their ids; NaN where
there is no score.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.reports.insights import Agreement, Disagreement, Distribution, Standing
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
# Of more connections, the pairs of the best ones.
CONNECTIONS_PAIRED = 12
# Of more columns, differences to the leader have Student's interval, which is computed at once.
COLUMNS_RESAMPLED = 20
# Points that two scores may be apart and still be close.
CLOSE = 10.0
# What differs by less is equal, as in `statistics`.
_DECIMALS = 9

Documents = NDArray[np.int64]
Values = NDArray[np.float64]


def mean_score(values: Values) -> Estimate | None:
    """The mean of all scores; those of a document are not independent."""
    has_score = ~np.isnan(values)
    return clustered_estimate(values[has_score], np.nonzero(has_score)[0])


def median_score(values: Values) -> float | None:
    """The median of all scores."""
    scores = values[~np.isnan(values)]
    return float(np.median(scores)) if scores.size else None


def leaderboard(
    figures: Sequence[ColumnFigures], columns: Sequence[Column], values: Values
) -> list[Standing]:
    """All columns of a report, the best first; those without a score last, in their order.

    Parameters
    ----------
    figures
        What the cells of each column add up to; a column without cells is not in the table.
    """
    scores = {column: values[:, place] for place, column in enumerate(columns)}
    means = {key: estimate(scores[key][~np.isnan(scores[key])]) for key in scores}
    ranked = sorted(figures, key=lambda f: _rank(means.get(_key(f))))
    leader = scores.get(_key(ranked[0])) if ranked else None
    apart = {} if leader is None else _behind(leader, {_key(f): scores.get(_key(f)) for f in ranked[1:]})
    return [
        Standing(
            column=key,
            scores=means.get(key),
            behind=apart.get(key),
            tied=place > 0 and means.get(key) is not None and not _told_apart(apart.get(key)),
            failed=found.cells.failed,
            without_score=found.cells.succeeded - (found.sums.scores.n if found.sums.scores else 0),
            without_result=found.cells.open,
        )
        for place, found in enumerate(ranked)
        for key in (_key(found),)
    ]


def distributions(columns: Sequence[Column], values: Values) -> list[Distribution]:
    """How the scores of each column that has any are spread."""
    return [
        _distribution(column, scores)
        for place, column in enumerate(columns)
        if (scores := values[:, place][~np.isnan(values[:, place])]).size
    ]


def most_disagreed(documents: Documents, columns: Sequence[Column], values: Values) -> list[int]:
    """The documents that `disagreements` names, so that their names can be read before, all at once."""
    return [int(documents[row]) for row, _ in _most_disagreed(documents, columns, values)]


def disagreements(
    name_of: Callable[[int], str], documents: Documents, columns: Sequence[Column], values: Values
) -> list[Disagreement]:
    """The documents on which connections differ most under one prompt, each with its worst prompt."""
    return [
        Disagreement(
            document=name_of(int(documents[row])),
            document_id=int(documents[row]),
            prompt_id=prompt,
            scores=tuple(
                (connection, float(values[row, place]))
                for place, (connection, of) in enumerate(columns)
                if of == prompt and not np.isnan(values[row, place])
            ),
        )
        for row, prompt in _most_disagreed(documents, columns, values)
    ]


def agreements(standings: Sequence[Standing], columns: Sequence[Column], values: Values) -> list[Agreement]:
    """How alike each pair of connections scores; of many connections, the pairs of the best ones."""
    best = list(dict.fromkeys(s.column[0] for s in standings if s.scores is not None))[:CONNECTIONS_PAIRED]
    scores = {column: values[:, place] for place, column in enumerate(columns)}
    found = (_agreement(first, second, scores) for first, second in combinations(sorted(best), 2))
    return [agreement for agreement in found if agreement is not None]


def _key(figures: ColumnFigures) -> Column:
    return figures.column.connection_id, figures.column.prompt_id


def _rank(mean: Estimate | None) -> tuple[bool, float]:
    return mean is None, 0.0 if mean is None else -round(mean.mean, _DECIMALS)


def _behind(leader: Values, others: dict[Column, Values | None]) -> dict[Column, Difference]:
    """The differences to the leader over shared documents, corrected for all of them."""
    found: dict[Column, Difference] = {}
    for column, scores in others.items():
        if scores is not None:
            both = ~(np.isnan(leader) | np.isnan(scores))
            apart = difference(leader[both], scores[both], len(others) < COLUMNS_RESAMPLED)
            if apart is not None:
                found[column] = apart
    return dict(zip(found, corrected(list(found.values())), strict=True))


def _told_apart(behind: Difference | None) -> bool:
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
    """Rows of the table and the prompt of each; of equal ones, the first documents and prompts."""
    prompts = sorted({prompt for _, prompt in columns})
    if not prompts or not documents.size:
        return []
    spreads = np.column_stack(
        [_spread(values[:, [place for place, (_, of) in enumerate(columns) if of == p]]) for p in prompts]
    )
    worst, size = spreads.argmax(axis=1), spreads.max(axis=1)
    order = np.lexsort((documents, -size))[:DISAGREEMENTS_SHOWN]
    return [(int(row), prompts[worst[row]]) for row in order if size[row] > 0]


def _spread(values: Values) -> Values:
    """The distance of the lowest and the highest score in each row; 0 where there are not two."""
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
