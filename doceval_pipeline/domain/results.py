"""Results of evaluations as a report shows them: summaries, failures, changes and single results.

Scores run from 0 to 100 and belong to succeeded evaluations only. Texts are kept as the processor wrote them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from doceval_pipeline.domain.evaluations import CellCounts


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """Statistics of the `n` scores of succeeded evaluations.

    `histogram` counts them in ten equal bins from 0 to 100; 100 is in the last.
    """

    n: int
    mean: float
    median: float
    minimum: float
    maximum: float
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Total:
    """A sum, and the number of evaluations that report the value."""

    value: float
    cells: int


@dataclass(frozen=True, slots=True)
class ResultSums:
    """Sums over current results; a total is None if no evaluation reports the value.

    `seconds` are those that the processor reports. `reprocessed` evaluations have an earlier attempt. Reused
    results count in `cells` and `scores`, never in tokens and seconds.
    """

    cells: CellCounts
    scores: ScoreSummary | None = None
    input_tokens: Total | None = None
    output_tokens: Total | None = None
    seconds: Total | None = None
    simulated: int = 0
    reprocessed: int = 0

    @property
    def reused(self) -> int:
        """Results that come from another batch."""
        return self.cells.reused


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed evaluations whose messages differ only in numbers, ids and names.

    `message` is the most frequent one of `variants`, None if there is none. It may be cut;
    `message_characters` is its whole length. `documents` is the number of documents and `document_ids` holds
    the first of them; `too_large` of them exceed the size limit of the known processor.
    """

    message: str | None
    message_characters: int
    cells: int
    simulated: int
    documents: int
    document_ids: tuple[int, ...]
    too_large: int
    variants: int = 1


@dataclass(frozen=True, slots=True)
class ResultChange:
    """The outcome and score of a reprocessed evaluation, before and now."""

    document_id: int
    connection_id: int
    prompt_id: int
    attempt: int
    outcome_before: str
    score_before: float | None
    outcome: str
    score: float | None


@dataclass(frozen=True, slots=True)
class CellDetails:
    """The texts and figures of a result; texts may be cut, and the lengths are those of the whole texts."""

    attempt: int
    message: str | None
    message_characters: int
    response: str | None
    response_characters: int
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None


class ReportCell(NamedTuple):
    """The current result of one document in one column. A tuple, because a page has thousands.

    `outcome` is a word of `Outcome` and `status` the word it was read from. `message` is at least the
    beginning of a failure's message. `has_details` says whether there is more to read; `details` holds it for
    a part of them. `reused_batch_id` is the batch that the result was reused from, 0 for another
    installation.
    """

    document_id: int
    connection_id: int
    prompt_id: int
    outcome: str
    status: str
    score: float | None
    message: str | None
    simulated: bool
    has_details: bool
    reused_batch_id: int | None = None
    details: CellDetails | None = None
