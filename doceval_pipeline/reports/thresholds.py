"""Finds the documents that fall below the threshold of a prompt, and the scores near it.

The table of scores is that of `standings`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.criteria import Criterion
from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.domain.insights import BelowThreshold, LowDocument, NearScore
from doceval_pipeline.statistics.inference import estimate

DOCUMENTS_SHOWN = 50
NEAR_SHOWN = 20
# Another attempt of most models moves a score by less, in points.
NEAR = 5.0

Documents = NDArray[np.int64]
Values = NDArray[np.float64]
Evaluation = tuple[int, int, int]
"""A document, a connection and a prompt, by their ids."""


def below_thresholds(
    documents: Documents, columns: Sequence[Column], values: Values, criteria: Mapping[int, Criterion]
) -> list[BelowThreshold]:
    """The documents below the threshold of each prompt that has one and a score, still without names."""
    prompts = dict.fromkeys(prompt for _, prompt in columns)
    limits = {prompt: criteria[prompt].threshold for prompt in prompts if prompt in criteria}
    return [
        below
        for prompt, threshold in limits.items()
        if threshold is not None
        if (below := _below(documents, columns, values, prompt, threshold)) is not None
    ]


def named_documents(below: Sequence[BelowThreshold]) -> list[int]:
    """The documents that are listed, so that their names can be read beforehand, all at once."""
    lowest = [document.document_id for part in below for document in part.lowest]
    return [*lowest, *(score.document_id for part in below for score in part.near)]


def near_evaluations(below: Sequence[BelowThreshold]) -> list[Evaluation]:
    """The evaluations whose score is listed as near a threshold."""
    return [(score.document_id, score.connection_id, part.prompt_id) for part in below for score in part.near]


def with_names(
    below: Sequence[BelowThreshold],
    name_of: Callable[[int], str],
    repeated: Mapping[Evaluation, Sequence[float]],
) -> list[BelowThreshold]:
    """The same lists with the names of documents, and with the means of repeated attempts.

    Parameters
    ----------
    repeated
        The scores of all successful attempts of evaluations.
    """
    return [
        replace(
            part,
            lowest=tuple(replace(each, document=name_of(each.document_id)) for each in part.lowest),
            near=tuple(
                replace(each, document=name_of(each.document_id), repeated=_mean(repeated, each, part))
                for each in part.near
            ),
        )
        for part in below
    ]


def _mean(
    repeated: Mapping[Evaluation, Sequence[float]], near: NearScore, part: BelowThreshold
) -> Estimate | None:
    scores = repeated.get((near.document_id, near.connection_id, part.prompt_id), ())
    return estimate(scores) if len(scores) > 1 else None


def _below(
    documents: Documents, columns: Sequence[Column], values: Values, prompt: int, threshold: float
) -> BelowThreshold | None:
    places = [place for place, column in enumerate(columns) if column[1] == prompt]
    connections = [columns[place][0] for place in places]
    scores = values[:, places]
    has_score = ~np.isnan(scores)
    if not has_score.any():
        return None
    # A comparison with NaN is False.
    is_low = scores < threshold
    low = np.flatnonzero(is_low.any(axis=1))
    lowest = np.fmin.reduce(scores[low], axis=1) if low.size else np.empty(0)
    order = low[np.lexsort((documents[low], lowest, -is_low[low].sum(axis=1)))]
    near, all_near = _near(scores, threshold)
    return BelowThreshold(
        prompt_id=prompt,
        threshold=threshold,
        documents=low.size,
        scored=int(has_score.any(axis=1).sum()),
        by_connection=tuple(zip(connections, map(int, is_low.sum(axis=0)), strict=True)),
        lowest=tuple(
            LowDocument("", int(documents[row]), _scores_of(scores[row], connections))
            for row in order[:DOCUMENTS_SHOWN]
        ),
        near=tuple(
            NearScore("", int(documents[row]), connections[place], float(scores[row, place]), None)
            for row, place in near
        ),
        all_near=all_near,
    )


def _scores_of(scores: Values, connections: Sequence[int]) -> tuple[tuple[int, float], ...]:
    return tuple(
        (connection, float(score))
        for connection, score in zip(connections, scores, strict=True)
        if not np.isnan(score)
    )


def _near(scores: Values, threshold: float) -> tuple[list[tuple[int, int]], int]:
    """Rows and places of the first scores near the threshold, the closest first, and the number of all."""
    distance = np.abs(scores - threshold)
    rows, places = np.nonzero(distance <= NEAR)
    order = np.lexsort((places, rows, distance[rows, places]))[:NEAR_SHOWN]
    return [(int(rows[n]), int(places[n])) for n in order], rows.size
