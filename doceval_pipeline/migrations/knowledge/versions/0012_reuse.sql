-- A question is a prompt text that a model is asked at an address with a configuration. Where an earlier batch
-- has a result for the same question about the same document, a batch may take it, as a row that is done from
-- the beginning.

-- The one definition of the same question. jsonb writes equal values as equal texts, except that it keeps the
-- zeros at the end of a number: 0 and 0.0 are two configurations, and the question is asked for each.
CREATE FUNCTION question_digest(prompt jsonb, connection jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        prompt -> 'text', connection -> 'provider_type', connection -> 'model_name', connection -> 'base_url',
        connection -> 'port_no', connection -> 'connection_config')::text, 'UTF8')), 'hex')
$$;

-- The questions of a configuration, of whatever shape: other programs wrote some before the pipeline did. Where
-- two members have one number, their question is not known.
CREATE FUNCTION questions_of(config jsonb) RETURNS TABLE (prompt_id int, connection_id int, digest text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (p ->> 'id')::numeric::int, (c ->> 'id')::numeric::int, min(question_digest(p, c))
    FROM jsonb_path_query(config, '$.prompts[*] ? (@.id.type() == "number" && @.id.floor() == @.id
                                                   && @.id >= 1 && @.id <= 2147483647)') AS p,
         jsonb_path_query(config, '$.connections[*] ? (@.id.type() == "number" && @.id.floor() == @.id
                                                       && @.id >= 1 && @.id <= 2147483647)') AS c
    GROUP BY 1, 2 HAVING count(DISTINCT question_digest(p, c)) = 1
$$;

CREATE TABLE batch_questions (
    batch_id      int  NOT NULL,
    prompt_id     int  NOT NULL,
    connection_id int  NOT NULL,
    digest        text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    PRIMARY KEY (batch_id, prompt_id, connection_id)
);
CREATE INDEX batch_questions_digest ON batch_questions (digest, batch_id);
COMMENT ON TABLE batch_questions IS
    'The questions of each batch by digest. Results of a batch without them are not reused.';

-- As its owner: whoever publishes a configuration writes its questions, and no others.
CREATE FUNCTION note_questions() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO batch_questions (batch_id, prompt_id, connection_id, digest)
    SELECT NEW.batch_id, q.prompt_id, q.connection_id, q.digest FROM questions_of(NEW.config) AS q
    ON CONFLICT ON CONSTRAINT batch_questions_pkey DO UPDATE SET digest = excluded.digest;
    RETURN NULL;
END $$;
CREATE TRIGGER note_questions AFTER INSERT ON batch_configs FOR EACH ROW EXECUTE FUNCTION note_questions();

INSERT INTO batch_questions (batch_id, prompt_id, connection_id, digest)
SELECT b.batch_id, q.prompt_id, q.connection_id, q.digest FROM batch_configs b, questions_of(b.config) AS q;

DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace
               AND p.proname IN ('question_digest', 'questions_of', 'note_questions')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.signature);
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.signature, current_schema());
    END LOOP;
END $$;

ALTER TABLE llm_responses
    ADD COLUMN reused_from     bigint,
    ADD COLUMN reused_batch_id int,
    ADD COLUMN is_answer       boolean NOT NULL DEFAULT true,
    -- A reused row was never processed; only such a row may be no answer.
    ADD CONSTRAINT llm_responses_reused_whole CHECK (
        reused_from IS NULL AND reused_batch_id IS NULL AND is_answer
        OR reused_from IS NOT NULL AND reused_from > 0 AND reused_batch_id IS NOT NULL AND reused_batch_id >= 0
           AND status = 'S' AND overall_score IS NOT NULL AND deliveries = 0
           AND num_nonnulls(started_processing_at, completed_processing_at, "timestamp", response_time_ms,
                            input_tokens, output_tokens, time_taken_seconds, tokens_per_second, lease_token,
                            lease_expires_at, error_message, impossible_numbers) = 0);
COMMENT ON COLUMN llm_responses.reused_from IS
    'The row whose result this is, where no model was asked again; it may be archived by now.';
COMMENT ON COLUMN llm_responses.reused_batch_id IS
    'The batch of that row; 0 where it is not known, because this row came with an archive of another installation.';
COMMENT ON COLUMN llm_responses.is_answer IS
    'Whether other batches may take the result; of a reused one, once the row it comes from is archived.';
CREATE INDEX llm_responses_answers ON llm_responses (document_id)
    WHERE is_answer AND superseded_at IS NULL AND overall_score IS NOT NULL
      AND status IN ('S', 'SUCCESS', 'COMPLETED');
