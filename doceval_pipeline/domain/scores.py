"""The scores of a batch as a table of documents and columns, and why an evaluation has no score."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column


class ScoreState(IntEnum):
    """Whether an evaluation has a score, and if not, why."""

    SCORED = 0
    WITHOUT_SCORE = 1
    """It succeeded without returning a score."""
    FAILED = 2
    OPEN = 3
    """It has neither succeeded nor failed."""
    ABSENT = 4
    """The evaluation does not exist."""


@dataclass(frozen=True, slots=True)
class ScoreStateCounts:
    """How many evaluations are in each `ScoreState`; those in `same_results` are in no other count."""

    scored: int
    without_score: int
    failed: int
    open: int
    absent: int
    same_results: int = 0
    """Both sides of a comparison have the same reused result, so that there is nothing to compare."""

    @classmethod
    def of(cls, states: NDArray[np.uint8], same_results: int = 0) -> "ScoreStateCounts":
        """Count states, each of them a `ScoreState`."""
        counts = np.bincount(states, minlength=len(ScoreState))
        return cls(
            scored=int(counts[ScoreState.SCORED]),
            without_score=int(counts[ScoreState.WITHOUT_SCORE]),
            failed=int(counts[ScoreState.FAILED]),
            open=int(counts[ScoreState.OPEN]),
            absent=int(counts[ScoreState.ABSENT]),
            same_results=same_results,
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """The current results of a batch: a row per document, a column per connection and prompt.

    Attributes
    ----------
    documents
        `docs.id` of all documents with an evaluation, ascending; one for each row of the tables.
    columns
        Connection and prompt, ascending; one for each column of the tables.
    values
        Scores from 0 to 100; NaN if an evaluation has no score.
    states
        A `ScoreState` for each evaluation.
    origins
        The queue row that produced each result: its own, or the origin of a reused result, negative if that
        row is of another installation; 0 if the evaluation does not exist. Results with the same origin
        are the same result.
    simulated
        How many results of each column are simulated.
    """

    documents: NDArray[np.int64]
    columns: tuple[Column, ...]
    values: NDArray[np.float64]
    states: NDArray[np.uint8]
    origins: NDArray[np.int64]
    simulated: tuple[int, ...]

    def column(self, column: Column) -> NDArray[np.float64]:
        """The score of each document in a column; NaN if there is none."""
        if column not in self.columns:
            return np.full(self.documents.size, np.nan)
        values: NDArray[np.float64] = self.values[:, self.columns.index(column)]
        return values

    def column_origins(self, column: Column) -> NDArray[np.int64]:
        """The origin of each document's result in a column; 0 if there is none."""
        if column not in self.columns:
            return np.zeros(self.documents.size, np.int64)
        origins: NDArray[np.int64] = self.origins[:, self.columns.index(column)]
        return origins

    def column_states(self, column: Column) -> NDArray[np.uint8]:
        """The `ScoreState` of each document in a column."""
        if column not in self.columns:
            return np.full(self.documents.size, ScoreState.ABSENT, np.uint8)
        states: NDArray[np.uint8] = self.states[:, self.columns.index(column)]
        return states

    def urgent_documents(self) -> NDArray[np.int64]:
        """Documents with a failed evaluation, then those with an open one, each group ascending."""
        failed = (self.states == ScoreState.FAILED).any(axis=1)
        is_open = (self.states == ScoreState.OPEN).any(axis=1) & ~failed
        return np.concatenate([self.documents[failed], self.documents[is_open]])


def are_same_results(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where two arrays of origins name the same result, so that there is nothing to compare."""
    same: NDArray[np.bool_] = (first == second) & (first != 0)
    return same
