"""The data model of a report, version 1: what it is made from, and the figures it says.

Plain data without behaviour beyond sums. Names, messages and texts are kept as they came; whoever
shows them makes them inert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

# The words that `ReportCell.outcome` knows; any other word counts as unknown.
OUTCOMES = ("succeeded", "failed", "waiting", "running", "paused", "unknown")


@dataclass(frozen=True, slots=True)
class ReportDocument:
    """A file of the batch; `size` in bytes. Duplicates share the `document_id` of their twin."""

    name: str
    folder: str
    state: str
    reason: str | None
    size: int | None
    sha256: str | None
    content_type: str | None
    document_id: int | None


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A column of the matrix: a connection and a prompt."""

    connection_id: int
    connection: str
    prompt_id: int
    prompt: str


@dataclass(frozen=True, slots=True)
class ReportCell:
    """The result of one document in one column.

    `outcome` is one of `OUTCOMES` and `status` the word it was read from. `response_text` may already
    be cut; then `response_characters` is the length of the whole, in characters.
    """

    document_id: int
    connection_id: int
    prompt_id: int
    attempt: int
    outcome: str
    status: str
    score: float | None
    error: str | None
    response_text: str | None
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    simulated: bool
    response_characters: int | None = None


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report is made from; `version` 1 is this shape. Times are in UTC."""

    version: int
    partition_key: str
    batch_id: int
    name: str
    status: str
    description: str | None
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    expected_cells: int
    documents: Sequence[ReportDocument]
    columns: Sequence[ReportColumn]
    cells: Sequence[ReportCell]
    config: dict[str, Any]
    config_sha256: str
    digest: str
    versions: dict[str, str]
    # For each cell that was reprocessed, the result before the current one.
    superseded: Sequence[ReportCell] = ()


@dataclass(frozen=True, slots=True)
class CellChange:
    """What reprocessing made of a cell; the scores are those of succeeded attempts."""

    document: str
    connection: str
    prompt: str
    attempt: int
    outcome_before: str
    score_before: float | None
    outcome: str
    score: float | None


class VerdictWord(StrEnum):
    """What became of a batch, in a word."""

    COMPLETE = "Complete"
    COMPLETE_WITH_FAILURES = "Complete with failures"
    FAILED = "Failed"
    INCOMPLETE = "Incomplete"
    EMPTY = "Nothing evaluated"


@dataclass(frozen=True, slots=True)
class CellCounts:
    """Cells by outcome; `missing` are expected and have no row, `surplus` rows were not expected."""

    expected: int
    succeeded: int
    failed: int
    waiting: int
    running: int
    paused: int
    unknown: int

    @property
    def rows(self) -> int:
        """Cells that have a row."""
        return self.succeeded + self.failed + self.waiting + self.running + self.paused + self.unknown

    @property
    def missing(self) -> int:
        """Expected cells without a row."""
        return max(0, self.expected - self.rows)

    @property
    def surplus(self) -> int:
        """Rows beyond the expected number."""
        return max(0, self.rows - self.expected)

    @property
    def total(self) -> int:
        """Expected cells, or the rows where there are more of them."""
        return max(self.expected, self.rows)

    @property
    def open(self) -> int:
        """Cells that neither succeeded nor failed."""
        return self.total - self.succeeded - self.failed


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """Statistics over the `n` succeeded cells that have a score, 0 included.

    `histogram` counts them in ten equal bins from 0 to 100; what lies outside is in the outer bins.
    """

    n: int
    mean: float
    median: float
    minimum: float
    maximum: float
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Total:
    """A sum, and how many cells report the value at all."""

    value: float
    cells: int


@dataclass(frozen=True, slots=True)
class ColumnFigures:
    """The figures of one column; `scores` and totals are None where no cell reports any."""

    column: ReportColumn
    cells: CellCounts
    scores: ScoreFigures | None
    input_tokens: Total | None
    output_tokens: Total | None
    seconds: Total | None
    simulated: int


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed cells with the same message (None: they have none), and the documents concerned.

    `cut_base64` counts the documents that the known processor's limit explains.
    """

    message: str | None
    cells: int
    simulated: int
    documents: tuple[str, ...]
    cut_base64: int


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files with the same state that were not evaluated for the same reason."""

    state: str
    reason: str | None
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """What a report says in numbers; see `figures`.

    `documents` are the staged files, `contents` the distinct ones among them, `duplicates` the
    difference. Seconds are those that the processor reports, added up over cells.
    """

    version: int
    partition_key: str
    batch_id: int
    name: str
    status: str
    verdict_word: VerdictWord
    verdict_detail: str
    cells: CellCounts
    scores: ScoreFigures | None
    columns: tuple[ColumnFigures, ...]
    input_tokens: Total | None
    output_tokens: Total | None
    seconds: Total | None
    documents: int
    contents: int
    duplicates: int
    files_assigned: int
    files_skipped: int
    files_rejected: int
    simulated: int
    failures: tuple[FailureGroup, ...]
    not_evaluated: tuple[FileGroup, ...]
    changes: tuple[CellChange, ...]

    @property
    def verdict(self) -> str:
        """The whole sentence, in one line; it says so when results are simulated."""
        tag = ""
        if self.simulated:
            part = f" in {self.simulated:,} of {self.cells.rows:,} cells"
            tag = f" [SIMULATED{'' if self.simulated == self.cells.rows else part}]"
        return f"{self.verdict_word}: {self.verdict_detail}{tag}"
