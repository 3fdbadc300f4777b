"""Findings that the report of an occurrence shares with the series: scores that changed with the content.

The report compares an occurrence with the previous one; the series compares all occurrences, see `drift`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.batches.results.score_drift import unpaired
from doceval_pipeline.doc_eval.recurring.series import content_changes
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.insights import ContentChanges, SinceOccurrence, UnsharedScores
from doceval_pipeline.domain.scores import Scores
from doceval_pipeline.domain.series import SeriesOccurrence
from doceval_pipeline.knowledge.series import changed_scores
from doceval_pipeline.reports.series import CHANGES_SHOWN, OCCURRENCES_SHOWN

FILES_EXAMINED = 200
"""At most this many files with new content are examined, the newest."""
PASSED_OVER_SHOWN = 5


def since_occurrence(
    doc_eval: Connection,
    knowledge: Connection,
    history: Sequence[SeriesOccurrence],
    previous_id: int,
) -> SinceOccurrence:
    """Compare an occurrence with an earlier one for its report; the caller adds the samples.

    Parameters
    ----------
    history
        The occurrence and all earlier ones, newest first.
    previous_id
        The batch of the earlier occurrence.
    """
    place = next(place for place, one in enumerate(history) if one.batch_id == previous_id)
    between = history[1:place]
    own = history[0].batch_id
    batch_ids = [
        one.batch_id
        for one in reversed(history)
        if one.batch_id is not None and (one.has_results or one.batch_id == own)
    ]
    return SinceOccurrence(
        due_at=history[0].due_at,
        previous_due_at=history[place].due_at,
        passed_over=tuple(between[:PASSED_OVER_SHOWN]),
        all_passed_over=len(between),
        samples=(),
        changes=find_changes(doc_eval, knowledge, batch_ids, own),
    )


def samples_of(before: Scores, now: Scores, column: Column) -> UnsharedScores | None:
    """The scores of a column over the documents that only one of two batches has; p is not corrected."""
    shared = np.intersect1d(before.documents, now.documents, assume_unique=True)
    first, second = _unshared_scores(before, shared, column), _unshared_scores(now, shared, column)
    difference = unpaired(first, second)
    if difference is None:
        return None
    return UnsharedScores(column, first.size, second.size, difference, changed=())


def find_changes(
    doc_eval: Connection, knowledge: Connection, batch_ids: Sequence[int], batch_id: int | None = None
) -> ContentChanges:
    """Scores that changed together with the content of a file.

    Parameters
    ----------
    batch_ids
        The batches of the series with results, oldest first; the newest `OCCURRENCES_SHOWN` are examined.
    batch_id
        Only changes that this batch found.
    """
    newest = batch_ids[-OCCURRENCES_SHOWN:]
    files, contents = content_changes(doc_eval, newest, FILES_EXAMINED, batch_id)
    scores = changed_scores(knowledge, files)
    changed = [score for score in scores if score.before != score.after]
    return ContentChanges(
        documents=tuple(changed[:CHANGES_SHOWN]),
        total=len(changed),
        same=len(scores) - len(changed),
        contents=contents,
        looked_at=len(files),
    )


def _unshared_scores(scores: Scores, shared: NDArray[np.int64], column: Column) -> NDArray[np.float64]:
    place = scores.columns.index(column)
    own: NDArray[np.float64] = scores.values[~np.isin(scores.documents, shared), place]
    scored: NDArray[np.float64] = own[~np.isnan(own)]
    return scored
