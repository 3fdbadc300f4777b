"""Invariants of the queue: each cell of a batch has its rows, and no row is there without a reason."""

from sqlalchemy import text

from doceval_pipeline.batches.invariants.invariant import (
    HAS_CELLS,
    IS_ASKED_FOR,
    ROW_IS_ASKED_FOR,
    Invariant,
    Side,
)

_SEALED_CELLS = """
    json_array_length(b.config_snapshot -> 'connections') * json_array_length(b.config_snapshot -> 'prompts')
"""
_OTHER_EXPECTATION = text(f"""
    SELECT b.id AS batch_id, 'expected_cells' AS thing,
           format('it is %s, and %s contents x %s connections and prompts are %s', b.expected_cells,
                  staged.contents, {_SEALED_CELLS}, staged.contents * {_SEALED_CELLS}) AS wrong
    FROM batches b
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT f.knowledge_document_id) AS contents FROM batch_documents f
        WHERE f.batch_id = b.id AND f.state = 'STAGED') AS staged
    WHERE {HAS_CELLS} AND {IS_ASKED_FOR}
      AND b.expected_cells IS DISTINCT FROM staged.contents * {_SEALED_CELLS}
    ORDER BY b.id
""")
_STAGED_CONTENTS = text(f"""
    WITH sealed AS MATERIALIZED (
        SELECT b.id AS batch_id, {_SEALED_CELLS} AS cells FROM batches b WHERE {HAS_CELLS} AND {IS_ASKED_FOR})
    SELECT DISTINCT sealed.batch_id, f.knowledge_document_id AS document_id, sealed.cells
    FROM batch_documents f JOIN sealed ON sealed.batch_id = f.batch_id
    WHERE f.state = 'STAGED'
    ORDER BY 1, 2
""")
# Added up, because a join with rows that PostgreSQL has not counted yet may compare each with each.
_INCOMPLETE_CONTENTS = text("""
    SELECT batch_id, 'docs.id ' || document_id AS thing,
           format('%s of %s cells have a current row', sum(rows), sum(cells)) AS wrong
    FROM (
        SELECT h.batch_id, h.document_id, h.cells, 0 AS rows
        FROM unnest(CAST(:batch_id AS int[]), CAST(:document_id AS bigint[]), CAST(:cells AS int[]))
            AS h(batch_id, document_id, cells)
        UNION ALL
        SELECT r.batch_id, r.document_id, 0, 1 FROM current_llm_responses r
        WHERE r.batch_id BETWEEN :first_batch_id AND :last_batch_id
          AND (r.batch_id, r.document_id) >= (:first_batch_id, :first_document_id)
          AND (r.batch_id, r.document_id) <= (:last_batch_id, :last_document_id)) AS both_sides
    GROUP BY batch_id, document_id HAVING sum(cells) > 0 AND sum(cells) <> sum(rows)
    ORDER BY batch_id, document_id
""")
_NO_CONTENT = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('docs has no id %s', r.document_id) AS wrong
    FROM llm_responses r LEFT JOIN docs d ON d.id = r.document_id
    WHERE d.id IS NULL AND {ROW_IS_ASKED_FOR}
    ORDER BY r.batch_id, r.id
""")
_QUEUED_CONTENTS = text(f"""
    SELECT r.batch_id, r.document_id FROM current_llm_responses r WHERE {ROW_IS_ASKED_FOR}
    GROUP BY r.batch_id, r.document_id ORDER BY r.batch_id, r.document_id
""")
_CONTENT_OF_ANOTHER = text(f"""
    SELECT strange.batch_id, 'docs.id ' || strange.document_id AS thing,
           'it has current rows, and is no content of the batch' AS wrong
    FROM (
        SELECT h.batch_id, h.document_id
        FROM unnest(CAST(:batch_id AS int[]), CAST(:document_id AS bigint[])) AS h(batch_id, document_id)
        EXCEPT
        SELECT f.batch_id, f.knowledge_document_id FROM batch_documents f
        WHERE f.batch_id BETWEEN :first_batch_id AND :last_batch_id AND f.state = 'STAGED') AS strange
    JOIN batches b ON b.id = strange.batch_id
    WHERE {HAS_CELLS}
    ORDER BY strange.batch_id, strange.document_id
