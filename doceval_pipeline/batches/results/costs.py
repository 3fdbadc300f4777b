"""What the evaluations of a batch cost: tokens times the prices of their connections.

Unknown tokens or prices make a cost unknown, never 0.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.results import Total
from doceval_pipeline.domain.usage import ColumnUsage, Cost, ProcessingTime, TokenUsage


def column_usage(
    tokens: Sequence[TokenUsage], times: Mapping[Column | None, ProcessingTime], prices: Mapping[int, Prices]
) -> dict[Column, ColumnUsage]:
    """Tokens, time and cost by column; columns without a finished evaluation of their own are left out."""
    by_column: defaultdict[Column, list[TokenUsage]] = defaultdict(list)
    for part in tokens:
        by_column[part.connection_id, part.prompt_id].append(part)
    return {
        column: ColumnUsage(
            cells=sum(part.cells for part in parts),
            input_tokens=_total([(part.input_tokens, part.cells) for part in parts if part.has_input]),
            output_tokens=_total([(part.output_tokens, part.cells) for part in parts if part.has_output]),
            seconds=times.get(column),
            # A connection has one currency.
            cost=next(iter(add_up_costs(parts, prices)), None),
        )
        for column, parts in by_column.items()
    }


def add_up_costs(tokens: Sequence[TokenUsage], prices: Mapping[int, Prices]) -> list[Cost]:
    """The cost of finished evaluations, for each currency in which any is known."""
    priced = [
        (token_usage, price)
        for token_usage in tokens
        if (price := prices.get(token_usage.connection_id)) is not None and _is_priced(token_usage, price)
    ]
    unpriced = sum(token_usage.cells for token_usage in tokens) - sum(
        token_usage.cells for token_usage, _ in priced
    )
    costs = []
    for currency in sorted({price.currency for _, price in priced}):
        pairs = [(token_usage, price) for token_usage, price in priced if price.currency == currency]
        amount = sum(_amount(token_usage, price) for token_usage, price in pairs)
        costs.append(Cost(amount, currency, sum(token_usage.cells for token_usage, _ in pairs), unpriced))
    return costs


def cost_of(prices: Prices, input_tokens: int | None, output_tokens: int | None) -> float | None:
    """The cost of one evaluation by the rules of `add_up_costs`; None if it is unknown."""
    amount = 0.0
    for per_million, tokens in (
        (prices.input_per_million, input_tokens),
        (prices.output_per_million, output_tokens),
    ):
        if per_million is None or (tokens is None and per_million != 0):
            return None
        amount += (tokens or 0) * per_million
    return amount / 1e6


def _total(parts: Sequence[tuple[int, int]]) -> Total | None:
    """The sum of the tokens of evaluations that report them; None if none does."""
    if not parts:
        return None
    return Total(sum(tokens for tokens, _ in parts), sum(cells for _, cells in parts))


def _is_priced(token_usage: TokenUsage, price: Prices) -> bool:
    """Whether both prices are known, and tokens are reported wherever they cost something."""
    return all(
        per_million is not None and (is_reported or per_million == 0)
        for per_million, is_reported in (
            (price.input_per_million, token_usage.has_input),
            (price.output_per_million, token_usage.has_output),
        )
    )


def _amount(token_usage: TokenUsage, price: Prices) -> float:
    return (
        token_usage.input_tokens * (price.input_per_million or 0)
        + token_usage.output_tokens * (price.output_per_million or 0)
    ) / 1e6
