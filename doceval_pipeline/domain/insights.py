"""What the results of a batch show beyond counts.

Intervals hold with 95 %. Scores run from 0 to 100; a score of 0 is a score. Whatever a figure leaves
out is counted beside it. Texts are unchanged; whoever shows them must sanitize them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Difference, Estimate, MarginTest
from doceval_pipeline.domain.score_changes import ScoreChanges
from doceval_pipeline.domain.series import ChangedScore, SeriesOccurrence
from doceval_pipeline.domain.throughput import Throughput
from doceval_pipeline.domain.usage import NO_USAGE, ColumnUsage, Cost, ProcessingTime


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place in a leaderboard, and why evaluations are missing from its mean."""

    connection_id: int
    scores: Estimate | None
    against: int | None
    """The connection that `difference` compares with: the second one for the leader, else the leader."""
    difference: Difference | None
    """How much higher this model scores than `against`; None without documents that both scored."""
    tied: bool
    """Does not differ significantly from the leader; False for the leader itself."""
    failed: int
    without_score: int
    without_result: int
    simulated: int = 0
    """Evaluations for which no LLM was called."""
    usage: ColumnUsage = NO_USAGE
    margin_test: MarginTest | None = None
    """The test against the leader; None unless the batch has a margin and the model is cheaper or faster."""

    @property
    def finished(self) -> int:
        """Evaluations that succeeded or failed."""
        return (0 if self.scores is None else self.scores.n) + self.failed + self.without_score


@dataclass(frozen=True, slots=True)
class PromptLeaderboard:
    """The models of a batch under one prompt, best first; models without a score last."""

    prompt_id: int | None
    """None for the overall ranking, in which each document has its weighted mean over prompts."""
    standings: Sequence[Standing]
    is_same_documents: bool = True
    """Whether all models with a score scored the same documents."""
    weights: tuple[tuple[int, float], ...] = ()
    """Prompt and weight, of the overall ranking."""

    @property
    def ranked(self) -> Sequence[Standing]:
        """The models with a score."""
        return [standing for standing in self.standings if standing.scores is not None]


@dataclass(frozen=True, slots=True)
class LowDocument:
    """A document with a score below the threshold."""

    document: str
    document_id: int
    scores: tuple[tuple[int, float], ...]
    """Connection and score, all of this document under the prompt."""


@dataclass(frozen=True, slots=True)
class NearScore:
    """A score so close to the threshold that another attempt might cross it."""

    document: str
    document_id: int
    connection_id: int
    score: float
    repeated: Estimate | None
    """The mean of its successful attempts with its interval; None with fewer than two."""


@dataclass(frozen=True, slots=True)
class BelowThreshold:
    """The documents of a batch that fall below the threshold of a prompt."""

    prompt_id: int
    threshold: float
    documents: int
    """Documents that at least one model scores below the threshold."""
    scored: int
    """Documents with at least one score."""
    by_connection: tuple[tuple[int, int], ...]
    """Connection, and how many documents it scores below the threshold."""
    lowest: tuple[LowDocument, ...]
    """The first of `documents`: most models below first, then the lowest score."""
    near: tuple[NearScore, ...]
    """The first of `all_near` scores, the closest first."""
    all_near: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """The scores of a column: extremes, quartiles, and a count for each of twenty equal bins."""

    column: Column
    n: int
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A document that models scored differently under one prompt."""

    document: str
    document_id: int
    prompt_id: int
    scores: tuple[tuple[int, float], ...]
    """Connection and score, all of this document under this prompt."""

    @property
    def spread(self) -> float:
        """The distance between its lowest and highest score, in points."""
        values = [score for _, score in self.scores]
        return max(values) - min(values)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How closely two connections agree on the `n` documents that both scored under the same prompts."""

    first: int
    second: int
    n: int
    correlation: float | None
    """Spearman's; None if one of the two always gives the same score."""
    distance: float
    """Mean absolute difference, in points."""
    close: int
    """Pairs at most 10 points apart."""


@dataclass(frozen=True, slots=True)
class ColumnChanges:
    """How the scores of a column changed since the previous batch."""

    column: Column
    changes: ScoreChanges
    changed: tuple[str, ...]
    """Which settings differ: "prompt text", "connection"."""