""")
_QUEUED_BATCHES = text("SELECT batch_id, count(*) AS rows FROM llm_responses GROUP BY 1 ORDER BY 1")
_UNKNOWN_BATCH = text("""
    SELECT h.batch_id, 'llm_responses' AS thing,
           format('%s rows of a batch that doc_eval does not know', h.rows) AS wrong
    FROM unnest(CAST(:batch_id AS int[]), CAST(:rows AS bigint[])) AS h(batch_id, rows)
    WHERE NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = h.batch_id)
    ORDER BY h.batch_id
""")
_SEALED_CONNECTIONS = """
    SELECT c.batch_id, (member ->> 'id')::int AS connection_id, member AS details
    FROM batch_configs c CROSS JOIN jsonb_array_elements(c.config -> 'connections') AS member
"""
_NOT_CHOSEN = text("""
    SELECT r.batch_id, format('prompt %s and connection %s', r.prompt_id, r.connection_id) AS thing,
           format('%s rows, and the sealed configuration has no such pair', r.rows) AS wrong
    FROM (SELECT batch_id, prompt_id, connection_id, count(*) AS rows FROM llm_responses
          GROUP BY batch_id, prompt_id, connection_id) AS r
    JOIN batch_configs c ON c.batch_id = r.batch_id
    WHERE NOT coalesce(c.config -> 'prompts' @> jsonb_build_array(jsonb_build_object('id', r.prompt_id))
                       AND c.config -> 'connections'
                           @> jsonb_build_array(jsonb_build_object('id', r.connection_id)), false)
    ORDER BY r.batch_id, r.prompt_id, r.connection_id
""")
_OTHER_DETAILS = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('connection_details are not those that were sealed of connection %s', r.connection_id)
               AS wrong
    FROM llm_responses r JOIN ({_SEALED_CONNECTIONS}) AS sealed USING (batch_id, connection_id)
    WHERE r.connection_details <> sealed.details
    ORDER BY r.batch_id, r.id
""")
# That no attempt stands twice is a constraint; so their number is the highest one where none is missing.
# A cell whose only row is a first attempt, and current, is in order, and is not looked at.
_DISORDERED_ATTEMPTS = text("""
    SELECT batch_id, format('document %s, prompt %s, connection %s', document_id, prompt_id, connection_id)
               AS thing,
           format('%s rows, attempts up to %s, current: %s', count(*), max(attempt),
                  coalesce(string_agg(attempt::text, ', ' ORDER BY attempt)
                               FILTER (WHERE superseded_at IS NULL), 'none')) AS wrong
    FROM llm_responses
    WHERE (document_id, batch_id, prompt_id, connection_id) IN (
        SELECT document_id, batch_id, prompt_id, connection_id FROM llm_responses
        WHERE attempt > 1 OR superseded_at IS NOT NULL)
    GROUP BY batch_id, document_id, prompt_id, connection_id
    HAVING count(*) <> max(attempt) OR count(*) FILTER (WHERE superseded_at IS NULL) <> 1
        OR max(attempt) FILTER (WHERE superseded_at IS NULL) <> max(attempt)
    ORDER BY batch_id, document_id, prompt_id, connection_id
""")
_MISCOUNTED = text("""
    WITH counted AS (
        SELECT batch_id, response_outcome(status) AS outcome, count(*) AS cells
        FROM current_llm_responses GROUP BY 1, 2
        UNION ALL
        SELECT batch_id, 'reused', count(*) FROM current_llm_responses
        WHERE reused_from IS NOT NULL GROUP BY 1),
    kept AS (
        SELECT batch_id, outcome, sum(cells) AS cells
        FROM (SELECT batch_id, waiting, running, paused, succeeded, failed, unknown, reused
              FROM response_counts
              UNION ALL
              SELECT batch_id, waiting, running, paused, succeeded, failed, unknown, reused
              FROM response_deltas) AS c,
             LATERAL (VALUES ('waiting', waiting), ('running', running), ('paused', paused),
                             ('succeeded', succeeded), ('failed', failed), ('unknown', unknown),
                             ('reused', reused))
                 AS v(outcome, cells)
        GROUP BY 1, 2)
    SELECT batch_id, outcome || ' cells' AS thing,
           format('%s are kept in response_counts, and %s counted from the rows', coalesce(kept.cells, 0),
                  coalesce(counted.cells, 0)) AS wrong
    FROM counted FULL JOIN kept USING (batch_id, outcome)
    WHERE coalesce(counted.cells, 0) <> coalesce(kept.cells, 0)
    ORDER BY batch_id, outcome
""")
_OTHER_THAN_ORIGIN = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS thing,
           format('llm_responses.id %s, whose result it is, has another %s', o.id,
                  CASE WHEN o.document_id <> r.document_id THEN 'document'
                       WHEN asked.digest <> answered.digest THEN 'question' ELSE 'score' END) AS wrong
    FROM llm_responses r
    JOIN llm_responses o ON (o.id, o.batch_id) = (r.reused_from, r.reused_batch_id)
    LEFT JOIN batch_questions asked ON (asked.batch_id, asked.prompt_id, asked.connection_id)
                                     = (r.batch_id, r.prompt_id, r.connection_id)
    LEFT JOIN batch_questions answered ON (answered.batch_id, answered.prompt_id, answered.connection_id)
                                        = (o.batch_id, o.prompt_id, o.connection_id)
    WHERE r.reused_from IS NOT NULL AND {ROW_IS_ASKED_FOR}
      AND (o.document_id <> r.document_id OR asked.digest <> answered.digest
           OR o.overall_score IS DISTINCT FROM r.overall_score)
    ORDER BY r.batch_id, r.id
