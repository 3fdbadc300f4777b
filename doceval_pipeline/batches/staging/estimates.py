"""Estimates the tokens, time and cost of future evaluations from the history of this installation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.rough_estimates import (
    Range,
    RoughInput,
    RoughTokens,
    as_range,
    document_tokens,
    rough_tokens,
)
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.history import load_experience, load_token_experience, read_prices
from doceval_pipeline.domain.files import MeasuredDocument
from doceval_pipeline.domain.findings import Interval
from doceval_pipeline.domain.usage import Experience, Measure
from doceval_pipeline.knowledge.usage import read_experience
from doceval_pipeline.statistics.estimation import predict_total


@dataclass(frozen=True)
class ConnectionWork:
    """Future evaluations on a connection; `bytes` adds up their documents' sizes, once per evaluation."""

    connection_id: int
    connection: str
    cells: int
    bytes: int


@dataclass(frozen=True)
class WorkEstimate:
    """The expected usage and cost of future evaluations on a connection; None is unknown."""

    connection: str
    cells: int
    experience: int
    """Finished evaluations that the estimate is based on."""
    input_tokens: Interval | None
    output_tokens: Interval | None
    seconds: Interval | None
    """Seconds of the processor, added up over evaluations."""
    cost: Interval | None
    currency: str | None
    rough: RoughTokens | None = None
    """Only of a connection whose tokens cannot be estimated from experience, and only in a plan."""
    rough_cost: Range | None = None

    @property
    def basis(self) -> str | None:
        """What the figures are based on: "experience" or "rough"; None if nothing is known."""
        if self.rough is not None:
            return "rough"
        is_known = self.input_tokens or self.output_tokens or self.seconds
        return "experience" if self.cells and is_known else None

    def as_json(self) -> dict[str, Any]:
        """The estimate for other programs: intervals as [low, expected, high], unknown as null.

        Rough figures are [low, high].
        """
        rough = self.rough
        return {
            "connection": self.connection,
            "cells": self.cells,
            "experience": self.experience,
            "input_tokens": _triple(self.input_tokens),
            "output_tokens": _triple(self.output_tokens),
            "seconds": _triple(self.seconds),
            "cost": _triple(self.cost),
            "currency": self.currency,
            "basis": self.basis,
            "rough_basis": None if rough is None else rough.basis.value,
            "rough_input_tokens": None if rough is None else rough.input_tokens.as_json(),
            "rough_output_tokens": None if rough is None else rough.output_tokens.as_json(),
            "rough_cost": None if self.rough_cost is None else self.rough_cost.as_json(),
        }


def estimate_work(databases: Databases, batch_id: int, work: Sequence[ConnectionWork]) -> list[WorkEstimate]:
    """Estimates from all attempts that ever finished, including those of this batch."""
    ids = [item.connection_id for item in work]
    with databases.doc_eval.connect() as connection:
        known = load_experience(connection, ids, except_batch=batch_id)
        prices = read_prices(connection, ids)
    with databases.knowledge.connect() as knowledge:
        for key, own in read_experience(knowledge, batch_id).items():
            known[key] = known[key] + own if key in known else own
    return [_estimate(item, known, prices.get(item.connection_id)) for item in work]


def with_rough_figures(
    databases: Databases,
    estimates: Sequence[WorkEstimate],
    work: Sequence[ConnectionWork],
    documents: Collection[MeasuredDocument],
    prompts: Sequence[str],
) -> list[WorkEstimate]:
    """The estimates, with rough figures for connections whose tokens are unknown.

    Parameters
    ----------
    estimates, work
        As `estimate_work` returned and got them.
    documents
        All documents of the batch, each once.
    prompts
        The texts of its prompts.
    """
    if not any(map(_is_unknown, estimates)):
        return list(estimates)
    with databases.doc_eval.connect() as connection:
        others = load_token_experience(connection)
        prices = read_prices(connection, [item.connection_id for item in work])
    given = RoughInput(len(documents), document_tokens(documents), prompts, others)
    return [
        _with_rough_figures(estimate, item, given, prices.get(item.connection_id))
        if _is_unknown(estimate)
        else estimate
        for estimate, item in zip(estimates, work, strict=True)
    ]


def _is_unknown(estimate: WorkEstimate) -> bool:
    return bool(estimate.cells) and (estimate.input_tokens is None or estimate.output_tokens is None)


def _with_rough_figures(
    estimate: WorkEstimate, work: ConnectionWork, given: RoughInput, prices: Prices | None
) -> WorkEstimate:
    rough = rough_tokens(work.connection_id, work.cells, work.bytes, given)
    if estimate.input_tokens is not None:
        rough = replace(rough, input_tokens=as_range(estimate.input_tokens), vague=0)
    if estimate.output_tokens is not None:
        rough = replace(rough, output_tokens=as_range(estimate.output_tokens))
    # Where both prices are 0, the cost is known without any tokens.
    cost = None if estimate.cost is not None else _rough_cost(rough, prices)
    return replace(estimate, rough=rough, rough_cost=cost)


def _rough_cost(rough: RoughTokens, prices: Prices | None) -> Range | None:
    """The cost of rough tokens; None if a price is unknown."""
    if prices is None or prices.input_per_million is None or prices.output_per_million is None:
        return None
    tokens_in = rough.input_tokens.times(prices.input_per_million / 1e6)
    return tokens_in + rough.output_tokens.times(prices.output_per_million / 1e6)


def _estimate(
    work: ConnectionWork, known: dict[tuple[int, Measure], Experience], prices: Prices | None
) -> WorkEstimate:
    def predicted(measure: Measure) -> Interval | None:
        if not work.cells:
            return Interval(0.0, 0.0, 0.0)
        experience = known.get((work.connection_id, measure))
        return None if experience is None else predict_total(experience, work.cells, work.bytes)

    tokens_in, tokens_out = predicted(Measure.INPUT_TOKENS), predicted(Measure.OUTPUT_TOKENS)
    of_connection = [own for (id_, _), own in known.items() if id_ == work.connection_id]
    return WorkEstimate(
        connection=work.connection,
        cells=work.cells,
        experience=max((own.cells for own in of_connection), default=0),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        seconds=predicted(Measure.SECONDS),
        cost=_cost(tokens_in, tokens_out, prices),
        currency=None if prices is None else prices.currency,
    )


def _cost(tokens_in: Interval | None, tokens_out: Interval | None, prices: Prices | None) -> Interval | None:
    """The cost of tokens; None if a price is unknown, or the number of tokens that are not free."""
    if prices is None:
        return None
    together = Interval(0.0, 0.0, 0.0)
    for tokens, per_million in (
        (tokens_in, prices.input_per_million),
        (tokens_out, prices.output_per_million),
    ):
        if per_million != 0:
            if per_million is None or tokens is None:
                return None
            together += tokens.times(per_million / 1e6)
    return together


def _triple(interval: Interval | None) -> list[float] | None:
    return (
        None if interval is None else [round(v, 6) for v in (interval.low, interval.expected, interval.high)]
    )
