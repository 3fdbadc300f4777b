"""What queued cells are expected to take: tokens, time and cost, from this installation's own history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.history import recall
from doceval_pipeline.doc_eval.prices import read_prices
from doceval_pipeline.knowledge.history import experience_of
from doceval_pipeline.statistics.estimation import Experience, Interval, Measure, predict_total


@dataclass(frozen=True)
class ConnectionWork:
    """Cells to come on a connection; `bytes` are the sizes of their documents added up over cells."""

    connection_id: int
    connection: str
    cells: int
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """What the cells to come on a connection are expected to take; None is unknown.

    `seconds` are the processor's, added up over cells; `experience` counts the cells they rest on.
    """

    connection: str
    cells: int
    experience: int
    input_tokens: Interval | None
    output_tokens: Interval | None
    seconds: Interval | None
    cost: Interval | None
    currency: str | None

    def as_json(self) -> dict[str, Any]:
        """Intervals as [low, expected, high], unknown as null."""
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


def estimate_work(databases: Databases, batch_id: int, work: Sequence[ConnectionWork]) -> list[Estimate]:
    """Estimate work from all attempts that were ever finished, those of this batch included."""
    ids = [item.connection_id for item in work]
    with databases.doc_eval.connect() as connection:
        known = recall(connection, ids, except_batch=batch_id)
        prices = read_prices(connection, ids)
    with databases.knowledge.connect() as knowledge:
        for key, own in experience_of(knowledge, batch_id).items():
            known[key] = known[key] + own if key in known else own
    return [_estimate(item, known, prices.get(item.connection_id)) for item in work]


def _estimate(
    work: ConnectionWork, known: dict[tuple[int, Measure], Experience], prices: Prices | None
) -> Estimate:
    def predicted(measure: Measure) -> Interval | None:
        if not work.cells:
            return Interval(0.0, 0.0, 0.0)
        experience = known.get((work.connection_id, measure))
        return None if experience is None else predict_total(experience, work.cells, work.bytes)

    tokens_in, tokens_out = predicted(Measure.INPUT_TOKENS), predicted(Measure.OUTPUT_TOKENS)
    of_connection = [own for (id_, _), own in known.items() if id_ == work.connection_id]
    return Estimate(
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
    """What the tokens cost; unknown where a price is, or the number of tokens that are not free."""
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
