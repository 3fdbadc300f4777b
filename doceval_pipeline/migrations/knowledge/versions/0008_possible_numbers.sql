-- A processor's clock may be set back, its division may be by zero, its counter may overflow. The result
-- that comes with such a number is kept. The number is dropped, because every sum and every subtraction of
-- times would contain it. Which ones were dropped is recorded, so that results_are_sound can count them.
--
-- Possible are: tokens and milliseconds from 0 on; seconds and tokens per second from 0 to 1e10; times
-- from 1970 to 9989, which every program can read. A score outside 0 to 100 is still refused by its CHECK:
-- without its score a result is another result.

ALTER TABLE llm_responses ADD COLUMN impossible_numbers text[];
COMMENT ON COLUMN llm_responses.impossible_numbers IS
    'Columns whose value was dropped because nothing can have it, such as a negative number of tokens.';

-- The rule, for the trigger, for the view and for what is stored already.
CREATE FUNCTION impossible_columns(r llm_responses) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_remove(ARRAY[
        CASE WHEN r.started_processing_at NOT BETWEEN '1970-01-01Z' AND '9990-01-01Z'
             THEN 'started_processing_at' END,
        CASE WHEN r.completed_processing_at NOT BETWEEN '1970-01-01Z' AND '9990-01-01Z'
             THEN 'completed_processing_at' END,
        CASE WHEN r."timestamp" NOT BETWEEN '1970-01-01Z' AND '9990-01-01Z' THEN 'timestamp' END,
        CASE WHEN r.response_time_ms < 0 THEN 'response_time_ms' END,
        CASE WHEN r.input_tokens < 0 THEN 'input_tokens' END,
        CASE WHEN r.output_tokens < 0 THEN 'output_tokens' END,
        -- NaN is above every number.
        CASE WHEN r.time_taken_seconds NOT BETWEEN 0 AND 1e10 THEN 'time_taken_seconds' END,
        CASE WHEN r.tokens_per_second NOT BETWEEN 0 AND 1e10 THEN 'tokens_per_second' END], NULL)
$$;
COMMENT ON FUNCTION impossible_columns IS
    'Columns of a row whose value nothing can have. Anybody may call it, since the view does so as its reader.';

-- Adding 0 makes 0 of -0, which is written as "-0".
CREATE FUNCTION forget_impossible() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    dropped text[] := impossible_columns(NEW);
BEGIN
    NEW.overall_score := NEW.overall_score + 0.0;
    NEW.time_taken_seconds := NEW.time_taken_seconds + 0.0;
    NEW.tokens_per_second := NEW.tokens_per_second + 0.0;
    IF dropped = '{}' AND NEW.impossible_numbers IS NULL THEN
        RETURN NEW;
    END IF;
    IF 'started_processing_at' = ANY (dropped) THEN NEW.started_processing_at := NULL; END IF;
    IF 'completed_processing_at' = ANY (dropped) THEN NEW.completed_processing_at := NULL; END IF;
    IF 'timestamp' = ANY (dropped) THEN NEW."timestamp" := NULL; END IF;
    IF 'response_time_ms' = ANY (dropped) THEN NEW.response_time_ms := NULL; END IF;
    IF 'input_tokens' = ANY (dropped) THEN NEW.input_tokens := NULL; END IF;
    IF 'output_tokens' = ANY (dropped) THEN NEW.output_tokens := NULL; END IF;
    IF 'time_taken_seconds' = ANY (dropped) THEN NEW.time_taken_seconds := NULL; END IF;
    IF 'tokens_per_second' = ANY (dropped) THEN NEW.tokens_per_second := NULL; END IF;
    -- One that was dropped earlier is forgotten once its column has a value.
    NEW.impossible_numbers := nullif(ARRAY (
        SELECT DISTINCT column_name FROM unnest(NEW.impossible_numbers || dropped) AS column_name
        WHERE to_jsonb(NEW) ->> column_name IS NULL ORDER BY column_name), '{}');
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION forget_impossible FROM PUBLIC;

