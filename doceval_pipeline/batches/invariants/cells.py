"""Invariants of the queue: every evaluation of a batch has its rows, and every row belongs to one."""

from sqlalchemy import text

from doceval_pipeline.batches.invariants.invariant import (
    BATCH_IN_SCOPE,
    HAS_CELLS,
    ROW_IN_SCOPE,
    Database,
    Invariant,
)

_SEALED_CELLS = """
    json_array_length(b.config_snapshot -> 'connections') * json_array_length(b.config_snapshot -> 'prompts')
"""
_OTHER_EXPECTATION = text(f"""
    SELECT b.id AS batch_id, 'expected_cells' AS subject,
           format('it is %s, but %s documents x %s connections and prompts make %s', b.expected_cells,
                  staged.contents, {_SEALED_CELLS}, staged.contents * {_SEALED_CELLS}) AS problem
    FROM batches b
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT f.knowledge_document_id) AS contents FROM batch_documents f
        WHERE f.batch_id = b.id AND f.state = 'STAGED') AS staged
    WHERE {HAS_CELLS} AND {BATCH_IN_SCOPE}
      AND b.expected_cells IS DISTINCT FROM staged.contents * {_SEALED_CELLS}
    ORDER BY b.id
""")
_STAGED_CONTENTS = text(f"""
    WITH sealed AS MATERIALIZED (
        SELECT b.id AS batch_id, {_SEALED_CELLS} AS cells
        FROM batches b WHERE {HAS_CELLS} AND {BATCH_IN_SCOPE})
    SELECT DISTINCT sealed.batch_id, f.knowledge_document_id AS document_id, sealed.cells
    FROM batch_documents f JOIN sealed ON sealed.batch_id = f.batch_id
    WHERE f.state = 'STAGED'
    ORDER BY 1, 2
""")
# Summed, because PostgreSQL may choose a nested loop for a join with rows that are not analyzed yet.
_INCOMPLETE_CONTENTS = text("""
    SELECT batch_id, 'docs.id ' || document_id AS subject,
           format('%s of %s evaluations have a current row', sum(rows), sum(cells)) AS problem
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
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('docs has no row with id %s', r.document_id) AS problem
    FROM llm_responses r LEFT JOIN docs d ON d.id = r.document_id
    WHERE d.id IS NULL AND {ROW_IN_SCOPE}
    ORDER BY r.batch_id, r.id
""")
_QUEUED_CONTENTS = text(f"""
    SELECT r.batch_id, r.document_id FROM current_llm_responses r WHERE {ROW_IN_SCOPE}
    GROUP BY r.batch_id, r.document_id ORDER BY r.batch_id, r.document_id
""")
_CONTENT_OF_ANOTHER = text(f"""
    SELECT strange.batch_id, 'docs.id ' || strange.document_id AS subject,
           'it has current rows but does not belong to the batch' AS problem
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
    SELECT h.batch_id, 'llm_responses' AS subject,
           format('%s rows of a batch that does not exist in doc_eval', h.rows) AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:rows AS bigint[])) AS h(batch_id, rows)
    WHERE NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = h.batch_id)
    ORDER BY h.batch_id
""")
_SEALED_CONNECTIONS = """
    SELECT c.batch_id, (member ->> 'id')::int AS connection_id, member AS details
    FROM batch_configs c CROSS JOIN jsonb_array_elements(c.config -> 'connections') AS member
"""
_NOT_CHOSEN = text("""
    SELECT r.batch_id, format('prompt %s and connection %s', r.prompt_id, r.connection_id) AS subject,
           format('%s rows, but the sealed configuration has no such pair', r.rows) AS problem
    FROM (SELECT batch_id, prompt_id, connection_id, count(*) AS rows FROM llm_responses
          GROUP BY batch_id, prompt_id, connection_id) AS r
    JOIN batch_configs c ON c.batch_id = r.batch_id
    WHERE NOT coalesce(c.config -> 'prompts' @> jsonb_build_array(jsonb_build_object('id', r.prompt_id))
                       AND c.config -> 'connections'
                           @> jsonb_build_array(jsonb_build_object('id', r.connection_id)), false)
    ORDER BY r.batch_id, r.prompt_id, r.connection_id
""")
_OTHER_DETAILS = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('connection_details differ from the sealed details of connection %s', r.connection_id)
               AS problem
    FROM llm_responses r JOIN ({_SEALED_CONNECTIONS}) AS sealed USING (batch_id, connection_id)
    WHERE r.connection_details <> sealed.details
    ORDER BY r.batch_id, r.id
""")
# Attempts are unique by a constraint, so without a gap their count equals the highest number. An evaluation
# whose only row is a current first attempt is in order and is skipped.
_DISORDERED_ATTEMPTS = text("""
    SELECT batch_id, format('document %s, prompt %s, connection %s', document_id, prompt_id, connection_id)
               AS subject,
           format('%s rows, attempts up to %s, current: %s', count(*), max(attempt),
                  coalesce(string_agg(attempt::text, ', ' ORDER BY attempt)
                               FILTER (WHERE superseded_at IS NULL), 'none')) AS problem
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
    SELECT batch_id, outcome || ' evaluations' AS subject,
           format('response_counts has %s, and the rows add up to %s', coalesce(kept.cells, 0),
                  coalesce(counted.cells, 0)) AS problem
    FROM counted FULL JOIN kept USING (batch_id, outcome)
    WHERE coalesce(counted.cells, 0) <> coalesce(kept.cells, 0)
    ORDER BY batch_id, outcome
