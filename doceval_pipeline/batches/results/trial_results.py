"""What each model of a small batch scored and used under each prompt, counted from the databases."""

from dataclasses import dataclass
from typing import Any

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.results.costs import column_usage
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.doc_eval.history import prices_of_batch
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.results import Total
from doceval_pipeline.domain.usage import ColumnUsage


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """The current results of a connection under a prompt.

    `mean` is None without a score; what is unknown in `usage` is None. `simulated` results call no model.
    """

    connection: str
    prompt: str
    cells: CellCounts
    scored: int
    mean: float | None
    usage: ColumnUsage
    simulated: int

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval try --json` prints under `results`."""
        usage = self.usage
        return {
            "connection": self.connection,
            "prompt": self.prompt,
            "evaluations": self.cells.rows,
            "succeeded": self.cells.succeeded,
            "failed": self.cells.failed,
            "open": self.cells.rows - self.cells.done,
            "reused": self.cells.reused,
            "simulated": self.simulated,
            "scored": self.scored,
            "mean_score": None if self.mean is None else round(self.mean, 6),
            "seconds_p50": None if usage.seconds is None else usage.seconds.p50,
            "input_tokens": mean_of(usage.input_tokens),
            "output_tokens": mean_of(usage.output_tokens),
            "cost_per_document": None if usage.cost is None else round(usage.cost.per_document, 9),
            "currency": None if usage.cost is None else usage.cost.currency,
        }


def read_trial_results(databases: Databases, batch_id: int) -> list[ColumnResult]:
    """The current results of a batch by prompt and connection, in the order of its configuration.

    Empty before its configuration is sealed.

    Raises
    ------
    UnknownBatch, BatchStateError, DatabaseError
        BatchStateError if the batch is archived.
    """
    # numpy loads slowly.
    from doceval_pipeline.knowledge.scores import read_current_results

    with (
        database_errors(),
        databases.doc_eval.connect() as doc_eval,
        databases.knowledge.connect() as knowledge,
    ):
        batch_by_id(doc_eval, batch_id).require_rows()
        sealed = read_snapshot(doc_eval, batch_id)
        read = read_current_results(knowledge, batch_id)
        usage = column_usage(read.tokens, read.times, prices_of_batch(doc_eval, batch_id))
    if sealed is None:
        return []
    results = []
    for prompt in sealed.config["prompts"]:
        for connection in sealed.config["connections"]:
            column = connection["id"], prompt["id"]
            own = read.columns.get(column)
            scores = None if own is None else own.scores
            results.append(
                ColumnResult(
                    connection=connection["name"],
                    prompt=prompt["name"],
                    cells=CellCounts() if own is None else own.cells,
                    scored=0 if scores is None else scores.n,
                    mean=None if scores is None else scores.mean,
                    usage=usage.get(column, ColumnUsage()),
                    simulated=0 if own is None else own.simulated,
                )
            )
    return results


def mean_of(total: Total | None) -> float | None:
    """A total per evaluation that reports it; None if none does."""
    return None if total is None or not total.cells else total.value / total.cells
