"""Adds up the current results of the batches of a series, by batch and by question. Changes nothing.

A reused result counts as a score, but not as new evidence, time or tokens.
"""

from collections.abc import (
    Sequence,
)
from dataclasses import (
    dataclass,
)

from sqlalchemy import (
    Connection,
    text,
)

from doceval_pipeline import (
    arrays,
)
from doceval_pipeline.domain.evaluations import (
    Outcome,
)
from doceval_pipeline.domain.usage import (
    TokenUsage,
)
from doceval_pipeline.knowledge.outcomes import (
    SIMULATED_SQL,
    valid_score_sql,
    words_in_sql,
)
from doceval_pipeline.knowledge.usage import (
    SECONDS_SQL,
)

_SUCCEEDED = f"status IN ({words_in_sql(Outcome.SUCCEEDED)})"
_FAILED = f"status IN ({words_in_sql(Outcome.FAILED)})"
_SCORE = valid_score_sql()
# One pass over all rows; who reads adds up what belongs together. Sums are numeric, which do not depend on
# the order of the rows.
_ADD_UP = text(f"""
    SELECT batch_id, connection_id, prompt_id, reused_from IS NOT NULL AS reused,
           input_tokens IS NOT NULL AS has_input, output_tokens IS NOT NULL AS has_output, count(*) AS cells,
           count(*) FILTER (WHERE {_SUCCEEDED}) AS succeeded, count(*) FILTER (WHERE {_FAILED}) AS failed,
           count(*) FILTER (WHERE {SIMULATED_SQL}) AS simulated, count({_SCORE}) AS scored,
           coalesce(sum(({_SCORE})::numeric), 0)::float8 AS scores,
           sum(({SECONDS_SQL})::numeric)::float8 AS seconds,
           coalesce(sum(input_tokens) FILTER (WHERE {_SUCCEEDED} OR {_FAILED}), 0) AS input_tokens,
           coalesce(sum(output_tokens) FILTER (WHERE {_SUCCEEDED} OR {_FAILED}), 0) AS output_tokens
    FROM current_llm_responses WHERE batch_id = ANY(CAST(:batch_ids AS int[]))
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
""")
# Each result beside the newest earlier one of the same question and document in the series. Scores are
# counted by whole points, so that a row is one of 101 however many results there are.
_EVIDENCE = text(f"""
    WITH occurrence AS MATERIALIZED (
        SELECT batch_id, place FROM unnest(CAST(:batch_ids AS int[])) WITH ORDINALITY AS o(batch_id, place)),
    question AS MATERIALIZED (
        SELECT o.batch_id, o.place, q.connection_id, q.prompt_id,
               dense_rank() OVER (ORDER BY q.digest)::int AS question
        FROM occurrence o JOIN batch_questions q ON q.batch_id = o.batch_id),
    score AS (
        SELECT q.batch_id, q.place, q.connection_id, q.prompt_id, q.question, r.document_id,
               ({valid_score_sql("r.")})::numeric
                   AS score
        FROM question q JOIN current_llm_responses r
            ON r.batch_id = q.batch_id AND r.connection_id = q.connection_id AND r.prompt_id = q.prompt_id
        WHERE r.reused_from IS NULL),
    beside AS (
        SELECT batch_id, connection_id, prompt_id, question, score,
               lag(score) OVER (PARTITION BY document_id, connection_id, prompt_id, question ORDER BY place)
                   AS earlier
        FROM score WHERE score IS NOT NULL)
    SELECT batch_id, connection_id, prompt_id, question, round(score)::int AS points,
           count(*) AS asked, sum(score)::float8 AS asked_total,
           count(*) FILTER (WHERE earlier IS NULL) AS new,
           coalesce(sum(score) FILTER (WHERE earlier IS NULL), 0)::float8 AS new_total,
           count(earlier) AS pairs, coalesce(sum(score - earlier), 0)::float8 AS moved,
           coalesce(sum((score - earlier) * (score - earlier)), 0)::float8 AS moved_squared
    FROM beside GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
""")
_SCORES_OF_CHANGES = text(f"""
    WITH change AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:batches_before AS int[]), CAST(:documents_before AS bigint[]),
                             CAST(:batches AS int[]), CAST(:documents AS bigint[])) WITH ORDINALITY
            AS c(batch_before, document_before, batch_id, document_id, place))
    SELECT c.place::int - 1, now.connection_id, now.prompt_id, before.score, now.score,
           before.digest IS DISTINCT FROM now.digest
    FROM change c
    JOIN LATERAL (
        SELECT r.connection_id, r.prompt_id, q.digest, {_SCORE} AS score
        FROM current_llm_responses r LEFT JOIN batch_questions q USING (batch_id, connection_id, prompt_id)
        WHERE r.batch_id = c.batch_id AND r.document_id = c.document_id) AS now ON true
    JOIN LATERAL (
        SELECT q.digest, {_SCORE} AS score
        FROM current_llm_responses r LEFT JOIN batch_questions q USING (batch_id, connection_id, prompt_id)
        WHERE r.batch_id = c.batch_before AND r.document_id = c.document_before
          AND r.connection_id = now.connection_id AND r.prompt_id = now.prompt_id) AS before ON true
    ORDER BY c.place, now.connection_id, now.prompt_id
""")


