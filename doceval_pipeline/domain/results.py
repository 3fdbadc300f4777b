"""Results of evaluations as a report shows them: summaries, failures, changes and single results.

Scores run from 0 to 100 and belong to succeeded evaluations only. Texts are kept as the processor wrote them.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from doceval_pipeline.domain.evaluations import CellCounts

# The known processor cuts the base64 of larger documents, in bytes, and their evaluations fail.
KNOWN_PROCESSOR_LIMIT_BYTES = 1_048_575
_BASE64_ERROR = re.compile(r"base.?64|incorrect padding|multiple of 4", re.IGNORECASE)


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
    the first of them; `too_large` of them exceed the size limit of the known processor. `connection_ids` and
    `prompt_ids` are those of the evaluations.
    """

    message: str | None
    message_characters: int
    cells: int
    simulated: int
    documents: int
    document_ids: tuple[int, ...]
    too_large: int
    variants: int = 1
    connection_ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = ()

    @property
    def is_cut_base64(self) -> bool:
        """Whether the size limit of the known processor explains these failures."""
        return bool(self.too_large and self.message and _BASE64_ERROR.search(self.message))


@dataclass(frozen=True, slots=True)
class Failures:
    """The failed evaluations of a batch in groups of messages, the most frequent first.

    `kinds` is the number of all groups, of which `groups` holds the first. `ungrouped` of the `cells` failed
    evaluations are in none, because a batch with very many different messages is grouped in part.
    """

    groups: tuple[FailureGroup, ...] = ()
    kinds: int = 0
    cells: int = 0
    simulated: int = 0
    ungrouped: int = 0


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


class CellDetails(NamedTuple):
    """The texts and figures of a result; texts may be cut, and the lengths are those of the whole texts.

    A tuple, because a page has thousands.
    """

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
