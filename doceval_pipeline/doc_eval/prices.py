"""What connections cost, for estimates. Prices are never part of a sealed configuration."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.definitions import Prices

_PRICES = text("SELECT id, prices FROM connections WHERE id = ANY(:ids) AND prices IS NOT NULL")


def read_prices(connection: Connection, connection_ids: Sequence[int]) -> dict[int, Prices]:
    """The prices of those of some connections that have any, by connection."""
    rows = connection.execute(_PRICES, {"ids": list(connection_ids)})
    return {row[0]: Prices.model_validate(row[1]) for row in rows}
