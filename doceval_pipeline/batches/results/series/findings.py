"""Findings that the report of an occurrence and the series share: states, and scores that changed.

The report compares an occurrence with the one before; the series compares all of them, in `series`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.batches.results.score_drift import unpaired
from doceval_pipeline.doc_eval import series as recorded
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.recurring import Outcome
from doceval_pipeline.doc_eval.series import FileChange, RecordedOccurrence
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.insights import (
    ChangedDocument,
    ContentChanges,
    PassedOver,
    Samples,
    SinceOccurrence,
)
from doceval_pipeline.domain.scores import Scores
from doceval_pipeline.knowledge.series import scores_of_changes
from doceval_pipeline.reports.series import CHANGES_SHOWN, OCCURRENCES_SHOWN, State

CONTENTS_LOOKED_AT = 200
"""Of so many files whose content changed, the newest, scores are read."""
PASSED_OVER_SHOWN = 5


def since_occurrence(
    doc_eval: Connection,
    knowledge: Connection,
    history: Sequence[RecordedOccurrence],
    previous_id: int,
) -> SinceOccurrence:
    """What a report says of an occurrence beside the one before; the samples are added by the caller.

    Parameters
    ----------
    history
        The occurrence and all before it, newest first.
    previous_id
        The batch that it is compared with, one of them.
    """
    place = next(place for place, one in enumerate(history) if one.batch_id == previous_id)
    between = history[1:place]
    own = history[0].batch_id
    batch_ids = [
        one.batch_id
        for one in reversed(history)
        if one.batch_id is not None and (one.has_results or one.batch_id == own)
    ]
    by_batch = {one.batch_id: one for one in history if one.batch_id is not None}
    return SinceOccurrence(
        due_at=history[0].due_at,
        previous_due_at=history[place].due_at,
        passed_over=tuple(PassedOver(o.due_at, *_as_text(o)) for o in between[:PASSED_OVER_SHOWN]),
        all_passed_over=len(between),
        samples=(),
        changes=find_changes(doc_eval, knowledge, batch_ids, by_batch, own),
    )


def samples_of(before: Scores, now: Scores, column: Column) -> Samples | None:
    """The scores of a column over the documents that only one of two batches has; p is not corrected."""
    shared = np.intersect1d(before.documents, now.documents, assume_unique=True)
    first, second = _of_others(before, shared, column), _of_others(now, shared, column)
    found = unpaired(first, second)
    return None if found is None else Samples(column, first.size, second.size, found, changed=())


def find_changes(
    doc_eval: Connection,
    knowledge: Connection,
    batch_ids: Sequence[int],
    occurrences: Mapping[int, RecordedOccurrence],
    batch_id: int | None = None,
) -> ContentChanges:
    """Documents whose score changed with their content.

    Parameters
    ----------
    batch_ids
        Those of the series with results, oldest first; the newest `OCCURRENCES_SHOWN` are looked at.
    occurrences
        The occurrences of these batches.
    batch_id
        Only what this one found changed.
    """
    newest = batch_ids[-OCCURRENCES_SHOWN:]
    files, contents = recorded.changed_files(doc_eval, newest, CONTENTS_LOOKED_AT, batch_id)
    scores = scores_of_changes(
        knowledge, [(f.batch_before, f.stored_before, f.batch_id, f.stored) for f in files]
    )
    moved = [found for found in scores if found.before != found.after]
    several = len({file.file.folder for file in files}) > 1
    return ContentChanges(
        documents=tuple(
            ChangedDocument(
                due_at=occurrences[files[found.place].batch_id].due_at,
                partition_key=partition_key(files[found.place].batch_id),
                file=_path(files[found.place], several),
                column=(found.connection_id, found.prompt_id),
                before=found.before,
                after=found.after,
                is_other_question=found.is_other_question,
            )
            for found in moved[:CHANGES_SHOWN]
        ),
        total=len(moved),
        same=len(scores) - len(moved),
        contents=contents,
        looked_at=len(files),
    )


def state_of(occurrence: RecordedOccurrence) -> tuple[State, str | None]:
    """What became of an occurrence, and why."""
    if occurrence.outcome is not Outcome.MADE:
        state = State.SKIPPED if occurrence.outcome is Outcome.SKIPPED else State.NOT_MADE
        return state, occurrence.reason
    if occurrence.archived_at is not None:
        return State.ARCHIVED, None
    if occurrence.cancelled_at is not None and occurrence.status is Status.FAILED:
        return State.CANCELLED, None
    if occurrence.status is Status.PAUSED:
        held = occurrence.held_reason
        return (State.PAUSED, None) if held is None else (State.HELD, held)
    if occurrence.status is Status.FAILED:
        return State.FAILED, "no evaluation succeeded"
    if occurrence.status is Status.FAILED_STAGING:
        return State.FAILED, "its staging failed"
    return (State.DONE if occurrence.status is Status.COMPLETED else State.OPEN), None


def _as_text(occurrence: RecordedOccurrence) -> tuple[str, str | None]:
    state, reason = state_of(occurrence)
    return state.value, reason


def _of_others(scores: Scores, shared: NDArray[np.int64], column: Column) -> NDArray[np.float64]:
    place = scores.columns.index(column)
    own: NDArray[np.float64] = scores.values[~np.isin(scores.documents, shared), place]
    found: NDArray[np.float64] = own[~np.isnan(own)]
    return found


def _path(change: FileChange, with_folder: bool) -> str:
    folder = change.file.folder.rstrip("/")
    return f"{folder}/{change.file.path}" if with_folder else change.file.path
