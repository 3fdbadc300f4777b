"""What connections cost: now, for estimates, and when a batch was completed, for what it says of its cost.

Prices are never part of a sealed configuration.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, text

from doceval_pipeline import arrays
from doceval_pipeline.doc_eval.definitions.schema import Prices

_PRICES = text("SELECT id, prices FROM connections WHERE id = ANY(:ids) AND prices IS NOT NULL")
_PRICES_OF_BATCHES = text("""
    SELECT b.id, CAST(kept.key AS int), kept.value FROM batches b, jsonb_each(b.prices_at_completion) AS kept
    WHERE b.id = ANY(CAST(:batch_ids AS int[]))
      AND CASE WHEN kept.key ~ '^[0-9]{1,10}$' THEN CAST(kept.key AS bigint) END <= 2147483647
    UNION ALL
    SELECT b.id, c.id, c.prices
    FROM batches b, connections c
    WHERE b.id = ANY(CAST(:batch_ids AS int[])) AND b.prices_at_completion IS NULL AND c.prices IS NOT NULL
""")


def read_prices(connection: Connection, connection_ids: Sequence[int]) -> dict[int, Prices]:
    """The present prices of connections, by connection; those without prices are left out."""
    return _as_prices(connection.execute(_PRICES, {"ids": list(connection_ids)}))


def prices_of_batch(connection: Connection, batch_id: int) -> dict[int, Prices]:
    """The prices of a batch, by connection: those of its completion, and before it the present ones."""
    return prices_of_batches(connection, [batch_id])[batch_id]


def prices_of_batches(connection: Connection, batch_ids: Sequence[int]) -> dict[int, dict[int, Prices]]:
    """The prices of each batch, as of `prices_of_batch`."""
    rows: dict[int, list[tuple[int, Any]]] = {batch_id: [] for batch_id in batch_ids}
    found = connection.execute(_PRICES_OF_BATCHES, {"batch_ids": arrays.of_numbers(batch_ids)})
    for batch_id, connection_id, stored in found:
        rows[batch_id].append((connection_id, stored))
    return {batch_id: _as_prices(own) for batch_id, own in rows.items()}


def _as_prices(rows: Iterable[Any]) -> dict[int, Prices]:
    prices = {}
    for connection_id, stored in rows:
        # What somebody else put there counts as no price: a cost is unknown then, and nothing else fails.
        with suppress(ValidationError):
            prices[connection_id] = Prices.model_validate(stored)
    return prices