@dataclass(frozen=True, slots=True)
class PartOfColumn:
    """What came back for a prompt and a connection in a batch, apart by what is known of its results.

    `reused` are those of another batch; `has_input` and `has_output` say how many tokens they took. `scores`
    is the sum of the `scored`; seconds are the processor's, None of none.
    """

    batch_id: int
    connection_id: int
    prompt_id: int
    reused: bool
    has_input: bool
    has_output: bool
    cells: int
    succeeded: int
    failed: int
    simulated: int
    scored: int
    scores: float
    seconds: float | None
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> TokenUsage | None:
        """The tokens of what was asked and came back; a reused result took none."""
        finished = self.succeeded + self.failed
        if self.reused or not finished:
            return None
        return TokenUsage(
            self.connection_id,
            self.has_input,
            self.has_output,
            finished,
            int(self.input_tokens),
            int(self.output_tokens),
        )


@dataclass(frozen=True, slots=True)
class PointsOfColumn:
    """Results of a batch, a prompt and a connection that round to the same whole points, without reused ones.

    `question` numbers what is asked within this answer. `new` are of documents without an earlier result of
    the same question in the series, `pairs` of the others; `moved` sums up score minus earlier score.
    """

    batch_id: int
    connection_id: int
    prompt_id: int
    question: int
    points: int
    asked: int
    asked_total: float
    new: int
    new_total: float
    pairs: int
    moved: float
    moved_squared: float


@dataclass(frozen=True, slots=True)
class ChangedScore:
    """The scores of a document before and after its content changed; `place` is that of the change asked for.

    `is_other_question` where the prompt text or the connection changed, too.
    """

    place: int
    connection_id: int
    prompt_id: int
    before: float | None
    after: float | None
    is_other_question: bool


def add_up_series(connection: Connection, batch_ids: Sequence[int]) -> list[PartOfColumn]:
    """All results of some batches, added up."""
    rows = connection.execute(_ADD_UP, {"batch_ids": arrays.of_numbers(batch_ids)})
    return [PartOfColumn(*row) for row in rows]


def evidence_of_series(connection: Connection, batch_ids: Sequence[int]) -> list[PointsOfColumn]:
    """Scores that were asked for, beside earlier ones of the same question and document.

    Parameters
    ----------
    batch_ids
        In the order of the series, oldest first.
    """
    rows = connection.execute(_EVIDENCE, {"batch_ids": arrays.of_numbers(batch_ids)})
    return [PointsOfColumn(*row) for row in rows]


def scores_of_changes(
    connection: Connection, changes: Sequence[tuple[int, int, int, int]]
) -> list[ChangedScore]:
    """The scores of changed documents in every column that both batches have.

    Parameters
    ----------
    changes
        Batch and `docs.id` before, batch and `docs.id` after.
    """
    names = ("batches_before", "documents_before", "batches", "documents")
    numbers = zip(*changes, strict=True) if changes else [()] * len(names)
    values = {name: arrays.of_numbers(own) for name, own in zip(names, numbers, strict=True)}
    return [ChangedScore(*row) for row in connection.execute(_SCORES_OF_CHANGES, values)]
