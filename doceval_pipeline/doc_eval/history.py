"""What finished attempts took on each connection: the experience that estimates and limits rest on.

Kept as sums for each batch, so that reading it costs the same at any number of results, and so that
it outlives a batch that is archived. Where the sums come from is the business of `knowledge.history`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, text

from doceval_pipeline.statistics.estimation import Experience, Measure

_FORGET = text("DELETE FROM connection_history WHERE batch_id = :batch_id")
_REMEMBER = text("""
    INSERT INTO connection_history (batch_id, connection_id, measure, cells, sum_x, sum_xx, sum_y, sum_yy,
                                    sum_xy, max_y)
    SELECT :batch_id, connection_id, measure, cells, sum_x, sum_xx, sum_y, sum_yy, sum_xy, max_y
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS h(
        connection_id int, measure text, cells bigint, sum_x float8, sum_xx float8, sum_y float8,
        sum_yy float8, sum_xy float8, max_y float8)
    WHERE EXISTS (SELECT 1 FROM connections WHERE id = h.connection_id)
""")
# What cannot be, of another program or from an earlier version, counts as not there: sums over it overflow.
_IS_POSSIBLE = """
    cells BETWEEN 1 AND 1e15 AND max_y BETWEEN 0 AND 1e10
    AND sum_x BETWEEN 0 AND 1e30 AND (sum_xx = 0 OR sum_xx BETWEEN 1 AND 1e30)
    AND sum_y BETWEEN 0 AND 1e30 AND sum_yy BETWEEN 0 AND 1e30 AND sum_xy BETWEEN 0 AND 1e30
"""
_RECALL = text(f"""
    SELECT connection_id, measure, least(sum(cells), 1e18)::bigint, sum(sum_x), sum(sum_xx), sum(sum_y),
           sum(sum_yy), sum(sum_xy), max(max_y)
    FROM connection_history
    WHERE connection_id = ANY(:connection_ids) AND batch_id <> :except_batch AND {_IS_POSSIBLE}
    GROUP BY 1, 2
""")
_LONGEST_EVER = text(f"""
    SELECT connection_id, max(max_y) FROM connection_history
    WHERE connection_id = ANY(:connection_ids) AND measure = 'seconds' AND {_IS_POSSIBLE}
    GROUP BY 1
""")


def remember(connection: Connection, batch_id: int, found: Mapping[tuple[int, Measure], Experience]) -> None:
    """Keep what a batch's attempts took, instead of what was kept of it before."""
    rows = [
        {"connection_id": connection_id, "measure": measure.value, **asdict(experience)}
        for (connection_id, measure), experience in found.items()
    ]
    connection.execute(_FORGET, {"batch_id": batch_id})
    connection.execute(_REMEMBER, {"batch_id": batch_id, "rows": json.dumps(rows)})


def recall(
    connection: Connection, connection_ids: Sequence[int], except_batch: int
) -> dict[tuple[int, Measure], Experience]:
    """What other batches that were completed took, by connection and measure."""
    rows = connection.execute(_RECALL, {"connection_ids": list(connection_ids), "except_batch": except_batch})
    return {(row[0], Measure(row[1])): Experience(row[2], *map(float, row[3:])) for row in rows}


def longest_ever(connection: Connection, connection_ids: Sequence[int]) -> dict[int, float]:
    """The most seconds that each of some connections ever needed for a cell, where any is known."""
    rows = connection.execute(_LONGEST_EVER, {"connection_ids": list(connection_ids)})
    return {row[0]: row[1] for row in rows}
