"""Means of models that did not score the same documents, on equal documents."""

import numpy as np
from numpy.typing import ArrayLike

from doceval_pipeline.statistics.clusters import DECIMALS, Values


def adjusted_means(values: ArrayLike) -> Values:
    """The mean that each model would have on all documents, to order models by.

    Parameters
    ----------
    values
        Scores of documents (rows) by models (columns), NaN where there is none.

    Returns
    -------
    Values
        By model, without bounds; plain means if every model scored every document. NaN for a model without
        scores. Models that share no documents with others, not even through further models, have their plain
        mean: nothing makes them comparable.

    Notes
    -----
    Least squares of the sum of a document's and a model's effect (Yates, The principles of orthogonality and
    confounding in replicated experiments, 1933): a model's mean on documents that were easier for all is
    lowered by as much. The documents are eliminated, which leaves one equation for each model.
    """
    scores = np.asarray(values, dtype=np.float64)
    scored = ~np.isnan(scores)
    shared = scored.T.astype(np.float64) @ scored
    result = np.full(scores.shape[1], np.nan)
    for models in _connected(shared):
        rows = scored[:, models].any(axis=1)
        if rows.any():
            result[models] = _least_squares(scores[rows][:, models])
    return np.round(result, DECIMALS)


def _connected(shared: Values) -> list[list[int]]:
    """Groups of models that are linked by documents in common."""
    left, groups = set(range(len(shared))), []
    while left:
        group, reached = set(), {min(left)}
        while reached:
            group |= reached
            reached = {int(j) for i in reached for j in np.flatnonzero(shared[i])} - group
        groups.append(sorted(group))
        left -= group
    return groups


def _least_squares(scores: Values) -> Values:
    """Adjusted means of models that are linked; each document has a score."""
    scored = ~np.isnan(scores)
    marks = scored.astype(np.float64)
    filled = np.where(scored, scores, 0.0)
    per_document = marks.sum(axis=1)
    means = filled.sum(axis=1) / per_document
    equations = np.diag(marks.sum(axis=0)) - marks.T @ (marks / per_document[:, None])
    sums = (filled - marks * means[:, None]).sum(axis=0)
    # Effects are known up to a constant: the added ones make the equations solvable and the effects sum to 0.
    effects: Values = np.linalg.solve(equations + 1.0, sums)
    documents = means - marks @ effects / per_document
    adjusted: Values = effects + documents.mean()
    return adjusted
