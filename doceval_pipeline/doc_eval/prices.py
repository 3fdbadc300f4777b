"""What connections cost: now, for estimates, and when a batch was completed, for what it says of its cost.

Prices are never part of a sealed configuration.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, CursorResult, text

from doceval_pipeline.doc_eval.definitions import Prices

_PRICES = text("SELECT id, prices FROM connections WHERE id = ANY(:ids) AND prices IS NOT NULL")
_PRICES_OF_BATCH = text("""
    SELECT CAST(kept.key AS int), kept.value FROM batches b, jsonb_each(b.prices_at_completion) AS kept
    WHERE b.id = :batch_id
      AND CASE WHEN kept.key ~ '^[0-9]{1,10}$' THEN CAST(kept.key AS bigint) END <= 2147483647
    UNION ALL
    SELECT c.id, c.prices
    FROM batches b, connections c
    WHERE b.id = :batch_id AND b.prices_at_completion IS NULL AND c.prices IS NOT NULL
""")


def read_prices(connection: Connection, connection_ids: Sequence[int]) -> dict[int, Prices]:
    """The present prices of connections, by connection; those without prices are left out."""
    return _as_prices(connection.execute(_PRICES, {"ids": list(connection_ids)}))


def prices_of_batch(connection: Connection, batch_id: int) -> dict[int, Prices]:
    """The prices of a batch, by connection: those of its completion, and before it the present ones."""
    return _as_prices(connection.execute(_PRICES_OF_BATCH, {"batch_id": batch_id}))


def _as_prices(rows: CursorResult[Any]) -> dict[int, Prices]:
    prices = {}
    for connection_id, stored in rows:
        # What somebody else put there counts as no price: a cost is unknown then, and nothing else fails.
        with suppress(ValidationError):
            prices[connection_id] = Prices.model_validate(stored)
    return prices