""")
_OTHER_THAN_ORIGIN = text(f"""
    SELECT r.batch_id, 'llm_responses.id ' || r.id AS subject,
           format('its result comes from llm_responses.id %s, which has another %s', o.id,
                  CASE WHEN o.document_id <> r.document_id THEN 'document'
                       WHEN asked.digest <> answered.digest THEN 'question' ELSE 'score' END) AS problem
    FROM llm_responses r
    JOIN llm_responses o ON (o.id, o.batch_id) = (r.reused_from, r.reused_batch_id)
    LEFT JOIN batch_questions asked ON (asked.batch_id, asked.prompt_id, asked.connection_id)
                                     = (r.batch_id, r.prompt_id, r.connection_id)
    LEFT JOIN batch_questions answered ON (answered.batch_id, answered.prompt_id, answered.connection_id)
                                        = (o.batch_id, o.prompt_id, o.connection_id)
    WHERE r.reused_from IS NOT NULL AND {ROW_IN_SCOPE}
      AND (o.document_id <> r.document_id OR asked.digest <> answered.digest
           OR o.overall_score IS DISTINCT FROM r.overall_score)
    ORDER BY r.batch_id, r.id
""")
_PUBLISHED_BATCHES = text(f"""
    SELECT b.id AS batch_id, b.is_foreign FROM batches b WHERE {HAS_CELLS} AND {BATCH_IN_SCOPE} ORDER BY b.id
""")
_OTHER_QUESTIONS = text("""
    SELECT h.batch_id, 'batch_questions' AS subject,
           CASE WHEN h.is_foreign
                THEN format('%s are recorded, but it was imported from another installation', counted.noted)
                ELSE format('%s are recorded, and %s of them match its %s questions', counted.noted,
                            counted.same, counted.asked)
           END AS problem
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
    statement="every batch expects documents x connections x prompts evaluations",
    runs_in=(Database.DOC_EVAL,),
    query=_OTHER_EXPECTATION,
    fix="run doceval stage {batch_id} to count again",
)
CELLS_ARE_COMPLETE = Invariant(
    name="cells-are-complete",
    statement="every evaluation has exactly one current queue row",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_STAGED_CONTENTS,
    query=_INCOMPLETE_CONTENTS,
    fix="run doceval stage {batch_id} to add the missing rows",
)
ROWS_HAVE_CONTENT = Invariant(
    name="rows-have-content",
    statement="every queue row has a stored document",
    runs_in=(Database.KNOWLEDGE,),
    query=_NO_CONTENT,
    fix="restore docs from a backup: the foreign key of llm_responses was bypassed",
)
ROWS_ARE_OF_THE_BATCH = Invariant(
    name="rows-are-of-the-batch",
    statement="every queue row is for a document of its batch",
    runs_in=(Database.DOC_EVAL,),
    input_query=_QUEUED_CONTENTS,
    query=_CONTENT_OF_ANOTHER,
    fix="run doceval stage {batch_id} to set such rows aside; find the program that wrote them",
)
ROWS_ARE_OF_THE_CHOICE = Invariant(
    name="rows-are-of-the-choice",
    statement="every queue row is for a prompt and a connection of its batch",
    runs_in=(Database.KNOWLEDGE,),
    query=_NOT_CHOSEN,
    fix="find the program that wrote these rows, then delete them",
)
ROWS_ARE_OF_A_BATCH = Invariant(
    name="rows-are-of-a-batch",
    statement="every queue row belongs to a batch",
    runs_in=(Database.DOC_EVAL,),
    input_query=_QUEUED_BATCHES,
    query=_UNKNOWN_BATCH,
    fix="find the program that wrote them; KnowledgeDocuments may belong to another doc_eval",
)
DETAILS_ARE_SEALED = Invariant(
    name="details-are-sealed",
    statement="every queue row has the sealed connection details",
    runs_in=(Database.KNOWLEDGE,),
    query=_OTHER_DETAILS,
    fix="find the program that changed them, and restore the details from batch_configs: new attempts copy "
    "them",
)
ATTEMPTS_ARE_IN_ORDER = Invariant(
    name="attempts-are-in-order",
    statement="attempts of an evaluation are numbered without gaps, and only the highest is current",
    runs_in=(Database.KNOWLEDGE,),
    query=_DISORDERED_ATTEMPTS,
    fix="SELECT recount_responses({batch_id}) in KnowledgeDocuments makes the highest current; a gap remains "
    "until the missing attempt is restored from a backup",
)
COUNTS_ARE_KEPT = Invariant(
    name="counts-are-kept",
    statement="the stored counts of every batch match its queue rows",
    runs_in=(Database.KNOWLEDGE,),
    query=_MISCOUNTED,
    fix="SELECT recount_responses({batch_id}) in KnowledgeDocuments; a program bypassed its triggers",
)
REUSED_IS_ITS_ORIGIN = Invariant(
    name="reused-is-its-origin",
    statement="every reused result answers the same question about the same document",
    runs_in=(Database.KNOWLEDGE,),
    query=_OTHER_THAN_ORIGIN,
    fix="find the program that changed either row; run doceval reprocess {batch_id} --all to evaluate again",
)
QUESTIONS_ARE_NOTED = Invariant(
    name="questions-are-noted",
    statement="batch_questions holds exactly the questions of the batches created in this installation",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_PUBLISHED_BATCHES,
    query=_OTHER_QUESTIONS,
    fix="as the owner of KnowledgeDocuments, DELETE FROM batch_questions WHERE batch_id = {batch_id}, and "
    "for a batch created here INSERT INTO batch_questions SELECT batch_id, q.* FROM batch_configs, "
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
