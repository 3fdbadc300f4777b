"""What finished evaluations used: tokens, processing time and money. Reused results used nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from doceval_pipeline.domain.results import Total


class Measure(StrEnum):
    """What is measured of a finished evaluation."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    SECONDS = "seconds"
    """How long the processor worked on it."""


@dataclass(frozen=True, slots=True)
class Experience:
    """Sums over finished evaluations: x is the document's size in bytes, y the measured value."""

    cells: int
    sum_x: float
    sum_xx: float
    sum_y: float
    sum_yy: float
    sum_xy: float
    max_y: float

    @classmethod
    def of(cls, sums: Any) -> "Experience":
        """From an object with the same attributes as numbers of any type, such as a row of a database."""
        return cls(
            cells=int(sums.cells),
            sum_x=float(sums.sum_x),
            sum_xx=float(sums.sum_xx),
            sum_y=float(sums.sum_y),
            sum_yy=float(sums.sum_yy),
            sum_xy=float(sums.sum_xy),
            max_y=float(sums.max_y),
        )

    def __add__(self, other: "Experience") -> "Experience":
        return Experience(
            self.cells + other.cells,
            self.sum_x + other.sum_x,
            self.sum_xx + other.sum_xx,
            self.sum_y + other.sum_y,
            self.sum_yy + other.sum_yy,
            self.sum_xy + other.sum_xy,
            max(self.max_y, other.max_y),
        )


@dataclass(frozen=True, slots=True)
class ProcessingTime:
    """Seconds the processor took per evaluation: median and 95th percentile over the `n` that report it."""

    n: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of a column's finished evaluations, separated by which of the two kinds they report."""

    connection_id: int
    prompt_id: int
    has_input: bool
    has_output: bool
    cells: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of current results in one currency, at the prices of the batch's completion."""

    amount: float
    currency: str
    cells: int
    """Finished evaluations with a price: they report the tokens of each kind that has a price."""
    unpriced: int
    """Finished evaluations without a price in any currency, because tokens or prices are missing."""

    @property
    def per_document(self) -> float:
        """The cost of one evaluation with a price."""
        return self.amount / max(1, self.cells)


@dataclass(frozen=True, slots=True)
class ColumnUsage:
    """What the finished evaluations of a model under one prompt used; reused results used nothing.

    A figure is None if it is unknown, never 0.
    """

    cells: int = 0
    """Finished evaluations whose result is not reused."""
    input_tokens: Total | None = None
    output_tokens: Total | None = None
    seconds: ProcessingTime | None = None
    cost: Cost | None = None
    """Of at least one evaluation, in the currency of the connection."""

    @property
    def cost_per_document(self) -> float | None:
        """The cost of one evaluation, in the currency of `cost`."""
        return None if self.cost is None else self.cost.per_document

    def is_cheaper(self, other: "ColumnUsage") -> bool:
        """Whether an evaluation is known to cost less."""
        if self.cost is None or other.cost is None or self.cost.currency != other.cost.currency:
            return False
        return self.cost.per_document < other.cost.per_document

    def is_faster(self, other: "ColumnUsage") -> bool:
        """Whether the median evaluation is known to take clearly less time."""
        if self.seconds is None or other.seconds is None:
            return False
        return self.seconds.p50 < CLEARLY_FASTER * other.seconds.p50


NO_USAGE = ColumnUsage()
CLEARLY_FASTER = 0.9
"""A median above this share of another one is not clearly faster: the next batch may turn the two round."""
