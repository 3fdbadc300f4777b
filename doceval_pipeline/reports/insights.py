"""What a batch's results say beyond counts: plain data, made by the databases and by `statistics`.

Intervals hold with 95 %. Scores run from 0 to 100; a score of 0 is a score. What a figure leaves out is
counted beside it. Texts are kept as they came; whoever shows them makes them inert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.series import ChangedScore, SeriesOccurrence
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports.formatting import counted


@dataclass(frozen=True, slots=True)
class Standing:
    """A column's place in the leaderboard, and the cells that are not in its mean, by why.

    `behind` is its difference to the leader, negative where it scored less; None for the leader, and
    where the two share no document. `tied` with the leader: the data do not tell them apart.
    """

    column: Column
    scores: Estimate | None
    behind: Difference | None
    tied: bool
    failed: int
    without_score: int
    without_result: int


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
    """A document that models scored differently under the same prompt, with all scores under it."""

    document: str
    document_id: int
    prompt_id: int
    scores: tuple[tuple[int, float], ...]  # connection, score

    @property
    def spread(self) -> float:
        """The distance of its lowest and highest score."""
        values = [score for _, score in self.scores]
        return max(values) - min(values)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two connections score the same documents under the same prompts.

    `correlation` of ranks (Spearman), None where one of them always gives the same score; `distance` is
    the mean absolute difference, `close` the number of pairs no more than 10 points apart.
    """

    first: int
    second: int
    n: int
    correlation: float | None
    distance: float
    close: int


@dataclass(frozen=True, slots=True)
class Flip:
    """A document whose score moved between two columns, by name; the scores before and after."""

    document: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Movement:
    """How scores moved from one column to another over the documents that both scored.

    `rose`, `fell` and `same` count documents. `net` is the mean change and `gross` the mean of its size,
    so that ups and downs that cancel out are seen. `flips` are the largest moves, `flipped` how many
    crossed `threshold`, the score that parts good from bad. `only_first` and `only_second` documents have
    a score in one of the two alone.
    """

    difference: Difference
    rose: int
    fell: int
    same: int
    net: float
    gross: float
    threshold: float
    flipped_up: int
    flipped_down: int
    flips: tuple[Flip, ...]
    only_first: int
    only_second: int


@dataclass(frozen=True, slots=True)
class ColumnMovement:
    """How a column moved since the previous batch; `changed` names what is not as it was there."""

    column: Column
    movement: Movement
    changed: tuple[str, ...]  # of "prompt text", "connection"


@dataclass(frozen=True, slots=True)
class ContentChanges:
    """Documents whose score changed with their content, newest occurrence first.

    `contents` files had another content, of which the newest `looked_at` were looked at; `same` of their
    evaluations kept their score. `documents` are the first of `total`.
    """

    documents: Sequence[ChangedScore] = ()
    total: int = 0
    same: int = 0
    contents: int = 0
    looked_at: int = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """Scores of a column over documents that only one of two batches has.

    `difference` of their means has a p that allows for all comparisons of the report, and no interval.
    """

    column: Column
    before: int
    now: int
    difference: Difference
    changed: tuple[str, ...]  # as of `ColumnMovement`


@dataclass(frozen=True, slots=True)
class SinceOccurrence:
    """What a report says beyond `SincePrevious` where both batches are occurrences of one series.

    `passed_over` are the newest of `all_passed_over` occurrences between the two.
    """

    due_at: datetime
    previous_due_at: datetime
    passed_over: tuple[SeriesOccurrence, ...]
    all_passed_over: int
    samples: tuple[Samples, ...]
    changes: ContentChanges


@dataclass(frozen=True, slots=True)
class SincePrevious:
    """The newest earlier batch that completed and shares documents and columns with this one.

    For an occurrence it is the one before in its series, which may share no document. `columns` are the best
    of `shared_columns` that have a document with both scores. `same_results` are in both batches by reuse:
    they are compared with nothing. `occurrence` is None unless both batches are occurrences of one recurring
    evaluation.
    """

    partition_key: str
    name: str
    completed_at: datetime | None
    shared_documents: int
    columns: tuple[ColumnMovement, ...]
    shared_columns: int = 0
    same_results: int = 0
    occurrence: SinceOccurrence | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """A time in which nothing was finished for much longer than usual, with work left to do."""

    start: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Finished cells over time: counts for equal spans of `bin_seconds` from `start`, and stalls.

    `stalls` are the longest of `all_stalls`. `without_time` finished cells do not say when they were
    finished, or a time that cannot be.
    """

    start: datetime
    bin_seconds: float
    bins: tuple[int, ...]
    stalls: tuple[Stall, ...]
    without_time: int
    all_stalls: int = 0


ELSEWHERE = "another installation"
"""Where results come from whose batch is not known here, because they were restored from its archive."""


def origins_text(batches: int, is_elsewhere: bool) -> str:
    """Where reused results come from, in words: how many batches, and whether others are not known here."""
    said = [counted(batches, "batch", "batches")] if batches else []
    return " and ".join([*said, *([ELSEWHERE] if is_elsewhere else [])])


@dataclass(frozen=True, slots=True)
class ReusedFrom:
    """A batch that results were reused from, by its partition key and name, and how many `cells` it gave.

    Batches of another installation are one, without a partition key.
    """

    partition_key: str | None
    name: str
    cells: int

    @property
    def place(self) -> str:
        """Where the results come from, without names that others wrote."""
        return self.partition_key or ELSEWHERE


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long cells took, by the processor: the median and the 95th percentile, over `n` cells."""

    n: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result comes from: Dagster's runs by what they materialized."""

    runs: tuple[tuple[str, str], ...]  # asset, run id


@dataclass(frozen=True, slots=True)
class Insights:
    """All of it; an empty tuple or None where there is nothing to say.

    `reused` contents were stored before this batch staged them. `attempts` counts cells by the number
    of their current attempt. `origins` are the newest places that results were reused from, of `all_origins`
    batches and, where `is_from_elsewhere`, another installation.
    """

    scores: Estimate | None
    leaderboard: Sequence[Standing]
    distributions: Sequence[Distribution]
    disagreements: Sequence[Disagreement]
    agreements: Sequence[Agreement]
    previous: SincePrevious | None
    throughput: Throughput | None
    costs: Sequence[Cost]
    seconds: Seconds | None
    reused: int
    content_bytes: int
    attempts: Sequence[tuple[int, int]]
    provenance: Provenance
    origins: Sequence[ReusedFrom] = ()
    all_origins: int = 0
    is_from_elsewhere: bool = False

    @property
    def origins_left_out(self) -> int:
        """Places that results were reused from and that are not in `origins`."""
        return self.all_origins + self.is_from_elsewhere - len(self.origins)

    @property
    def origins_text(self) -> str:
        """Where reused results come from, in words."""
        return origins_text(self.all_origins, self.is_from_elsewhere)


NOTHING = Insights(None, (), (), (), (), None, None, (), None, 0, 0, (), Provenance(()))
