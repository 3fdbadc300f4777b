"""Estimates the tokens, time and cost of future evaluations from the history of this installation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.history import load_experience, read_prices
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

    def as_json(self) -> dict[str, Any]:
        """The estimate for other programs: intervals as [low, expected, high], unknown as null."""
        return {
            "connection": self.connection,
            "cells": self.cells,
            "experience": self.experience,
            "input_tokens": _triple(self.input_tokens),
            "output_tokens": _triple(self.output_tokens),
            "seconds": _triple(self.seconds),
            "cost": _triple(self.cost),
            "currency": self.currency,
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