""")
_PUBLISHED_BATCHES = text(f"""
    SELECT b.id AS batch_id, b.is_foreign FROM batches b WHERE {HAS_CELLS} AND {IS_ASKED_FOR} ORDER BY b.id
""")
_OTHER_QUESTIONS = text("""
    SELECT h.batch_id, 'batch_questions' AS thing,
           CASE WHEN h.is_foreign THEN format('%s are noted, and it came from elsewhere', counted.noted)
                ELSE format('%s are noted, and %s of them are its own %s', counted.noted, counted.same,
                            counted.asked)
           END AS wrong
    FROM unnest(CAST(:batch_id AS int[]), CAST(:is_foreign AS boolean[])) AS h(batch_id, is_foreign)
    JOIN batch_configs c ON c.batch_id = h.batch_id
    CROSS JOIN LATERAL (
        SELECT count(asked.digest) AS asked, count(noted.digest) AS noted,
               count(*) FILTER (WHERE asked.digest = noted.digest) AS same
        FROM (SELECT * FROM questions_of(c.config) WHERE NOT h.is_foreign) AS asked
        FULL JOIN (SELECT * FROM batch_questions q WHERE q.batch_id = c.batch_id) AS noted
            USING (prompt_id, connection_id)) AS counted
    WHERE counted.same <> greatest(counted.asked, counted.noted)
    ORDER BY h.batch_id
