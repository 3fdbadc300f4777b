"""What finished evaluations used: tokens, processing time and money. Reused results used nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of a connection's finished evaluations, separated by which of the two kinds they report."""

    connection_id: int
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