@dataclass(frozen=True, slots=True)
class ContentChanges:
    """Evaluations whose score changed together with the file's content, newest occurrence first."""

    documents: Sequence[ChangedScore] = ()
    """The first of `total`."""
    total: int = 0
    same: int = 0
    """Evaluations of files with new content that kept their score."""
    contents: int = 0
    """Files with new content, of which the newest `looked_at` were examined."""
    looked_at: int = 0


@dataclass(frozen=True, slots=True)
class UnsharedScores:
    """The scores of a column over the documents that only one of two batches has."""

    column: Column
    before: int
    now: int
    difference: Difference
    """Of the means, without an interval; p is corrected for all comparisons of the report."""
    changed: tuple[str, ...]
    """As in `ColumnChanges`."""


@dataclass(frozen=True, slots=True)
class SinceOccurrence:
    """What the report adds to `SincePrevious` if both batches are occurrences of one series."""

    due_at: datetime
    previous_due_at: datetime
    passed_over: tuple[SeriesOccurrence, ...]
    """The newest of `all_passed_over` occurrences between the two."""
    all_passed_over: int
    samples: tuple[UnsharedScores, ...]
    changes: ContentChanges


@dataclass(frozen=True, slots=True)
class SincePrevious:
    """How scores changed since the latest overlapping batch, or since the previous occurrence."""

    partition_key: str
    name: str
    completed_at: datetime | None
    shared_documents: int
    columns: tuple[ColumnChanges, ...]
    """The best of `shared_columns` that have a document with both scores."""
    shared_columns: int = 0
    same_results: int = 0
    """Results that are in both batches by reuse, and are not compared."""
    occurrence: SinceOccurrence | None = None
    """None unless both batches are occurrences of one recurring evaluation."""


@dataclass(frozen=True, slots=True)
class ReusedFrom:
    """A batch that results were reused from, and how many."""

    partition_key: str | None
    """None for all batches of another installation together, which came here by a restored archive."""
    name: str
    cells: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which runs of Dagster produced what a report shows."""

    runs: tuple[tuple[str, str], ...]
    """Asset and run id."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What the database counts of a batch besides its results."""

    throughput: Throughput | None = None
    reused: int = 0
    """Documents that were stored before this batch was staged."""
    content_bytes: int = 0
    attempts: Sequence[tuple[int, int]] = ()
    """Attempt number, and how many evaluations have it as their current one."""
    origins: Sequence[ReusedFrom] = ()
    """The newest batches that results were reused from."""
    all_origins: int = 0
    """All batches of this installation that results were reused from."""
    is_from_elsewhere: bool = False
    """Whether results were reused from another installation, too."""

    @property
    def origins_left_out(self) -> int:
        """How many places that results were reused from are not in `origins`."""
        return self.all_origins + self.is_from_elsewhere - len(self.origins)


@dataclass(frozen=True, slots=True)
class Insights:
    """All insights of a batch; an empty tuple or None if there is nothing to show."""

    scores: Estimate | None
    leaderboards: Sequence[PromptLeaderboard]
    """One for each prompt, in the order of the configuration."""
    distributions: Sequence[Distribution]
    disagreements: Sequence[Disagreement]
    agreements: Sequence[Agreement]
    previous: SincePrevious | None
    costs: Sequence[Cost]
    seconds: ProcessingTime | None
    provenance: Provenance
    counts: BatchCounts = BatchCounts()
    overall: PromptLeaderboard | None = None
    """None unless at least two prompts have a weight."""
    below_thresholds: Sequence[BelowThreshold] = ()
    """One for each prompt with a threshold and a score."""
    margin: float | None = None
    """Points by which a model may score lower and still count as no worse, as sealed."""

    @property
    def boards(self) -> Sequence[PromptLeaderboard]:
        """All leaderboards: the overall one first, then one for each prompt."""
        return [*([] if self.overall is None else [self.overall]), *self.leaderboards]


NOTHING = Insights(None, (), (), (), (), None, (), None, Provenance(()))
