"""Checks the results of a batch: whether scores drifted from the baseline, and whether results have defects.

A failed check is a warning: the report stays valid, and a person decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.labels import read_labels
from doceval_pipeline.domain.columns import Column, Labels
from doceval_pipeline.domain.findings import SIGNIFICANT
from doceval_pipeline.domain.quality import ColumnQuality
from doceval_pipeline.knowledge.quality import read_quality
from doceval_pipeline.reports.formatting import counted

# With a million evaluations a tenth of a point is significant, but irrelevant.
SMALLEST_DRIFT = 1.0


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How the scores of a column differ from those of the baseline."""

    connection: str
    prompt: str
    before: int
    """Number of scores of the baseline; `now` is that of the batch."""
    now: int
    pairs: int
    """Documents compared in pairs; 0 if too few are shared, and all scores of one batch are compared with
    all of the other."""
    change: float | None
    """Difference of the means, in points; None if one of the two batches has no score."""
    p: float | None
    """Corrected for all columns; None if there are too few scores to test."""
    same_results: int = 0
    """Results that are in both batches by reuse; no other field counts them."""

    @property
    def has_drifted(self) -> bool:
        """Whether the change is significant and large enough to matter."""
        if self.p is None or self.change is None:
            return False
        return self.p < SIGNIFICANT and abs(self.change) >= SMALLEST_DRIFT


@dataclass(frozen=True, slots=True)
class ScoreDrift:
    """The drift of all columns from the baseline."""

    baseline: str | None
    """Partition key of the baseline; None if there is none."""
    shared_documents: int
    columns: Sequence[ColumnDrift]

    @property
    def drifted(self) -> list[ColumnDrift]:
        """The columns whose scores drifted."""
        return [column for column in self.columns if column.has_drifted]

    @property
    def same_results(self) -> int:
        """Results that are in both batches by reuse, and cannot show a change."""
        return sum(column.same_results for column in self.columns)

    @property
    def sentence(self) -> str:
        """The result in one line, without names."""
        if self.baseline is None:
            return (
                "no baseline: no earlier batch with the same connections and prompts has completed, or the "
                "previous occurrence has other connections or prompts"
            )
        tested = sum(column.p is not None for column in self.columns)
        sentence = f"{len(self.drifted)} of {tested} columns scored differently than in {self.baseline}"
        if tested < len(self.columns):
            sentence += f"; {len(self.columns) - tested} more have too few scores to compare"
        if self.same_results:
            results = counted(self.same_results, "result is", "results are")
            sentence += f"; {results} in both by reuse and not compared"
        return sentence

    def numbers(self) -> dict[str, int | float]:
        """The result as numbers with stable names; the largest change is the one furthest from 0."""
        changes = [column.change for column in self.columns if column.change is not None]
        numbers: dict[str, int | float] = {
            "columns": len(self.columns),
            "columns_compared": sum(column.p is not None for column in self.columns),
            "columns_drifted": len(self.drifted),
            "shared_documents": self.shared_documents,
            "results_reused": self.same_results,
        }
        return numbers | ({"largest_change": max(changes, key=abs)} if changes else {})


@dataclass(frozen=True, slots=True)
class ResultQuality:
    """The defects that `results_are_sound` found, with the names of its columns."""

    columns: Sequence[ColumnQuality]
    labels: Labels

    @property
    def is_sound(self) -> bool:
        """Whether no column has a defect."""
        return all(column.is_sound for column in self.columns)

    @property
    def sentence(self) -> str:
        """The defects in one line, without names."""
        numbers = self.numbers()
        defects = [
            f"{numbers[name]:,} {words}"
            for name, words in (
                ("cells_empty", "empty responses"),
                ("cells_not_json", "response_json values that are not valid JSON"),
                ("cells_without_score", "successful evaluations without a score"),
                ("cells_out_of_range", "scores out of range"),
                ("impossible_numbers", "impossible numbers dropped, such as negative tokens"),
                ("columns_stuck", "columns with the same response for every document"),
            )
            if numbers[name]
        ]
        return ", ".join(defects) or f"no defects in {numbers['cells_succeeded']:,} successful evaluations"

    def numbers(self) -> dict[str, int]:
        """Sums over all columns, with stable names."""
        return {
            "cells_succeeded": sum(column.succeeded for column in self.columns),
            "cells_empty": sum(column.empty for column in self.columns),
            "cells_not_json": sum(column.not_json for column in self.columns),
            "cells_without_score": sum(column.without_score for column in self.columns),
            "cells_out_of_range": sum(column.out_of_range for column in self.columns),
            "impossible_numbers": sum(column.impossible_numbers for column in self.columns),
            "columns_stuck": sum(column.stuck for column in self.columns),
        }


def judge_quality(databases: Databases, batch_id: int) -> ResultQuality:
    """The defects of a batch's results.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError if the batch is archived.
    """
    require_rows(databases, batch_id)
    with databases.knowledge.connect() as connection:
        columns = read_quality(connection, batch_id)
    return ResultQuality(
        columns, read_labels_of(databases, [(c.connection_id, c.prompt_id) for c in columns])
    )


def require_rows(databases: Databases, batch_id: int) -> None:
    """Raise BatchStateError if the batch is archived and has no rows to check."""
    with databases.doc_eval.connect() as connection:
        batch_by_id(connection, batch_id).require_rows()


def read_labels_of(databases: Databases, columns: Sequence[Column]) -> Labels:
    """The names of the connections and prompts of columns."""
    with databases.doc_eval.connect() as connection:
        return read_labels(connection, {column[0] for column in columns}, {column[1] for column in columns})
