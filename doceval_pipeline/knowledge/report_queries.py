"""Reads what a report says of a batch's results: sums, failures, changes, and the cells of some documents.

What is counted is counted here, in statements over all rows; of single rows no more is read than is
asked for. Everything reads `current_llm_responses`, where each cell stands once, with its highest attempt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from doceval_pipeline.knowledge.outcomes import OUTCOME_SQL, SIMULATED_SQL, Outcome, words_in_sql
from doceval_pipeline.knowledge.usage import SECONDS_SQL

# So many bins of the same width from 0 to 100; 100 itself is in the last.
HISTOGRAM_BINS = 10
# Characters of a message, which also tell messages apart for a person, and of a response.
MESSAGE_CHARACTERS = 2_000
RESPONSE_CHARACTERS = 2_000
# Read beyond them, so that a key on the border can be recognised before it is cut.
KEY_CHARACTERS = 1_000
TITLE_CHARACTERS = 300

_FAILED = f"status IN ({words_in_sql(Outcome.FAILED)})"
_SUCCEEDED = f"status IN ({words_in_sql(Outcome.SUCCEEDED)})"
_SIMULATED = SIMULATED_SQL
_MESSAGE = r"nullif(btrim(error_message, E' \t\n\r\f\v'), '')"

# Compared and not divided, which fails on the smallest scores.
_EDGES = f"{{{', '.join(str(100 * bin / HISTOGRAM_BINS) for bin in range(1, HISTOGRAM_BINS))}}}"
# Added up as numeric, whose sum does not depend on the order of the rows.
_TERMS = f"""
    SELECT connection_id, prompt_id, attempt, {OUTCOME_SQL} AS outcome, {_SIMULATED} AS simulated,
           CASE WHEN {_SUCCEEDED} THEN overall_score END AS score,
           CASE WHEN reused_from IS NULL THEN input_tokens END AS input_tokens,
           CASE WHEN reused_from IS NULL THEN output_tokens END AS output_tokens,
           CASE WHEN reused_from IS NULL THEN {SECONDS_SQL} END AS seconds, reused_from
    FROM current_llm_responses WHERE batch_id = :batch_id
"""
_PARTS = f"""
    SELECT connection_id, prompt_id, outcome,
           width_bucket(score, CAST('{_EDGES}' AS float8[])) AS bin,
           count(*) AS cells, count(*) FILTER (WHERE simulated) AS simulated,
           count(*) FILTER (WHERE attempt > 1) AS again, count(reused_from) AS reused,
           count(score) AS scored, sum(score::numeric) AS scores, min(score) AS least, max(score) AS most,
           count(input_tokens) AS input_cells, sum(input_tokens) AS input_tokens,
           count(output_tokens) AS output_cells, sum(output_tokens) AS output_tokens,
           count(seconds) AS timed, sum(seconds::numeric) AS seconds
    FROM ({_TERMS}) AS terms
    GROUP BY 1, 2, 3, 4
"""
_BINS = ", ".join(f"coalesce(sum(scored) FILTER (WHERE bin = {bin}), 0)" for bin in range(HISTOGRAM_BINS))
_SUMS = text(f"""
    SELECT connection_id, prompt_id,
           {", ".join(f"coalesce(sum(cells) FILTER (WHERE outcome = '{word}'), 0)" for word in Outcome)},
           {_BINS},
           coalesce(sum(scored), 0), sum(scores), min(least), max(most),
           coalesce(sum(input_cells), 0), sum(input_tokens),
           coalesce(sum(output_cells), 0), sum(output_tokens),
           coalesce(sum(timed), 0), sum(seconds), coalesce(sum(simulated), 0), coalesce(sum(again), 0),
           coalesce(sum(reused), 0)
    FROM ({_PARTS}) AS parts
    GROUP BY GROUPING SETS ((), (connection_id, prompt_id))
