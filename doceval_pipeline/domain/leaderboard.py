"""The rows of the leaderboard."""

from dataclasses import dataclass

from doceval_pipeline.domain.findings import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardRow:
    """The current results of a connection and a prompt, summed over batches.

    A figure is None if no result reports it. Scores are from 0 to 100.
    """

    connection_id: int
    prompt_id: int
    connection: str = ""
    """Its name, like that of the `prompt`: other databases add both."""
    prompt: str = ""
    batches: int
    """Batches whose results count here."""
    documents: int
    cells: int
    succeeded: int
    failed: int
    simulated: int
    scored: int
    """Successful evaluations with a score, of `scored_documents` documents."""
    scored_documents: int
    mean: float | None
    spread: float | None
    """Sum of squares from which `statistics.inference.estimate_of_sums` computes an interval."""
    scores: Estimate | None = None
    """The mean with its interval, computed from the four fields before."""
    input_tokens: int | None
    output_tokens: int | None
    median_seconds: float | None
    """Processing time as processors report it."""
    repeated: int = 0
    """Further evaluations whose results are reused and count only once, at their origin."""

    @property
    def failed_share(self) -> float:
        """The share of failed evaluations, from 0 to 1."""
        return self.failed / self.cells if self.cells else 0.0
