"""Outcomes of evaluations, the status words that mean them, and counts of evaluations by outcome.

An evaluation is one document, prompt and connection; its current result is its latest attempt.
"""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The meaning of a status word."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


WORDS: dict[Outcome, tuple[str, ...]] = {
    Outcome.WAITING: ("QUEUED", "N", "READY_TO_RETRY"),
    Outcome.RUNNING: ("P", "PROCESSING", "R"),
    Outcome.PAUSED: ("PAUSED",),
    Outcome.SUCCEEDED: ("S", "SUCCESS", "COMPLETED"),
    Outcome.FAILED: ("F", "FAILED", "TIMEOUT"),
}
"""The words of `llm_responses.status`, by outcome. Any other word is `UNKNOWN`, which is not finished.

Processors of several generations write these words, so each is normalized on reading.
"""

WRITTEN_WORD = {outcome: words[0] for outcome, words in WORDS.items()}
"""The word that the pipeline itself writes for an outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCounts:
    """Numbers of evaluations by outcome, and how many are expected.

    `reused` results come from another batch; they also count in their outcome. `expected` is 0 if only the
    rows matter.
    """

    expected: int = 0
    waiting: int = 0
    running: int = 0
    paused: int = 0
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    reused: int = 0

    @property
    def rows(self) -> int:
        """Evaluations that have a row."""
        return self.done + self.waiting + self.running + self.paused + self.unknown

    @property
    def done(self) -> int:
        """Evaluations that succeeded or failed."""
        return self.succeeded + self.failed

    @property
    def missing(self) -> int:
        """Expected evaluations without a row."""
        return max(0, self.expected - self.rows)

    @property
    def surplus(self) -> int:
        """Rows beyond the expected number."""
        return max(0, self.rows - self.expected)

    @property
    def total(self) -> int:
        """Expected evaluations, or rows if there are more rows."""
        return max(self.expected, self.rows)

    @property
    def open(self) -> int:
        """Evaluations that neither succeeded nor failed."""
        return self.total - self.done

    @property
    def outcomes(self) -> dict[str, int]:
        """The number of evaluations of each outcome."""
        return {str(outcome): getattr(self, outcome) for outcome in Outcome}

    @property
    def sample(self) -> dict[str, int]:
        """The counts of rows, without `expected`, as samples of progress store them."""
        return {**self.outcomes, "reused": self.reused}
