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
