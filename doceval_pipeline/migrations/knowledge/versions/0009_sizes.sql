-- What processors write is bounded, since a text of half a gigabyte is accepted by the server and can then be
-- read by nobody: response_text, response_json and error_message have at most 16 MiB, task_id 2,000 bytes and
-- status 200. The trigger refuses more with a sentence; the CHECK also holds for whoever gets past it.

-- A row that was larger before stays as it is, and can still be given another status.
CREATE FUNCTION bound_response() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    excess record;
BEGIN
    SELECT * INTO excess
    FROM (VALUES
        ('response_text', octet_length(NEW.response_text), octet_length(OLD.response_text), 16777216),
        ('response_json', octet_length(NEW.response_json), octet_length(OLD.response_json), 16777216),
        ('error_message', octet_length(NEW.error_message), octet_length(OLD.error_message), 16777216),
        ('task_id', octet_length(NEW.task_id), octet_length(OLD.task_id), 2000),
        ('status', octet_length(NEW.status), octet_length(OLD.status), 200))
        AS sizes (column_name, bytes, before, most)
    WHERE bytes > greatest(most, before) LIMIT 1;
    IF FOUND THEN
        RAISE string_data_right_truncation USING MESSAGE = format(
            '%s has %s bytes, and at most %s are stored: shorten it', excess.column_name, excess.bytes, excess.most);
    END IF;
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION bound_response FROM PUBLIC;
-- Before all others, in the order of the names.
CREATE TRIGGER bound_response BEFORE UPDATE OF response_text, response_json, error_message, task_id, status
ON llm_responses FOR EACH ROW
WHEN (octet_length(NEW.response_text) > 16777216 OR octet_length(NEW.response_json) > 16777216
      OR octet_length(NEW.error_message) > 16777216 OR octet_length(NEW.task_id) > 2000
      OR octet_length(NEW.status) > 200)
EXECUTE FUNCTION bound_response();

-- By itself: what a block with EXCEPTION has done is undone where a row is too large.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION bound_response SET search_path = %I, pg_temp', current_schema());
END $$;
DO $$
BEGIN
    ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_sizes CHECK (
        octet_length(response_text) <= 16777216 AND octet_length(response_json) <= 16777216
        AND octet_length(error_message) <= 16777216 AND octet_length(task_id) <= 2000
        AND octet_length(status) <= 200 AND octet_length(worker) <= 4000);
EXCEPTION WHEN check_violation THEN
    -- A CHECK, even one that is NOT VALID, would refuse any later change of the larger rows that are here.
    RAISE NOTICE 'some rows are larger than what is accepted from now on: they stay';
END $$;

-- Nobody who reads through the view has to take in what came before there was a bound, or past it.
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
           nullif(impossible_numbers || impossible_columns(r), '{}') AS impossible_numbers
    FROM llm_responses r WHERE withdrawn_at IS NULL AND superseded_at IS NULL;