DROP TRIGGER forget_time ON llm_responses;
DROP FUNCTION forget_time;
-- Before the guard, in the order of the names.
CREATE TRIGGER forget_impossible BEFORE UPDATE OF
    started_processing_at, completed_processing_at, "timestamp", response_time_ms, overall_score,
    input_tokens, output_tokens, time_taken_seconds, tokens_per_second
ON llm_responses FOR EACH ROW
WHEN (impossible_columns(NEW) <> '{}' OR NEW.impossible_numbers IS NOT NULL
      OR NEW.overall_score = 0 OR NEW.time_taken_seconds = 0 OR NEW.tokens_per_second = 0)
EXECUTE FUNCTION forget_impossible();

-- What was stored before. The guard would keep it; the counts record that these batches have changed.
ALTER TABLE llm_responses DISABLE TRIGGER guard_response;
UPDATE llm_responses r SET input_tokens = input_tokens WHERE impossible_columns(r) <> '{}';
ALTER TABLE llm_responses ENABLE TRIGGER guard_response;

-- A restored backup, or an owner at the console, gets past every trigger; nobody who reads through the view
-- sees what came so.
CREATE OR REPLACE VIEW current_llm_responses AS
    SELECT id, batch_id, document_id, prompt_id, connection_id, attempt, status, connection_details, task_id,
           CASE WHEN started_processing_at BETWEEN '1970-01-01Z' AND '9990-01-01Z'
                THEN started_processing_at END AS started_processing_at,
           CASE WHEN completed_processing_at BETWEEN '1970-01-01Z' AND '9990-01-01Z'
                THEN completed_processing_at END AS completed_processing_at,
           response_text, response_json,
           CASE WHEN response_time_ms >= 0 THEN response_time_ms END AS response_time_ms,
           error_message, overall_score + 0.0 AS overall_score,
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

-- The rest of this file: functions that took a time for a text, which depends on DateStyle and TimeZone:
-- 3.5 hours off in Asia/Kolkata, whose IST is Israel's to a server before PostgreSQL 18.

