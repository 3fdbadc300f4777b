-- A question is a prompt text, asked of a model at an address with a configuration. Where an earlier batch has
-- the result of the same question about the same document, a batch may take it, as a row that is done from
-- the beginning.

-- The one definition of what the same question is. jsonb writes equal values as equal texts.
CREATE FUNCTION question_digest(prompt jsonb, connection jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        prompt -> 'text', connection -> 'provider_type', connection -> 'model_name', connection -> 'base_url',
        connection -> 'port_no', connection -> 'connection_config')::text, 'UTF8')), 'hex')
$$;

CREATE TABLE batch_questions (
    batch_id      int  NOT NULL,
    prompt_id     int  NOT NULL,
    connection_id int  NOT NULL,
    digest        text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    PRIMARY KEY (batch_id, prompt_id, connection_id)
);
CREATE INDEX batch_questions_digest ON batch_questions (digest, batch_id);
COMMENT ON TABLE batch_questions IS 'The questions of each batch, by digest: the same one has the same everywhere.';

CREATE FUNCTION note_questions() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO batch_questions (batch_id, prompt_id, connection_id, digest)
    SELECT NEW.batch_id, (p ->> 'id')::int, (c ->> 'id')::int, question_digest(p, c)
    FROM jsonb_array_elements(NEW.config -> 'prompts') AS p,
         jsonb_array_elements(NEW.config -> 'connections') AS c
    ON CONFLICT (batch_id, prompt_id, connection_id) DO UPDATE SET digest = excluded.digest;
    RETURN NULL;
END $$;
CREATE TRIGGER note_questions AFTER INSERT ON batch_configs FOR EACH ROW EXECUTE FUNCTION note_questions();

INSERT INTO batch_questions (batch_id, prompt_id, connection_id, digest)
SELECT b.batch_id, (p ->> 'id')::int, (c ->> 'id')::int, question_digest(p, c)
FROM batch_configs b, jsonb_array_elements(b.config -> 'prompts') AS p,
     jsonb_array_elements(b.config -> 'connections') AS c
ON CONFLICT DO NOTHING;

ALTER TABLE llm_responses
    ADD COLUMN reused_from     bigint,
    ADD COLUMN reused_batch_id int,
    ADD COLUMN is_answer       boolean NOT NULL DEFAULT true,
    ADD CONSTRAINT llm_responses_reused_whole CHECK ((reused_from IS NULL) = (reused_batch_id IS NULL));
COMMENT ON COLUMN llm_responses.reused_from IS
    'The row whose result this is, where nobody was asked again; it may be archived by now.';
COMMENT ON COLUMN llm_responses.reused_batch_id IS 'The batch of that row.';
COMMENT ON COLUMN llm_responses.is_answer IS
    'Whether other batches may take the result; of a reused one, once the row it comes from is archived.';
CREATE INDEX llm_responses_answers ON llm_responses (document_id)
    WHERE is_answer AND superseded_at IS NULL AND status IN ('S', 'SUCCESS', 'COMPLETED');
CREATE INDEX llm_responses_reused ON llm_responses (reused_batch_id) WHERE reused_batch_id IS NOT NULL;

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