CREATE INDEX llm_responses_reused ON llm_responses (reused_from, id) WHERE NOT is_answer;

CREATE OR REPLACE VIEW current_llm_responses AS
    SELECT id, batch_id, document_id, prompt_id, connection_id, attempt, status, connection_details, task_id,
           CASE WHEN started_processing_at BETWEEN '1970-01-01Z' AND '9990-01-01Z'
                THEN started_processing_at END AS started_processing_at,
           CASE WHEN completed_processing_at BETWEEN '1970-01-01Z' AND '9990-01-01Z'
                THEN completed_processing_at END AS completed_processing_at,
           CASE WHEN octet_length(response_text) <= 16777216 THEN response_text
                ELSE left(response_text, 100000)
                     || format(E'\n(the first 100000 characters of %s bytes)', octet_length(response_text))
           END AS response_text,
           CASE WHEN octet_length(response_json) <= 16777216 THEN response_json
                ELSE left(response_json, 100000) END AS response_json,
           CASE WHEN response_time_ms >= 0 THEN response_time_ms END AS response_time_ms,
           CASE WHEN octet_length(error_message) <= 16777216 THEN error_message
                ELSE left(error_message, 100000) END AS error_message,
           overall_score + 0.0 AS overall_score,
           CASE WHEN input_tokens >= 0 THEN input_tokens END AS input_tokens,
           CASE WHEN output_tokens >= 0 THEN output_tokens END AS output_tokens,
           CASE WHEN time_taken_seconds BETWEEN 0 AND 1e10 THEN time_taken_seconds END AS time_taken_seconds,
           CASE WHEN tokens_per_second BETWEEN 0 AND 1e10 THEN tokens_per_second END AS tokens_per_second,
           CASE WHEN "timestamp" BETWEEN '1970-01-01Z' AND '9990-01-01Z'
                THEN "timestamp" END AS "timestamp",
           created_at, withdrawn_at, file_name, queue_position, lease_token, lease_expires_at, deliveries,
           worker, superseded_at,
           nullif(impossible_numbers || impossible_columns(r), '{}') AS impossible_numbers,
           not_before, uncounted, deferred, reused_from, reused_batch_id, is_answer
    FROM llm_responses r WHERE withdrawn_at IS NULL AND superseded_at IS NULL;

-- Reused cells are counted apart, beside their outcome, by the same statements; see 0004_counts.sql.
ALTER TABLE response_counts ADD COLUMN reused bigint NOT NULL DEFAULT 0;
ALTER TABLE response_deltas ADD COLUMN reused bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN response_counts.reused IS 'Current cells whose result was taken from another batch.';

CREATE OR REPLACE FUNCTION count_updated_responses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO response_deltas
    SELECT batch_id,
           coalesce(sum(cells) FILTER (WHERE outcome = 'waiting'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'running'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'paused'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'succeeded'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'failed'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'unknown'), 0),
           coalesce(sum(cells) FILTER (WHERE reused), 0)
    FROM (
        SELECT batch_id, response_outcome(status) AS outcome, reused, sum(cells) AS cells
        FROM (SELECT batch_id, status, reused_from IS NOT NULL AS reused, 1 AS cells FROM new_rows
              WHERE withdrawn_at IS NULL AND superseded_at IS NULL
              UNION ALL
              SELECT batch_id, status, reused_from IS NOT NULL, -1 FROM old_rows
              WHERE withdrawn_at IS NULL AND superseded_at IS NULL) AS changed
        GROUP BY batch_id, status, reused) AS summed
    GROUP BY batch_id
    HAVING bool_or(cells <> 0) OR bool_or(outcome IN ('succeeded', 'failed'));
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION count_deleted_responses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO response_deltas
    SELECT batch_id,
           -count(*) FILTER (WHERE outcome = 'waiting'), -count(*) FILTER (WHERE outcome = 'running'),
           -count(*) FILTER (WHERE outcome = 'paused'), -count(*) FILTER (WHERE outcome = 'succeeded'),
           -count(*) FILTER (WHERE outcome = 'failed'), -count(*) FILTER (WHERE outcome = 'unknown'),
           -count(reused_from)
    FROM (SELECT batch_id, response_outcome(status) AS outcome, reused_from FROM old_rows
          WHERE withdrawn_at IS NULL AND superseded_at IS NULL) AS gone
    GROUP BY batch_id;
    IF EXISTS (SELECT 1 FROM old_rows WHERE attempt > 1) THEN
        UPDATE llm_responses r SET superseded_at = NULL
        FROM old_rows gone
        WHERE gone.attempt > 1 AND gone.superseded_at IS NULL AND r.superseded_at IS NOT NULL
          AND r.batch_id = gone.batch_id AND r.document_id = gone.document_id
          AND r.prompt_id = gone.prompt_id AND r.connection_id = gone.connection_id
          AND NOT EXISTS (
              SELECT 1 FROM llm_responses newer
              WHERE newer.batch_id = r.batch_id AND newer.document_id = r.document_id
                AND newer.prompt_id = r.prompt_id AND newer.connection_id = r.connection_id
                AND newer.attempt > r.attempt);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fold_response_counts(most int DEFAULT 20000) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM response_deltas) THEN
        RETURN;
    END IF;
    PERFORM lock_response_counts();
    WITH folded AS (
        DELETE FROM response_deltas WHERE ctid = ANY (ARRAY (SELECT ctid FROM response_deltas LIMIT most))
        RETURNING *)
    INSERT INTO response_counts AS c
    SELECT batch_id, sum(waiting), sum(running), sum(paused), sum(succeeded), sum(failed), sum(unknown),
           nextval('response_counts_clock'), sum(reused)
    FROM folded GROUP BY batch_id
    ON CONFLICT (batch_id) DO UPDATE
    SET waiting = c.waiting + excluded.waiting, running = c.running + excluded.running,
        paused = c.paused + excluded.paused, succeeded = c.succeeded + excluded.succeeded,
        failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown,
        version = excluded.version, reused = c.reused + excluded.reused;