""")
# What differs between messages of the same failure: words with a digit in them (numbers, times, UUIDs, ids of
# requests) with their units, and names in quotes, but not those of JSON, which say what failed. A status of
# HTTP is kept. For PostgreSQL and Python alike, so without a class of characters that depends on a locale.
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
_FAILURES = text(rf"""
    WITH failed AS MATERIALIZED (
        SELECT coalesce({_MESSAGE}, '') AS message, r.document_id, {_SIMULATED} AS simulated,
               d.file_size > :large AS large
        FROM current_llm_responses AS r
        JOIN docs AS d ON d.id = r.document_id
        WHERE batch_id = :batch_id AND {_FAILED}),
    messages AS (
        SELECT message, cells,
               regexp_replace(left(message, {MESSAGE_CHARACTERS}), CAST(:varying AS text), '\1#', 'g')
                   AS alike
        FROM (SELECT message, count(*) AS cells FROM failed GROUP BY 1) AS counted),
    ranked AS (
        SELECT message, alike,
               row_number() OVER (PARTITION BY alike ORDER BY cells DESC, message COLLATE "C") AS place
        FROM messages),
    groups AS (
        SELECT nullif(min(message) FILTER (WHERE place = 1), '') AS message, max(place) AS variants,
               count(*) AS cells, count(*) FILTER (WHERE simulated) AS simulated,
               array_agg(DISTINCT document_id) AS documents,
               count(DISTINCT document_id) FILTER (WHERE large) AS too_large
        FROM failed JOIN ranked USING (message) GROUP BY alike)
    SELECT left(message, {MESSAGE_CHARACTERS}), coalesce(length(message), 0), cells, simulated,
           cardinality(documents), documents[1:CAST(:names AS int)], too_large, variants, count(*) OVER ()
    FROM groups ORDER BY cells DESC, message COLLATE "C" NULLS FIRST LIMIT :groups
""")
_CHANGES = text(f"""
    SELECT now.document_id, now.connection_id, now.prompt_id, now.attempt,
           {OUTCOME_SQL.replace("status", "before.status")}, before.overall_score,
           {OUTCOME_SQL.replace("status", "now.status")}, now.overall_score
    FROM current_llm_responses AS now
    JOIN llm_responses AS before USING (batch_id, document_id, prompt_id, connection_id)
    WHERE batch_id = :batch_id AND now.attempt > 1 AND before.attempt = now.attempt - 1
    ORDER BY 1, 2, 3 LIMIT :limit
""")
# Of documents with a cell that did not succeed: failed cells before cells that are not done.
_URGENT = text(f"""
    SELECT document_id FROM current_llm_responses WHERE batch_id = :batch_id AND NOT ({_SUCCEEDED})
    GROUP BY 1 ORDER BY bool_or({_FAILED}) DESC, 1 LIMIT :limit
""")
_UNLISTED = text("""
    SELECT document_id, count(*) OVER () FROM current_llm_responses
    WHERE batch_id = :batch_id
      AND (document_id IN (SELECT unnest(CAST(:listed AS bigint[])))) IS NOT TRUE
    GROUP BY 1 ORDER BY 1 LIMIT :limit
""")
_CELLS = text(f"""
    SELECT document_id, connection_id, prompt_id, {OUTCOME_SQL}, status, overall_score,
           left(error_message, {TITLE_CHARACTERS + 1}), {_SIMULATED}, id,
           {_SUCCEEDED} OR {_FAILED} OR error_message IS NOT NULL OR response_text IS NOT NULL,
           reused_batch_id
    FROM current_llm_responses
    JOIN unnest(CAST(:documents AS bigint[])) WITH ORDINALITY AS shown(document_id, place) USING (document_id)
    WHERE batch_id = :batch_id ORDER BY {_FAILED} DESC, place, connection_id, prompt_id
""")
_DETAILS = text(f"""
    SELECT id, attempt,
           left(error_message, {MESSAGE_CHARACTERS + KEY_CHARACTERS}), coalesce(length(error_message), 0),
           left(response_text, {RESPONSE_CHARACTERS + KEY_CHARACTERS}), coalesce(length(response_text), 0),
           input_tokens, output_tokens, {SECONDS_SQL}
    FROM current_llm_responses WHERE id = ANY(:ids)
