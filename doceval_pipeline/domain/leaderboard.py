"""The boards of the leaderboard over all completed batches: one per prompt and kind of result."""

from collections.abc import Sequence
from dataclasses import dataclass

from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.usage import Cost, TokenUsage


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over the documents that a row and the leader of its board both scored.

    A document counts with the mean of its scores in each row; the difference is the row's minus the leader's.
    """

    documents: int
    clusters: int
    """Documents of which none is a version or a copy of another."""
    mean: float
    spread: float
    """Sum of squares, as that of a `LeaderboardRow`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardRow:
    """The current results of a connection under a prompt, summed over batches: all real or all simulated.

    A figure is None if no result reports it. Scores are from 0 to 100.
    """

    is_simulated: bool = False
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
    failed_documents: int
    """Documents with a failed evaluation."""
    scored: int
    """Successful evaluations with a score, of `scored_documents` documents."""
    scored_documents: int
    scored_clusters: int
    """As the `clusters` of `PairSums`."""
    mean: float | None
    spread: float | None
    """Sum of squares from which `statistics.inference.estimate_of_sums` computes an interval."""
    scores: Estimate | None = None
    """The mean with its interval, computed from the fields before."""
    is_leader: bool = False
    """Has the highest mean of its board; one row of equal ones."""
    pairs: PairSums | None = None
    """None for the leader, and without documents that both scored."""
    against: int | None = None
    """The connection that `difference` compares with: the second one for the leader, else the leader."""
    difference: Difference | None = None
    """How much higher this row scores than `against`, over the documents that both scored."""
    input_tokens: int | None
    output_tokens: int | None
    usage: Sequence[tuple[int, TokenUsage]] = ()
    """Batch, and the tokens of its evaluations that are not reused: each batch has its own prices."""
    costs: Sequence[Cost] = ()
    """One for each currency in which any is known."""
    median_seconds: float | None
    """Processing time as processors report it."""
    repeated: int = 0
    """Further evaluations whose results are reused and count only once, at their origin."""

    @property
    def simulated(self) -> int:
        """The number of its evaluations that were simulated."""
        return self.cells if self.is_simulated else 0

    @property
    def failed_share(self) -> float:
        """The share of failed evaluations, from 0 to 1."""
        return self.failed / self.cells if self.cells else 0.0

    @property
    def is_tied(self) -> bool:
        """Whether it does not differ significantly from the leader; False for the leader itself."""
        return not self.is_leader and self.difference is not None and not self.difference.told_apart

    @property
    def is_apart(self) -> bool:
        """Whether it has scores, but none for a document that the leader scored."""
        return not self.is_leader and self.scores is not None and self.difference is None


@dataclass(frozen=True, slots=True)
class Board:
    """The rows of one prompt, best first, rows without scores last: all real or all simulated."""

    prompt_id: int
    prompt: str
    is_simulated: bool
    rows: Sequence[LeaderboardRow]

    @property
    def ranked(self) -> Sequence[LeaderboardRow]:
        """The rows with scores."""
        return [row for row in self.rows if row.scores is not None]

    def row_of(self, connection_id: int) -> LeaderboardRow:
        """The row of a connection."""
        return next(row for row in self.rows if row.connection_id == connection_id)