""")
CELLS_ARE_EXPECTED = Invariant(
    name="cells-are-expected",
    must_hold="a batch expects contents x connections x prompts cells",
    runs_in=(Side.DOC_EVAL,),
    query=_OTHER_EXPECTATION,
    mend="doceval stage {batch_id} counts anew",
)
CELLS_ARE_COMPLETE = Invariant(
    name="cells-are-complete",
    must_hold="every cell has exactly one current row",
    runs_in=(Side.KNOWLEDGE,),
    handed=_STAGED_CONTENTS,
    query=_INCOMPLETE_CONTENTS,
    mend="doceval stage {batch_id} adds what is missing",
)
ROWS_HAVE_CONTENT = Invariant(
    name="rows-have-content",
    must_hold="every queue row has a stored content",
    runs_in=(Side.KNOWLEDGE,),
    query=_NO_CONTENT,
    mend="restore docs from a backup; the foreign key of llm_responses was bypassed",
)
ROWS_ARE_OF_THE_BATCH = Invariant(
    name="rows-are-of-the-batch",
    must_hold="every queue row has a document of its batch",
    runs_in=(Side.DOC_EVAL,),
    handed=_QUEUED_CONTENTS,
    query=_CONTENT_OF_ANOTHER,
    mend="doceval stage {batch_id} sets such rows aside; find out which program wrote them",
)
ROWS_ARE_OF_THE_CHOICE = Invariant(
    name="rows-are-of-the-choice",
    must_hold="every queue row is for a prompt and a connection that its batch selects",
    runs_in=(Side.KNOWLEDGE,),
    query=_NOT_CHOSEN,
    mend="find out which program wrote these rows, and delete them",
)
ROWS_ARE_OF_A_BATCH = Invariant(
    name="rows-are-of-a-batch",
    must_hold="every queue row belongs to a batch",
    runs_in=(Side.DOC_EVAL,),
    handed=_QUEUED_BATCHES,
    query=_UNKNOWN_BATCH,
    mend="find out which program wrote them; KnowledgeDocuments may belong to another doc_eval",
)
DETAILS_ARE_SEALED = Invariant(
    name="details-are-sealed",
    must_hold="every queue row has the connection details that were sealed",
    runs_in=(Side.KNOWLEDGE,),
    query=_OTHER_DETAILS,
    mend="find out which program changed them, and put back what batch_configs says: new attempts copy it",
)
ATTEMPTS_ARE_IN_ORDER = Invariant(
    name="attempts-are-in-order",
    must_hold="attempts of a cell are numbered without a gap, and only the highest is current",
    runs_in=(Side.KNOWLEDGE,),
    query=_DISORDERED_ATTEMPTS,
    mend="SELECT recount_responses({batch_id}) in KnowledgeDocuments makes the highest current; a gap stays "
    "until the missing attempt is restored from a backup",
)
COUNTS_ARE_KEPT = Invariant(
    name="counts-are-kept",
    must_hold="the counts that are kept of a batch are those of its rows",
    runs_in=(Side.KNOWLEDGE,),
    query=_MISCOUNTED,
    mend="SELECT recount_responses({batch_id}) in KnowledgeDocuments; somebody wrote around its triggers",
)
REUSED_IS_ITS_ORIGIN = Invariant(
    name="reused-is-its-origin",
    must_hold="a reused result is the result of the same question about the same document",
    runs_in=(Side.KNOWLEDGE,),
    query=_OTHER_THAN_ORIGIN,
    mend="find out which program changed either row; doceval reprocess {batch_id} --all asks again",
)
QUESTIONS_ARE_NOTED = Invariant(
    name="questions-are-noted",
    must_hold="batch_questions holds the questions of each batch that was made here, and of no other",
    runs_in=(Side.KNOWLEDGE,),
    handed=_PUBLISHED_BATCHES,
    query=_OTHER_QUESTIONS,
    mend="as the owner of KnowledgeDocuments, DELETE FROM batch_questions WHERE batch_id = {batch_id}, and "
    "for a batch that was made here INSERT INTO batch_questions SELECT batch_id, q.* FROM batch_configs, "
    "questions_of(config) AS q WHERE batch_id = {batch_id}",
)
INVARIANTS = (
    CELLS_ARE_EXPECTED,
    CELLS_ARE_COMPLETE,
    ROWS_HAVE_CONTENT,
    ROWS_ARE_OF_THE_BATCH,
    ROWS_ARE_OF_THE_CHOICE,
    ROWS_ARE_OF_A_BATCH,
    DETAILS_ARE_SEALED,
    ATTEMPTS_ARE_IN_ORDER,
    COUNTS_ARE_KEPT,
    REUSED_IS_ITS_ORIGIN,
    QUESTIONS_ARE_NOTED,
)
