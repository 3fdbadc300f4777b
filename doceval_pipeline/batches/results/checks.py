"""Judges the results of a batch: whether they moved since the last batch of its kind, and are sound.

A judgement warns and stops nothing: the report stands, and a person decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.labels import Names, read_names
from doceval_pipeline.domain.findings import SIGNIFICANT
from doceval_pipeline.knowledge.quality import Soundness, count_unsound
from doceval_pipeline.reports.formatting import counted

# Of a million cells a tenth of a point is significant, and means nothing to anybody.
SMALLEST_DRIFT = 1.0


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How the scores of a column differ from those of the previous batch.

    `pairs` documents were compared with themselves; 0 where too few are shared, and all scores of one
    batch were held against all of the other. `change` is the difference of means, and `p` corrected for all
    columns; None where one of the two has no score, or there are too few to test. `same_results` are in both
    batches by reuse, and in no other number.
    """

    connection: str
    prompt: str
    before: int
    now: int
    pairs: int
    change: float | None
    p: float | None
    same_results: int = 0

    @property
    def has_drifted(self) -> bool:
        """Whether the change is no chance, and large enough to matter."""
        if self.p is None or self.change is None:
            return False
        return self.p < SIGNIFICANT and abs(self.change) >= SMALLEST_DRIFT


@dataclass(frozen=True, slots=True)
class Drift:
    """The drift of all columns; `previous` is the partition it is measured from, or None without any."""

    previous: str | None
    shared_documents: int
    columns: Sequence[ColumnDrift]

    @property
    def drifted(self) -> list[ColumnDrift]:
        """The columns that drifted."""
        return [column for column in self.columns if column.has_drifted]

    @property
    def same_results(self) -> int:
        """Results that are in both batches by reuse, and say nothing about a change."""
        return sum(column.same_results for column in self.columns)

    @property
    def sentence(self) -> str:
        """What was found, in a line without names."""
        if self.previous is None:
            return (
                "nothing to compare with: no earlier batch with the same connections and prompts is "
                "completed, or the occurrence before has others"
            )
        tested = sum(column.p is not None for column in self.columns)
        said = f"{len(self.drifted)} of {tested} columns scored differently than in {self.previous}"
        if tested < len(self.columns):
            said += f"; {len(self.columns) - tested} more have too few scores to tell"
        if self.same_results:
            results = counted(self.same_results, "result is", "results are")
            said += f"; {results} the same in both by reuse, and not compared"
        return said

    def numbers(self) -> dict[str, int | float]:
        """Under stable names; the largest change is the one that is furthest from 0."""
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
class Judged:
    """What `results_are_sound` found, with names for its columns."""

    columns: Sequence[Soundness]
    names: Names

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(column.is_sound for column in self.columns)

    @property
    def sentence(self) -> str:
        """What is wrong, in a line without names."""
        numbers = self.numbers()
        said = [
            f"{numbers[name]:,} {words}"
            for name, words in (
                ("cells_empty", "empty responses"),
                ("cells_not_json", "response_json that are no JSON"),
                ("cells_without_score", "succeeded cells without a score"),
                ("cells_out_of_range", "scores out of range"),
                ("impossible_numbers", "impossible numbers dropped, such as negative tokens"),
                ("columns_stuck", "columns with the same response for every document"),
            )
            if numbers[name]
        ]
        return ", ".join(said) or f"{numbers['cells_succeeded']:,} succeeded cells are sound"

    def numbers(self) -> dict[str, int]:
        """Added up over all columns, under stable names."""
        return {
            "cells_succeeded": sum(column.succeeded for column in self.columns),
            "cells_empty": sum(column.empty for column in self.columns),
            "cells_not_json": sum(column.not_json for column in self.columns),
            "cells_without_score": sum(column.without_score for column in self.columns),
            "cells_out_of_range": sum(column.out_of_range for column in self.columns),
            "impossible_numbers": sum(column.impossible_numbers for column in self.columns),
            "columns_stuck": sum(column.stuck for column in self.columns),
        }


def judge_soundness(databases: Databases, batch_id: int) -> Judged:
    """Look for results that cannot be what they claim to be.

    Raises
    ------
    UnknownBatch, BatchStateError
        BatchStateError where the batch is archived.
    """
    require_rows(databases, batch_id)
    with databases.knowledge.connect() as connection:
        columns = count_unsound(connection, batch_id)
    return Judged(columns, names_of(databases, [(c.connection_id, c.prompt_id) for c in columns]))


def require_rows(databases: Databases, batch_id: int) -> None:
    """Refuse a batch that has no rows to judge, because it is archived."""
    with databases.doc_eval.connect() as connection:
        batch_by_id(connection, batch_id).require_rows()


def names_of(databases: Databases, keys: Sequence[tuple[int, int]]) -> Names:
    """The names of columns, given as (connection, prompt)."""
    with databases.doc_eval.connect() as connection:
        return read_names(connection, {key[0] for key in keys}, {key[1] for key in keys})
