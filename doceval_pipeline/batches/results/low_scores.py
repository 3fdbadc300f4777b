"""Reads how many documents of batches score below the thresholds of their prompts. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.criteria import read_thresholds, selected_prompts
from doceval_pipeline.doc_eval.labels import read_labels
from doceval_pipeline.domain.columns import Labels
from doceval_pipeline.knowledge.below_threshold import LowScores, count_below


@dataclass(frozen=True)
class NamedLowScores:
    """How many documents score below the threshold of a prompt, with names."""

    counts: LowScores
    labels: Labels

    @property
    def sentence(self) -> str:
        """How many documents fall below the threshold: "12 documents fall below 60 for clarity"."""
        counts = self.counts
        documents = "1 document falls" if counts.documents == 1 else f"{counts.documents:,} documents fall"
        simulated = "" if not counts.simulated else " (simulated)"
        if 0 < counts.simulated < counts.scored:
            simulated = " (partly simulated)"
        return (
            f"{documents} below {counts.threshold:g} for {self.labels.prompt(counts.prompt_id)}, of "
            f"{counts.scored:,} with a score{simulated}"
        )

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval status --json` prints; its names are a public interface."""
        return {
            "prompt": self.labels.prompt(self.counts.prompt_id),
            "threshold": self.counts.threshold,
            "documents": self.counts.documents,
            "scored": self.counts.scored,
            "simulated": self.counts.simulated,
            "by_connection": [
                {"connection": self.labels.connection(connection_id), "documents": documents}
                for connection_id, documents in self.counts.by_connection
            ],
        }


def low_scores(databases: Databases, batch_ids: Sequence[int]) -> dict[int, tuple[NamedLowScores, ...]]:
    """The counts of each given batch and each of its prompts with a threshold and a score.

    A document counts if at least one model scores it below the threshold. The newest thresholds count.
    """
    with databases.doc_eval.connect() as connection:
        thresholds = read_thresholds(connection, selected_prompts(connection, batch_ids))
    if not thresholds:
        return dict.fromkeys(batch_ids, ())
    with databases.knowledge.connect() as connection:
        by_batch = count_below(connection, batch_ids, thresholds)
    counts = [count for of_batch in by_batch.values() for count in of_batch]
    with databases.doc_eval.connect() as connection:
        labels = read_labels(
            connection,
            {connection_id for count in counts for connection_id, _ in count.by_connection},
            {count.prompt_id for count in counts},
        )
    return {
        batch_id: tuple(NamedLowScores(count, labels) for count in of_batch)
        for batch_id, of_batch in by_batch.items()
    }
