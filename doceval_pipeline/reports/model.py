"""The data model of a report, version 4: its input, and the figures on the page.

Plain data. Names, messages and texts are kept as they were written; rendering makes them inert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.files import EvaluatedFile, FileGroup, FileLabels
from doceval_pipeline.domain.insights import Insights
from doceval_pipeline.domain.results import FailureGroup, ReportCell, ResultChange, ResultSums

NOTHING_ASKED = "no model was called in this batch"
"""Replaces tokens, cost and time of a batch whose results are all reused."""


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A column of the matrix: a connection and a prompt."""

    connection_id: int
    connection: str
    prompt_id: int
    prompt: str


@dataclass(frozen=True, slots=True)
class ReportInput:
    """The input of a report; `version` 4 is this shape. Times are in UTC.

    Its size depends on the page, not on the batch: the databases count, and it holds only the rows,
    failures, files and changes that the page shows.
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
    # The number of files by state, and of distinct documents among the staged files.
    files: Mapping[str, int]
    contents: int
    # Labels of the files and documents that the page names.
    labels: FileLabels
    not_evaluated: Sequence[FileGroup]
    columns: Sequence[ReportColumn]
    # Of the current results: all together, and by connection and prompt.
    total: ResultSums
    column_sums: Mapping[Column, ResultSums]
    # The number of kinds of failures, and the most frequent ones.
    failure_messages: int
    failures: Sequence[FailureGroup]
    # The first of the reprocessed evaluations.
    changes: Sequence[ResultChange]
    # The number of rows of the matrix, the rows shown, and their cells.
    rows_total: int
    rows: Sequence[EvaluatedFile]
    cells: Sequence[ReportCell]
    config: dict[str, Any]
    config_sha256: str
    digest: str
    versions: dict[str, str]
    insights: Insights


class VerdictWord(StrEnum):
    """The outcome of a batch, in one phrase."""

    COMPLETE = "Complete"
    COMPLETE_WITH_FAILURES = "Complete with failures"
    FAILED = "Failed"
    INCOMPLETE = "Incomplete"
    EMPTY = "Nothing evaluated"


@dataclass(frozen=True, slots=True)
class ColumnFigures:
    """The figures of one column: counts beside the expected number, and sums."""

    column: ReportColumn
    cells: CellCounts
    sums: ResultSums


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """The figures of a report; see `figures`.

    `documents` is the number of staged files, `contents` that of distinct documents among them, and
    `duplicates` the difference. Seconds are the processor's, summed over evaluations. `insights` are those
    of the input.
    """

    version: int
    partition_key: str
    batch_id: int
    name: str
    status: str
    verdict_word: VerdictWord
    verdict_detail: str
    cells: CellCounts
    sums: ResultSums
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
        """Evaluations whose result is not reused."""
        return self.cells.total - self.sums.reused

    @property
    def is_all_reused(self) -> bool:
        """Whether there are results and all of them are reused."""
        return self.sums.reused > 0 and self.asked == 0

    @property
    def verdict(self) -> str:
        """The verdict in one line, marked where results are simulated."""
        tag = simulated_tag(self.sums.simulated, self.cells.rows)
        return f"{self.verdict_word}: {self.verdict_detail}{tag}"


def reused_tag(reused: int, rows: int) -> str:
    """The part of a verdict about reused results; empty without any."""
    if not reused:
        return ""
    return ", reused from other batches" if reused == rows else f", {reused:,} of them reused"


def simulated_tag(simulated: int, rows: int) -> str:
    """The mark after a verdict with simulated results; empty without any."""
    if not simulated:
        return ""
    part = f" in {simulated:,} of {rows:,} evaluations"
    return f" [SIMULATED{'' if simulated == rows else part}]"
