"""What evaluations used and cost on each connection: the experience of past batches, and prices.

Estimates and limits are based on this experience. It is stored as sums per batch (see `knowledge.usage`):
reading it takes the same time for any number of results, and it outlives archived batches. Prices are
never part of a sealed configuration.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.usage import Experience, Measure

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.definitions.schema import Prices

_DELETE = text("DELETE FROM connection_history WHERE batch_id = :batch_id")
_INSERT = text("""
    INSERT INTO connection_history (batch_id, connection_id, measure, cells, sum_x, sum_xx, sum_y, sum_yy,
                                    sum_xy, max_y)
    SELECT :batch_id, connection_id, measure, cells, sum_x, sum_xx, sum_y, sum_yy, sum_xy, max_y
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS h(
        connection_id int, measure text, cells bigint, sum_x float8, sum_xx float8, sum_y float8,
        sum_yy float8, sum_xy float8, max_y float8)
    WHERE EXISTS (SELECT 1 FROM connections WHERE id = h.connection_id)
""")
# Impossible values, written by another program or an earlier version, are ignored: sums over them overflow.
_IS_POSSIBLE = """
    cells BETWEEN 1 AND 1e15 AND max_y BETWEEN 0 AND 1e10
    AND sum_x BETWEEN 0 AND 1e30 AND (sum_xx = 0 OR sum_xx BETWEEN 1 AND 1e30)
    AND sum_y BETWEEN 0 AND 1e30 AND sum_yy BETWEEN 0 AND 1e30 AND sum_xy BETWEEN 0 AND 1e30
"""
_SELECT = text(f"""
    SELECT connection_id, measure, least(sum(cells), 1e18)::bigint AS cells, sum(sum_x) AS sum_x,
           sum(sum_xx) AS sum_xx, sum(sum_y) AS sum_y, sum(sum_yy) AS sum_yy, sum(sum_xy) AS sum_xy,
           max(max_y) AS max_y
    FROM connection_history
    WHERE connection_id = ANY(:connection_ids) AND batch_id <> :except_batch AND {_IS_POSSIBLE}
    GROUP BY 1, 2
""")
# Connections of the simulated processor report made-up tokens.
_SELECT_OTHERS = text(f"""
    SELECT h.connection_id, h.measure, least(sum(h.cells), 1e18)::bigint AS cells, sum(h.sum_x) AS sum_x,
           sum(h.sum_xx) AS sum_xx, sum(h.sum_y) AS sum_y, sum(h.sum_yy) AS sum_yy, sum(h.sum_xy) AS sum_xy,
           max(h.max_y) AS max_y
    FROM connection_history h
    JOIN connections c ON c.id = h.connection_id
    JOIN llm_providers p ON p.id = c.provider_id AND p.provider_type <> 'simulation'
    WHERE h.measure IN ('{Measure.INPUT_TOKENS}', '{Measure.OUTPUT_TOKENS}') AND {_IS_POSSIBLE}
    GROUP BY 1, 2
""")
_LONGEST_DURATIONS = text(f"""
    SELECT connection_id, max(max_y) AS seconds FROM connection_history
    WHERE connection_id = ANY(:connection_ids) AND measure = 'seconds' AND {_IS_POSSIBLE}
    GROUP BY 1
""")
_PRICES = text("""
    SELECT id AS connection_id, prices FROM connections WHERE id = ANY(:ids) AND prices IS NOT NULL
""")
_PRICES_OF_BATCHES = text("""
    SELECT b.id AS batch_id, CAST(kept.key AS int) AS connection_id, kept.value AS prices
    FROM batches b, jsonb_each(b.prices_at_completion) AS kept
    WHERE b.id = ANY(CAST(:batch_ids AS int[]))
      AND CASE WHEN kept.key ~ '^[0-9]{1,10}$' THEN CAST(kept.key AS bigint) END <= 2147483647
    UNION ALL
    SELECT b.id, c.id, c.prices
    FROM batches b, connections c
    WHERE b.id = ANY(CAST(:batch_ids AS int[])) AND b.prices_at_completion IS NULL AND c.prices IS NOT NULL
""")


def save_experience(
    connection: Connection, batch_id: int, experience: Mapping[tuple[int, Measure], Experience]
) -> None:
    """Store what a batch's attempts used; replaces what was stored for the batch before."""
    rows = [
        {"connection_id": connection_id, "measure": measure.value, **asdict(sums)}
        for (connection_id, measure), sums in experience.items()
    ]
    connection.execute(_DELETE, {"batch_id": batch_id})
    connection.execute(_INSERT, {"batch_id": batch_id, "rows": json.dumps(rows)})


def load_experience(
    connection: Connection, connection_ids: Sequence[int], except_batch: int
) -> dict[tuple[int, Measure], Experience]:
    """What other completed batches used, by connection and measure."""
    rows = connection.execute(_SELECT, {"connection_ids": list(connection_ids), "except_batch": except_batch})
    return {(row.connection_id, Measure(row.measure)): Experience.of(row) for row in rows}


def load_token_experience(connection: Connection) -> dict[tuple[int, Measure], Experience]:
    """The tokens that completed batches used, by connection and measure, of all real connections."""
    rows = connection.execute(_SELECT_OTHERS)
    return {(row.connection_id, Measure(row.measure)): Experience.of(row) for row in rows}


def longest_durations(connection: Connection, connection_ids: Sequence[int]) -> dict[int, float]:
    """Longest recorded duration of an evaluation per connection, in seconds."""
    rows = connection.execute(_LONGEST_DURATIONS, {"connection_ids": list(connection_ids)})
    return {row.connection_id: row.seconds for row in rows}


def read_prices(connection: Connection, connection_ids: Sequence[int]) -> dict[int, "Prices"]:
    """The current prices of connections, by connection; connections without prices are left out."""
    return _valid_prices(connection.execute(_PRICES, {"ids": list(connection_ids)}))


def prices_of_batch(connection: Connection, batch_id: int) -> dict[int, "Prices"]:
    """The prices at a batch's completion, by connection; before completion, the current prices."""
    return prices_of_batches(connection, [batch_id])[batch_id]


def prices_of_batches(connection: Connection, batch_ids: Sequence[int]) -> dict[int, dict[int, "Prices"]]:
    """The prices of each batch, as `prices_of_batch`."""
    by_batch: dict[int, list[Row[Any]]] = {batch_id: [] for batch_id in batch_ids}
    for row in connection.execute(_PRICES_OF_BATCHES, {"batch_ids": arrays.of_numbers(batch_ids)}):
        by_batch[row.batch_id].append(row)
    return {batch_id: _valid_prices(rows) for batch_id, rows in by_batch.items()}


def _valid_prices(rows: Iterable[Row[Any]]) -> dict[int, "Prices"]:
    # pydantic takes long to import, and `doceval status` needs durations only.
    from pydantic import ValidationError

    from doceval_pipeline.doc_eval.definitions.schema import Prices

    prices = {}
    for row in rows:
        # Another program may have written them: invalid prices make a cost unknown, and nothing else fails.
        with suppress(ValidationError):
            prices[row.connection_id] = Prices.model_validate(row.prices)
    return prices