-- When a claim looks at leases next, at most a second from now. What this session heard stays true until
-- then, unless somebody takes a lease of less than a second; remembering it, as microseconds since 1970,
-- saves a page for each claim. Whoever sets it by hand keeps only himself from looking.
CREATE OR REPLACE FUNCTION next_look(moment timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    said  constant text := current_setting('llm_responses.next_look', true);
    heard timestamptz;
BEGIN
    IF said ~ '^[0-9]{1,17}$' THEN
        heard := to_timestamp(said::bigint / 1000000.0);
    END IF;
    IF heard > moment THEN
        RETURN heard;
    END IF;
    RETURN (SELECT to_timestamp(last_value / 1000000.0) FROM llm_responses_lease_clock);
END $$;

CREATE OR REPLACE FUNCTION claim_responses(
    rows int DEFAULT 1, lease interval DEFAULT '5 minutes', worker text DEFAULT NULL)
RETURNS SETOF claimed_response LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    look   timestamptz := next_look(moment);
    taken  int;
BEGIN
    PERFORM require_lease(lease);
    IF rows IS NULL OR rows NOT BETWEEN 1 AND 10000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a claim is for 1 to 10000 rows';
    END IF;
    IF length(worker) > 1000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the name of a worker has at most 1000 characters';
    END IF;
    IF look <= moment THEN
        -- Some seconds again, for claims that were not committed yet at the last look.
        PERFORM expire_leases(look - interval '10 seconds');
        look := next_look(moment);
    END IF;
    IF look > moment + lease THEN
        look := moment + lease;
        -- Asked again, because what a session remembers may have been set by hand.
        IF (SELECT to_timestamp(last_value / 1000000.0) > look FROM llm_responses_lease_clock) THEN
            PERFORM look_for_leases_at(look);
        END IF;
    END IF;
    PERFORM set_config(
        'llm_responses.next_look', (extract(epoch FROM look) * 1000000)::bigint::text, false);
    RETURN QUERY SELECT * FROM deliver_responses(rows, lease, worker);
    GET DIAGNOSTICS taken = ROW_COUNT;
    IF taken < rows THEN
        PERFORM tidy_queue();
        RETURN QUERY SELECT * FROM deliver_responses(rows - taken, lease, worker);
    END IF;
END $$;

CREATE FUNCTION in_utc(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS
    $$SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')$$;
REVOKE ALL ON FUNCTION in_utc FROM PUBLIC;

-- Why a token allows nothing: asked after a write under it found no row.
CREATE OR REPLACE FUNCTION refused(token uuid) RETURNS written_response LANGUAGE plpgsql STABLE AS $$
DECLARE
    r llm_responses := (SELECT w FROM llm_responses w WHERE w.id = response_of_token(token));
BEGIN
    RETURN (false, CASE
        WHEN r.id IS NULL THEN 'nothing was changed: there is no such lease'
        WHEN r.lease_token IS DISTINCT FROM token
            THEN format('nothing was changed: row %s was delivered to another worker since', r.id)
        WHEN r.lease_expires_at IS NOT NULL
            THEN format('nothing was changed: the lease of row %s ended at %s', r.id, in_utc(r.lease_expires_at))
        ELSE format('nothing was changed: the lease of row %s is over, and the row is %s', r.id, r.status)
    END)::written_response;
END $$;

CREATE OR REPLACE FUNCTION heartbeat_response(token uuid, lease interval DEFAULT '5 minutes') RETURNS written_response
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    PERFORM require_lease(lease);
    UPDATE llm_responses r SET lease_expires_at = moment + lease
    WHERE r.id = response_of_token(token) AND r.lease_token = token AND r.lease_expires_at > moment;
    IF NOT FOUND THEN
        RETURN refused(token);
    END IF;
    IF (SELECT to_timestamp(last_value / 1000000.0) > moment + lease FROM llm_responses_lease_clock) THEN
        PERFORM look_for_leases_at(moment + lease);
    END IF;
    RETURN (true, format('the lease ends at %s', in_utc(moment + lease)))::written_response;
END $$;

-- Ends a lease with a result, whole: a column that is not given is NULL.
CREATE OR REPLACE FUNCTION write_result(
    token uuid, status text, error_message text, overall_score double precision, response_text text,
    response_json text, input_tokens int, output_tokens int, time_taken_seconds double precision)
RETURNS written_response LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    UPDATE llm_responses r
    SET status = status, error_message = error_message, overall_score = overall_score,
        response_text = response_text, response_json = response_json, input_tokens = input_tokens,
        output_tokens = output_tokens, time_taken_seconds = taken.said,
        response_time_ms = least(round(taken.seconds * 1000), 2147483647),
        tokens_per_second = CASE WHEN output_tokens >= 0 THEN output_tokens / nullif(taken.seconds, 0) END,
        impossible_numbers = NULL, lease_expires_at = NULL, completed_processing_at = moment,
        "timestamp" = moment
    FROM (SELECT of_row.id, of_row.said,
                 -- What is computed of a time is computed of a possible one; the trigger drops the other.
                 CASE WHEN of_row.said BETWEEN 0 AND 1e10 THEN of_row.said END AS seconds
          FROM (SELECT w.id, coalesce(time_taken_seconds,
                                      CASE WHEN isfinite(w.started_processing_at)
                                      THEN extract(epoch FROM moment - w.started_processing_at) END) AS said
                FROM llm_responses w WHERE w.id = response_of_token(token)) AS of_row) AS taken
    WHERE r.id = taken.id AND r.lease_token = token AND r.lease_expires_at > moment;
    IF NOT FOUND THEN
        RETURN refused(token);
    END IF;
    RETURN (true, format('row %s is %s', response_of_token(token), status))::written_response;
END $$;

-- Replacing a function takes its settings away.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace
               AND p.proname IN ('claim_responses', 'heartbeat_response', 'forget_impossible', 'next_look')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.signature, current_schema());
    END LOOP;
END $$;