""")


@dataclass(frozen=True, slots=True)
class ResultSums:
    """What current results add up to, of a column or of all (then its ids are None).

    Pairs are a sum and the number of cells that report the value; of scores, 0 to 100, only those of
    succeeded cells. `score_bins` are `HISTOGRAM_BINS` equal parts of 0 to 100. Seconds are the
    processor's. `reprocessed` cells have an earlier attempt. `reused` results come from another batch: they
    are in outcomes and scores, and never in tokens and seconds.
    """

    connection_id: int | None
    prompt_id: int | None
    outcomes: Mapping[str, int]
    score_bins: tuple[int, ...]
    scores: tuple[float, int]
    score_range: tuple[float, float] | None
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    seconds: tuple[float, int]
    simulated: int
    reprocessed: int
    reused: int


@dataclass(frozen=True, slots=True)
class FailedCells:
    """Failed cells whose messages are alike but for numbers, ids and names; see `VARYING`.

    `message` is the most frequent one as it came, cut to `MESSAGE_CHARACTERS`; None where they have none.
    It stands for `variants` different ones. `documents` are counted, `some` are the first of them;
    `too_large` have more bytes than was asked for.
    """

    message: str | None
    message_characters: int
    cells: int
    simulated: int
    documents: int
    some: tuple[int, ...]
    too_large: int
    variants: int


@dataclass(frozen=True, slots=True)
class ChangedCell:
    """A cell that was reprocessed: its outcome and score before, and now."""

    document_id: int
    connection_id: int
    prompt_id: int
    attempt: int
    outcome_before: str
    score_before: float | None
    outcome: str
    score: float | None


def add_up(connection: Connection, batch_id: int) -> list[ResultSums]:
    """The sums of each column that has rows, and those of all of them."""
    return [_sums(row) for row in connection.execute(_SUMS, {"batch_id": batch_id})]


def group_failures(
    connection: Connection, batch_id: int, groups: int, names: int, large: int
) -> tuple[list[FailedCells], int]:
    """The most frequent kinds of messages of failed cells, and how many kinds there are.

    Parameters
    ----------
    groups, names
        How many kinds, and how many documents of each, are asked for at most.
    large
        Documents of more bytes are counted in `too_large`.
    """
    parameters = {"groups": groups, "names": names, "large": large, "varying": VARYING}
    found = connection.execute(_FAILURES, {"batch_id": batch_id, **parameters}).all()
    return [
        FailedCells(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), row[6], row[7]) for row in found
    ], _counted(found)


def read_changes(connection: Connection, batch_id: int, limit: int) -> list[ChangedCell]:
    """The first cells that were reprocessed, by document."""
    found = connection.execute(_CHANGES, {"batch_id": batch_id, "limit": limit})
    return [ChangedCell(*row) for row in found]


def urgent_documents(connection: Connection, batch_id: int, limit: int) -> list[int]:
    """Documents with cells that failed, then those with cells that are not done."""
    return list(connection.scalars(_URGENT, {"batch_id": batch_id, "limit": limit}))


def unlisted_documents(
    connection: Connection, batch_id: int, listed: Sequence[int], limit: int
) -> tuple[list[int], int]:
    """The first documents that have rows and are not listed, and how many there are."""
    parameters = {"batch_id": batch_id, "listed": list(listed), "limit": limit}
    found = connection.execute(_UNLISTED, parameters).all()
    return [row[0] for row in found], _counted(found)


def read_cells(connection: Connection, batch_id: int, documents: Sequence[int]) -> Sequence[Row[Any]]:
    """The current results of some documents, as they are told in a line.

    Returns rows of document, connection, prompt, outcome, status word, score, beginning of the message,
    whether the result is simulated, the number of the row, whether it has more to say, and the batch that
    its result was reused from; those that failed first, then in the order of the documents.
    """
    return connection.execute(_CELLS, {"batch_id": batch_id, "documents": list(documents)}).all()


def read_details(connection: Connection, ids: Sequence[int]) -> Sequence[Row[Any]]:
    """All that some rows say.

    Returns rows of number, attempt, message and its length, response and its length, input tokens,
    output tokens, and seconds. Texts are cut, but `KEY_CHARACTERS` later than they are shown; lengths are in
    characters.
    """
    return connection.execute(_DETAILS, {"ids": list(ids)}).all()


def _sums(row: Row[Any]) -> ResultSums:
    values = iter(row)
    connection_id, prompt_id = next(values), next(values)
    outcomes = {str(word): int(next(values)) for word in Outcome}
    bins = tuple(int(next(values)) for _ in range(HISTOGRAM_BINS))
    scored, scores, least, most, *rest = values
    return ResultSums(
        connection_id=connection_id,
        prompt_id=prompt_id,
        outcomes=outcomes,
        score_bins=bins,
        scores=(float(scores or 0), int(scored)),
        score_range=None if least is None else (least, most),
        input_tokens=(int(rest[1] or 0), int(rest[0])),
        output_tokens=(int(rest[3] or 0), int(rest[2])),
        seconds=(float(rest[5] or 0), int(rest[4])),
        simulated=int(rest[6]),
        reprocessed=int(rest[7]),
        reused=int(rest[8]),
    )


def _counted(found: Sequence[Row[Any]]) -> int:
    """The number of all rows, which a window function put at the end of each."""
    return found[0][-1] if found else 0
