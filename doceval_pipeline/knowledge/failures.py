"""Groups the failed evaluations of batches by message, the most frequent group first. Reads only.

PostgreSQL compares and counts the messages, on disk where they are many; only the first groups are read.
Everything reads `current_llm_responses`, the latest attempt of each evaluation.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline import arrays
from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.domain.results import KNOWN_PROCESSOR_LIMIT_BYTES, FailureGroup, Failures
from doceval_pipeline.knowledge.outcomes import SIMULATED_SQL, has_outcome_sql

# Messages that differ only later are in one group.
MESSAGE_CHARACTERS = 2_000
# Messages over this size, in bytes, are compared by their beginning and a digest: they may have 16 MiB each.
_LONG = 4 * MESSAGE_CHARACTERS

# The varying parts of messages of the same failure: words with a digit (numbers, times, UUIDs, request ids)
# with their units, and names in quotes. Names in JSON and HTTP status codes say what failed, and stay. It
# works in PostgreSQL and Python alike, so no class of characters depends on a locale.
VARYING = (
    r"((?:HTTP(?:/[0-9.]+)?|http|[Ss]tatus|STATUS|[Cc]ode|CODE|[Ee]rror|ERROR)"
    r"[ :=(]{1,3}[45][0-9][0-9](?![0-9A-Za-z]))"
    r"|[0-9A-Za-z_-]*[0-9][0-9A-Za-z_.,:/+-]*"
    r"(?: (?:ms|s|min|h|milliseconds?|seconds?|minutes?|hours?|days?)(?![0-9A-Za-z]))?"
    + "".join(
        rf"|(?<![]0-9A-Za-z{{:,[])(?<![]{{:,[] ){quote}[^]{{}}:,\n{quote}[]+{quote}(?![]0-9A-Za-z}}:])"
        for quote in ("'", '"', "`")
    )
)
_BLANKS = r"E' \t\n\r\f\v'"
_FAILED = f"""
    SELECT r.batch_id, r.document_id, r.connection_id, r.prompt_id, {SIMULATED_SQL} AS simulated,
           CASE WHEN octet_length(r.error_message) > {_LONG} THEN long.message
                ELSE coalesce(btrim(r.error_message, {_BLANKS}), '') END AS message, long.characters
    FROM current_llm_responses AS r
    LEFT JOIN LATERAL (
        SELECT CASE WHEN length(trimmed) > {MESSAGE_CHARACTERS}
                    THEN left(trimmed, {MESSAGE_CHARACTERS}) || md5(trimmed) ELSE trimmed END AS message,
               length(trimmed) AS characters
        FROM (SELECT btrim(r.error_message, {_BLANKS}) AS trimmed
              WHERE octet_length(r.error_message) > {_LONG} OFFSET 0) AS whole
    ) AS long ON true
    WHERE r.batch_id = ANY(CAST(:batch_ids AS int[])) AND {has_outcome_sql(Outcome.FAILED)}
