"""The results of completed batches, as a message about them states them."""

from dataclasses import dataclass

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.usage import TokenUsage


@dataclass(frozen=True, slots=True)
class CompletedResults:
    """The current results of a batch: their digest, counts, and the mean of the `scored` ones.

    `reused` results come from other batches; they also count in their outcome.
    """

    batch_id: int
    digest: str
    succeeded: int
    failed: int
    simulated: int
    reused: int
    scored: int
    mean_score: float | None


@dataclass(frozen=True, slots=True)
class CompletedColumn:
    """The current results of a batch in one column, counted as in `CompletedResults`."""

    batch_id: int
    column: Column
    succeeded: int
    failed: int
    simulated: int
    reused: int
    scored: int
    mean_score: float | None
    below_threshold: int | None
    """Documents with a score below the threshold of the prompt; None without a threshold."""
    usage: tuple[TokenUsage, ...]
    """Tokens of the finished evaluations that are not reused."""
