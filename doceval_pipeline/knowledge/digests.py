"""Digests of rows, computed by PostgreSQL: equal rows have equal digests, in any order. Writes nothing."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from sqlalchemy import Connection, text

from doceval_pipeline.knowledge.outcomes import outcome_sql


def digest_sql(row: str) -> str:
    """An SQL aggregate over `row`, an expression of type text.

    A sum of digests does not depend on the order of rows and needs no memory for them. Fifteen hex
    digits fit a bigint.
    """
    sha256 = f"encode(sha256(convert_to({row}, 'UTF8')), 'hex')"
    return f"coalesce(sum(('x' || left({sha256}, 15))::bit(60)::bigint), 0)"


_SHOWN = f"""
    ROW(document_id, prompt_id, connection_id, attempt, {outcome_sql()}, overall_score, error_message,
        response_text, input_tokens, output_tokens, time_taken_seconds)::text
"""
# An SQL aggregate over current_llm_responses: a short digest of everything that a report shows of results.
RESULT_DIGEST = f"""
    left(encode(sha256(convert_to(count(*) || ':' || {digest_sql(_SHOWN)}, 'UTF8')), 'hex'), 16)
"""
_DIGEST_OF_NONE = hashlib.sha256(b"0:0").hexdigest()[:16]
_DIGESTS = text(f"""
    SELECT batch_id, {RESULT_DIGEST} AS digest FROM current_llm_responses
    WHERE batch_id = ANY(:batch_ids) GROUP BY batch_id
""")
_DIGEST = f"SELECT {RESULT_DIGEST} FROM current_llm_responses WHERE batch_id = %s"


def digest(connection: Connection, batch_id: int) -> str:
    """A short digest of everything that a report shows of a batch's results."""
    return digests(connection, [batch_id])[batch_id]


@contextmanager
def digest_meanwhile(connection: Connection, batch_id: int) -> Iterator[Callable[[], str]]:
    """A function that waits for the `digest`, which PostgreSQL computes while the caller works on.

    Other statements on the connection wait for it, in the order in which they are sent. Half of the time that
    PostgreSQL takes for a report is for its digest.
    """
    cursor = connection.connection.cursor()

    def computed() -> str:
        cursor.execute(_DIGEST, (batch_id,))
        ((found,),) = cursor.fetchall()
        return str(found)

    with closing(cursor), ThreadPoolExecutor(1) as executor:
        yield executor.submit(computed).result


def digests(connection: Connection, batch_ids: Sequence[int]) -> dict[int, str]:
    """The digests of several batches, in one statement."""
    rows = connection.execute(_DIGESTS, {"batch_ids": list(batch_ids)})
    return dict.fromkeys(batch_ids, _DIGEST_OF_NONE) | {row.batch_id: row.digest for row in rows}
