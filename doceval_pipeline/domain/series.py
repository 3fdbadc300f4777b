"""The series of a recurring evaluation: its occurrences with their results, and how scores changed.

Scores run from 0 to 100. Times are UTC-aware.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.recurring import FileComparison
from doceval_pipeline.domain.usage import Cost, TokenUsage


class OccurrenceState(StrEnum):
    """The current state of an occurrence, as pages show it."""

    DONE = "done"
    FAILED = "failed"
    """No evaluation of its batch succeeded, or its staging failed."""
    CANCELLED = "cancelled"
    OPEN = "open"
    PAUSED = "paused"
    HELD = "held"
    ARCHIVED = "archived"
    SKIPPED = "skipped"
    NOT_MADE = "not made"


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """Sums over results of a column in a batch that agree in `reused`, `has_input` and `has_output`."""

    batch_id: int
    connection_id: int
    prompt_id: int
    reused: bool
    """Whether the results are those of another batch."""
    has_input: bool
    """Whether the results report input tokens; `has_output` says the same of output tokens."""
    has_output: bool
    cells: int
    succeeded: int
    failed: int
    simulated: int
    scored: int
    scores: float
    """The sum of the scores of `scored` results."""
    seconds: float | None
    """Processing time; None if no result reports it."""
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> TokenUsage | None:
        """The tokens of finished evaluations; None for reused results, which used none."""
        finished = self.succeeded + self.failed
        if self.reused or not finished:
            return None
        return TokenUsage(
            self.connection_id,
            self.prompt_id,
            self.has_input,
            self.has_output,
            finished,
            int(self.input_tokens),
            int(self.output_tokens),
        )


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """Scores of a column in a batch that round to the same whole `points`, without reused results.

    A pair is a score with the latest earlier one of the same question and document in the series.
    """

    batch_id: int
    connection_id: int
    prompt_id: int
    question: int
    """A number for each prompt text with a connection's settings."""
    points: int
    asked: int
    asked_total: float
    """The sum of all `asked` scores."""
    new: int
    """Scores without an earlier one; `new_total` is their sum."""
    new_total: float
    pairs: int
    moved: float
    """The sum of score minus earlier score over all pairs; `moved_squared` sums the squares."""
    moved_squared: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesDrift:
    """How the scores of a column in an occurrence differ from those of earlier occurrences.

    A paired comparison compares each of `now` documents with its own earlier score; any other one compares
    `now` new documents with the `before` documents of earlier occurrences.
    """

    change: float | None
    """Mean difference in points; None without anything to compare with."""
    p: float | None
    """Corrected for all columns and for the whole series."""
    now: int
    before: int
    is_paired: bool
    is_other_question: bool
    """Whether the prompt text or the connection changed since the previous occurrence."""
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """A column in an occurrence."""

    cells: int
    failed: int
    reused: int
    scored: int
    mean: float | None
    """Of the `scored` results, reused ones included; None without any."""
    drift: SeriesDrift | None

    @property
    def not_compared(self) -> str | None:
        """Why its scores are not compared with earlier ones; None if they are."""
        if self.drift is not None and self.drift.p is not None:
            return None
        if not self.scored:
            return "it has no scores"
        if self.drift is not None and self.drift.is_other_question:
            return "the prompt text or the connection changed"
        if self.drift is None and self.reused >= self.scored:
            return "all of its scores are reused"
        return "no earlier scores to compare with"


@dataclass(frozen=True, slots=True)
class SeriesOccurrence:
    """An occurrence with its batch and results; figures are 0 or None without results in the database."""

    due_at: datetime
    state: OccurrenceState
    reason: str | None
    files: FileComparison
    batch_id: int | None = None
    partition_key: str | None = None
    batch: str | None = None
    """The name of its batch."""
    has_results: bool = False
    """Whether its batch is done and its results are in the database."""
    seconds: float | None = None
    """From the start of its batch to its completion."""
    cells: int = 0
    succeeded: int = 0
    failed: int = 0
    reused: int = 0
    simulated: int = 0
    processor_seconds: float | None = None
    """Processing time as processors report it."""
    costs: Sequence[Cost] = ()
    columns: Mapping[Column, ColumnResult] | None = None

    @property
    def has_drifted(self) -> bool:
        """Whether the drift of any column is marked."""
        results = (self.columns or {}).values()
        return any(result.drift is not None and result.drift.is_marked for result in results)


@dataclass(frozen=True, slots=True)
class ContentChange:
    """A file whose content differs from that in the latest earlier occurrence that had the file."""

    due_at: datetime
    """Time of the occurrence that found the new content."""
    batch_id: int
    partition_key: str
    document_id: int
    """`docs.id` of the new content; `document_id_before` is that of the old one."""
    batch_id_before: int
    document_id_before: int
    file: str
    """Its path below its folder, after the folder if the series has changes in several."""


@dataclass(frozen=True, slots=True)
class ChangedScore:
    """The scores of a column for the old and the new content of a file; None without a score."""

    content: ContentChange
    column: Column
    before: float | None
    after: float | None
    is_other_question: bool
    """Whether the prompt text or the connection changed, too."""

    @property
    def change(self) -> float | None:
        """Score after minus score before, in points."""
        return None if self.before is None or self.after is None else self.after - self.before
