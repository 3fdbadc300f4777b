"""The models of completed batches under each prompt, as messages state them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection

from doceval_pipeline.batches.results.costs import add_up_costs
from doceval_pipeline.doc_eval.criteria import read_thresholds
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.doc_eval.history import prices_of_batches
from doceval_pipeline.doc_eval.snapshot import sealed_names
from doceval_pipeline.domain.columns import Column, Labels
from doceval_pipeline.domain.completed_results import CompletedColumn

# Receivers limit the size of a message, some of them to 20 KiB.
MOST_MODELS = 200
MODELS_BYTES = 12 * 1024


@dataclass(frozen=True)
class SealedModels:
    """Names and prices of batches, by batch, and the thresholds of their prompts."""

    names: Mapping[int, Labels]
    prices: Mapping[int, Mapping[int, Prices]]
    thresholds: Mapping[int, float]

    @classmethod
    def read(cls, connection: Connection, batch_ids: Sequence[int]) -> Self:
        """The models of the given batches; prices are those of completion, thresholds the current ones."""
        names = sealed_names(connection, batch_ids)
        prompts = sorted({prompt for labels in names.values() for prompt in labels.prompts})
        return cls(
            names=names,
            prices=prices_of_batches(connection, batch_ids),
            thresholds=read_thresholds(connection, prompts),
        )

    def as_json(self, batch_id: int, columns: Iterable[CompletedColumn]) -> list[dict[str, Any]]:
        """One object for each prompt and connection of a batch, in the order of its configuration."""
        names, prices = self.names[batch_id], self.prices[batch_id]
        of_batch = {one.column: one for one in columns if one.batch_id == batch_id}
        return [_model(of_batch[column], names, prices) for column in _in_order(of_batch, names)]


def fitting(models: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first of `models`, at most 200 and 12 KiB of JSON."""
    shown: list[Mapping[str, Any]] = []
    size = 0
    for model in models:
        size += len(json.dumps(model))
        if size > MODELS_BYTES or len(shown) == MOST_MODELS:
            break
        shown.append(model)
    return shown


def _in_order(columns: Iterable[Column], names: Labels) -> list[Column]:
    """Columns by prompt, then connection, as configured; those that only rows have come last."""
    connections = {id_: place for place, id_ in enumerate(names.connections)}
    prompts = {id_: place for place, id_ in enumerate(names.prompts)}

    def place(column: Column) -> tuple[float, float, Column]:
        connection, prompt = column
        last = float("inf")
        return prompts.get(prompt, last), connections.get(connection, last), column

    return sorted(columns, key=place)


def _model(results: CompletedColumn, names: Labels, prices: Mapping[int, Prices]) -> dict[str, Any]:
    connection, prompt = results.column
    # A connection has one currency, so this is one cost, or none if it is unknown.
    cost = next(iter(add_up_costs(results.usage, prices)), None)
    asked = sum(usage.cells for usage in results.usage)
    return {
        "connection": names.connection(connection),
        "prompt": names.prompt(prompt),
        "mean_score": results.mean_score,
        "scored": results.scored,
        "succeeded": results.succeeded,
        "failed": results.failed,
        "simulated": results.simulated,
        "reused": results.reused,
        "cost": None if cost is None else cost.amount,
        "currency": None if cost is None else cost.currency,
        "unpriced": asked if cost is None else cost.unpriced,
        "below_threshold": results.below_threshold,
    }
