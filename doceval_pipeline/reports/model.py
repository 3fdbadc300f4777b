"""The data model of a report, version 4: what it is made from, and the figures it says.

Plain data without behaviour beyond sums. Names, messages and texts are kept as they came; whoever
shows them makes them inert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from doceval_pipeline.domain.insights import Insights

NOTHING_ASKED = "no model was called in this batch"
"""Beside figures of a batch whose results are all reused."""
# The words that `ReportCell.outcome` knows; any other word counts as unknown.
OUTCOMES = ("succeeded", "failed", "waiting", "running", "paused", "unknown")


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A column of the matrix: a connection and a prompt."""

    connection_id: int
    connection: str
    prompt_id: int
    prompt: str


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A row of the matrix: a file, or a content of which only results are known (then `state` is None).

    `size` in bytes. `twin` is the name of the first file with the same content, where that is another one.
    """

    name: str
    document_id: int | None
    state: str | None = None
    size: int | None = None
    twin: str | None = None


@dataclass(frozen=True, slots=True)
class CellDetails:
    """What a cell says when it is selected; texts may be cut, and then their whole lengths stand beside."""

    attempt: int
    message: str | None
    message_characters: int
    response: str | None
    response_characters: int
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None


class ReportCell(NamedTuple):
    """The current result of one document in one column.

    `outcome` is one of `OUTCOMES` and `status` the word it was read from. `message` is at least the
    beginning of what a failed cell says. `reused_batch` is the partition key of the batch that its
    result was reused from. A tuple, because there are thousands.
    """

    details: CellDetails | None
    document_id: int
    connection_id: int
    prompt_id: int
    outcome: str
    status: str
    score: float | None
    message: str | None
    simulated: bool
    reused_batch: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """Statistics over the `n` succeeded cells that have a score, 0 included.

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
    """A sum, and how many cells report the value at all."""

    value: float
    cells: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What cells add up to: cells by outcome, scores, and totals, each None where no cell reports any.

    Seconds are those that the processor reports; `reprocessed` cells have an earlier attempt. `reused`
    results come from other batches: they are in outcomes and scores, and never in tokens and seconds.
    """

    outcomes: Mapping[str, int]
    scores: ScoreFigures | None
    input_tokens: Total | None
    output_tokens: Total | None
    seconds: Total | None
    simulated: int
    reprocessed: int
    reused: int = 0


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed cells whose messages are alike but for numbers, ids and names.

    `message` is the most frequent one of `variants` different ones, None where they have none. It may be
    cut, and then `message_characters` is the length of the whole. `documents` are counted, and `names`
    are some of them; `too_large` are those that the known processor cuts.
    """

    message: str | None
    message_characters: int
    cells: int
    simulated: int
    documents: int
    names: tuple[str, ...]
    too_large: int
    variants: int = 1


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files with the same state that were not evaluated for the same reason, and the names of some."""

    state: str
    reason: str | None
    files: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CellChange:
    """What reprocessing made of a cell; the scores are those of succeeded attempts."""

    document: str
    connection_id: int
    prompt_id: int
    attempt: int
    outcome_before: str
    score_before: float | None
    outcome: str
    score: float | None


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report is made from; `version` 4 is this shape. Times are in UTC.

    It is as large as the page and no larger, however large the batch: what is counted was counted by
    the databases, and of rows, failures, files and changes those are here that are shown.
    """

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
    # Files by state, distinct contents of the staged ones, and the folders of all.
    files: Mapping[str, int]
    contents: int
    folders: Sequence[str]
    not_evaluated: Sequence[FileGroup]
    columns: Sequence[ReportColumn]
    # Of the current results: all together, and by connection and prompt.
    total: Sums
    column_sums: Mapping[tuple[int, int], Sums]
    # How many kinds of messages there are, and the most frequent ones.
    failure_messages: int
    failures: Sequence[FailureGroup]
    # Some of the cells that were reprocessed.
    changes: Sequence[CellChange]
    # How many rows the matrix has, the rows that are shown, and their cells.
    rows_total: int
    rows: Sequence[ReportRow]
    cells: Sequence[ReportCell]
    config: dict[str, Any]
    config_sha256: str
    digest: str
    versions: dict[str, str]
    insights: Insights


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
class ColumnFigures:
    """The figures of one column: what its cells add up to, beside what was expected."""

    column: ReportColumn
    cells: CellCounts
    sums: Sums


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """What a report says in numbers; see `figures`.

    `documents` are the staged files, `contents` the distinct ones among them, `duplicates` the
    difference. Seconds are those that the processor reports, added up over cells. `insights` are those of
    the input.
    """

    version: int
    partition_key: str
    batch_id: int
    name: str
    status: str
    verdict_word: VerdictWord
    verdict_detail: str
    cells: CellCounts
    sums: Sums
    columns: tuple[ColumnFigures, ...]
    documents: int
    contents: int
    duplicates: int
    files_assigned: int
    files_skipped: int
    files_rejected: int
    insights: Insights

    @property
    def asked(self) -> int:
        """Cells whose result is not reused."""
        return self.cells.total - self.sums.reused

    @property
    def is_all_reused(self) -> bool:
        """Whether all results are reused, and there are any."""
        return self.sums.reused > 0 and self.asked == 0

    @property
    def verdict(self) -> str:
        """The whole sentence, in one line; it says so when results are simulated."""
        tag = simulated_tag(self.sums.simulated, self.cells.rows)
        return f"{self.verdict_word}: {self.verdict_detail}{tag}"


def reused_tag(reused: int, rows: int) -> str:
    """What a verdict says of reused results; nothing where none is."""
    if not reused:
        return ""
    return ", reused from other batches" if reused == rows else f", {reused:,} of them reused"


def simulated_tag(simulated: int, rows: int) -> str:
    """What is said after a verdict where results are simulated, and nothing where none is."""
    if not simulated:
        return ""
    part = f" in {simulated:,} of {rows:,} cells"
    return f" [SIMULATED{'' if simulated == rows else part}]"