END $$;

CREATE OR REPLACE FUNCTION recount_responses(batch int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM llm_responses
               WHERE batch_id = batch AND (attempt > 1 OR superseded_at IS NOT NULL)) THEN
        UPDATE llm_responses r SET superseded_at = CASE WHEN placed.superseded THEN now() END
        FROM (SELECT id, attempt < max(attempt) OVER (
                         PARTITION BY document_id, prompt_id, connection_id) AS superseded
              FROM llm_responses WHERE batch_id = batch) AS placed
        WHERE r.id = placed.id AND placed.superseded <> (r.superseded_at IS NOT NULL);
    END IF;
    PERFORM lock_response_counts();
    WITH gone AS (DELETE FROM response_deltas WHERE batch_id = batch)
    INSERT INTO response_counts
    SELECT batch, count(*) FILTER (WHERE outcome = 'waiting'), count(*) FILTER (WHERE outcome = 'running'),
           count(*) FILTER (WHERE outcome = 'paused'), count(*) FILTER (WHERE outcome = 'succeeded'),
           count(*) FILTER (WHERE outcome = 'failed'), count(*) FILTER (WHERE outcome = 'unknown'),
           nextval('response_counts_clock'), count(reused_from)
    FROM (SELECT response_outcome(status) AS outcome, reused_from
          FROM current_llm_responses WHERE batch_id = batch) AS cells
    ON CONFLICT (batch_id) DO UPDATE
    SET waiting = excluded.waiting, running = excluded.running, paused = excluded.paused,
        succeeded = excluded.succeeded, failed = excluded.failed, unknown = excluded.unknown,
        version = excluded.version, reused = excluded.reused;
END $$;

-- A function that is replaced keeps its owner and its rights, and loses its search path.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN (
                 'count_updated_responses', 'count_deleted_responses', 'fold_response_counts',
                 'recount_responses')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.signature, current_schema());
    END LOOP;
END $$;

-- A row whose document left the batch is no longer asked: it is closed instead of waiting, also when a
-- processor gives it back. If the document returns, it gets a new attempt.
CREATE FUNCTION close_withdrawn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := 'F';
    NEW.error_message := 'its document left the batch before it was evaluated';
    NEW.completed_processing_at := clock_timestamp();
    NEW.not_before := NULL;
    NEW.deferred := false;
    RETURN NEW;
END $$;
-- After place_response, in the order of the names.
CREATE TRIGGER put_withdrawn_aside BEFORE UPDATE OF status, withdrawn_at ON llm_responses FOR EACH ROW
WHEN (NEW.withdrawn_at IS NOT NULL AND NEW.superseded_at IS NULL
      AND NEW.status IN ('QUEUED', 'N', 'READY_TO_RETRY', 'PAUSED'))
EXECUTE FUNCTION close_withdrawn();
REVOKE ALL ON FUNCTION close_withdrawn() FROM PUBLIC;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION close_withdrawn() SET search_path = %I, pg_temp', current_schema());
END $$;
UPDATE llm_responses SET withdrawn_at = withdrawn_at
WHERE withdrawn_at IS NOT NULL AND superseded_at IS NULL
  AND status IN ('QUEUED', 'N', 'READY_TO_RETRY', 'PAUSED');