"""
_FAILURES = text(rf"""
    WITH failed AS MATERIALIZED ({_FAILED}),
    totals AS (
        SELECT batch_id, count(*) AS all_cells, count(*) FILTER (WHERE simulated) AS all_simulated
        FROM failed GROUP BY 1),
    messages AS (
        SELECT batch_id, message, characters, cells,
               row_number() OVER (PARTITION BY batch_id ORDER BY cells DESC, message COLLATE "C") AS place
        FROM (SELECT batch_id, message, max(characters) AS characters, count(*) AS cells
              FROM failed GROUP BY 1, 2) AS counted),
    compared AS MATERIALIZED (
        SELECT batch_id, message, characters, cells, place,
               regexp_replace(left(message, {MESSAGE_CHARACTERS}), CAST(:varying AS text), '\1#', 'g')
                   AS alike
        FROM messages WHERE CAST(:messages AS bigint) IS NULL OR place <= :messages),
    kinds AS (
        SELECT batch_id, alike, min(place) AS first, sum(cells) AS cells, count(*) AS variants
        FROM compared GROUP BY 1, 2),
    ranked AS (
        SELECT k.batch_id, k.alike, k.cells, k.variants, c.message, c.characters,
               row_number() OVER (of_batch ORDER BY k.cells DESC, c.message COLLATE "C") AS rank,
               count(*) OVER of_batch AS kinds, sum(k.cells) OVER of_batch AS grouped
        FROM kinds AS k JOIN compared AS c ON c.batch_id = k.batch_id AND c.place = k.first
        WINDOW of_batch AS (PARTITION BY k.batch_id)),
    shown AS MATERIALIZED (SELECT * FROM ranked WHERE rank <= :groups),
    members AS (
        SELECT c.batch_id, c.message, s.rank FROM compared AS c JOIN shown AS s USING (batch_id, alike)),
    details AS (
        SELECT batch_id, rank, count(*) FILTER (WHERE simulated) AS simulated,
               array_agg(DISTINCT failed.document_id) AS documents,
               array_agg(DISTINCT connection_id) AS connection_ids,
               array_agg(DISTINCT prompt_id) AS prompt_ids,
               count(DISTINCT failed.document_id) FILTER (WHERE docs.file_size > :large) AS too_large
        FROM failed JOIN members USING (batch_id, message) JOIN docs ON docs.id = failed.document_id
        GROUP BY 1, 2)
    SELECT batch_id, nullif(left(message, {MESSAGE_CHARACTERS}), '') AS message,
           coalesce(characters, length(message)) AS message_characters, s.cells::bigint AS cells, d.simulated,
           cardinality(d.documents) AS documents, d.documents[1:CAST(:names AS int)] AS document_ids,
           d.too_large, s.variants, d.connection_ids, d.prompt_ids, s.kinds, t.all_cells, t.all_simulated,
           s.grouped::bigint AS grouped
    FROM shown AS s JOIN details AS d USING (batch_id, rank) JOIN totals AS t USING (batch_id)
    ORDER BY batch_id, rank
""")


def group_failures(
    connection: Connection,
    batch_ids: Sequence[int],
    *,
    groups: int,
    names: int,
    messages: int | None = None,
) -> dict[int, Failures]:
    """The failed evaluations of each given batch, in one statement.

    Parameters
    ----------
    groups, names
        The highest number of groups of a batch, and of documents of each group.
    messages
        How many different messages of a batch are compared, the most frequent ones; None for all. A million
        take half a minute.
    """
    parameters = {
        "batch_ids": arrays.of_numbers(batch_ids),
        "groups": groups,
        "names": names,
        "messages": messages,
        "large": KNOWN_PROCESSOR_LIMIT_BYTES,
        "varying": VARYING,
    }
    by_batch: dict[int, list[Row[Any]]] = {batch_id: [] for batch_id in batch_ids}
    for row in connection.execute(_FAILURES, parameters):
        by_batch[row.batch_id].append(row)
    return {batch_id: _failures(rows) for batch_id, rows in by_batch.items()}


def _failures(rows: Sequence[Row[Any]]) -> Failures:
    if not rows:
        return Failures()
    first = rows[0]
    return Failures(
        groups=tuple(map(_group, rows)),
        kinds=first.kinds,
        cells=first.all_cells,
        simulated=first.all_simulated,
        ungrouped=first.all_cells - first.grouped,
    )


def _group(row: Row[Any]) -> FailureGroup:
    return FailureGroup(
        message=row.message,
        message_characters=row.message_characters,
        cells=row.cells,
        simulated=row.simulated,
        documents=row.documents,
        document_ids=tuple(row.document_ids),
        too_large=row.too_large,
        variants=row.variants,
        connection_ids=tuple(row.connection_ids),
        prompt_ids=tuple(row.prompt_ids),
    )
