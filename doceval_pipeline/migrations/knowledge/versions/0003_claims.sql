-- What processors call: claim_responses, heartbeat_response, complete_response, fail_response; and
-- what keeps the queue whole: expire_leases, tidy_queue. The rest is their machinery.
--
-- A lease is held by a token. A function that writes under one changes lease_expires_at with it, and
-- the guard lets nothing else through while the lease lasts.
--
-- The functions choose their plans without regard to statistics: a processor that waits at an empty
-- queue keeps the plan it made there, and would read the whole table with it once the table is full.

CREATE TYPE claimed_response AS (
    token              uuid,
    lease_expires_at   timestamptz,
    id                 bigint,
    batch_id           int,
    document_id        bigint,
    prompt_id          int,
    connection_id      int,
    attempt            int,
    delivery           int,
    file_name          text,
    prompt_text        text,
    connection_details jsonb,
    metadata           jsonb
);
COMMENT ON TYPE claimed_response IS
    'A delivered row with all that a processor needs; the content is docs.content of document_id.';

CREATE TYPE written_response AS (changed boolean, message text);
COMMENT ON TYPE written_response IS 'Whether a write under a lease changed anything, and a sentence.';

-- A token begins with the row's number, so that it needs no index of its own; 62 of its bits are random.
CREATE FUNCTION new_lease_token(id bigint) RETURNS uuid LANGUAGE sql VOLATILE AS
    $$SELECT (lpad(to_hex(id), 16, '0') || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid$$;
CREATE FUNCTION response_of_token(token uuid) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$SELECT ('x' || left(replace(token::text, '-', ''), 16))::bit(64)::bigint$$;

CREATE FUNCTION require_lease(lease interval) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF lease IS NULL OR lease <= interval '0' OR lease > interval '1 day' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a lease lasts more than nothing and at most a day';
    END IF;
END $$;

-- Sends running rows, which the caller has locked, back to where rows of their batch wait. The lock on
-- the configuration makes a pause or cancel of the batch come wholly before or wholly after this.
CREATE FUNCTION return_responses(ids bigint[], place bigint, reason text) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    changed int;
BEGIN
    PERFORM FROM batch_configs
    WHERE batch_id IN (SELECT r.batch_id FROM llm_responses r WHERE r.id = ANY (ids))
    ORDER BY batch_id FOR SHARE;
    WITH back AS (
        SELECT r.id, place + row_number() OVER (ORDER BY r.queue_position, r.id) AS place,
               CASE WHEN r.deliveries >= 5 THEN 'F' ELSE coalesce(c.requeue_as, 'QUEUED') END AS word,
               CASE WHEN r.deliveries >= 5
                    THEN format('given up after %s deliveries, the last of which %s', r.deliveries, reason)
                    ELSE format('the batch was cancelled, and the delivery %s', reason) END AS failure
        FROM llm_responses r LEFT JOIN batch_configs c ON c.batch_id = r.batch_id
        WHERE r.id = ANY (ids))
    UPDATE llm_responses r
    SET status = back.word, lease_expires_at = NULL, queue_position = back.place,
        error_message = CASE back.word WHEN 'F' THEN back.failure ELSE r.error_message END,
        completed_processing_at = CASE back.word WHEN 'F' THEN clock_timestamp() END
    FROM back WHERE r.id = back.id;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

CREATE FUNCTION look_for_leases_at(moment timestamptz) RETURNS void LANGUAGE sql VOLATILE AS
    $$SELECT setval('llm_responses_lease_clock'::regclass, (extract(epoch FROM moment) * 1000000)::bigint)$$;

-- Rows whose lease is over go back to the queue, or fail after the fifth delivery. Claims look only
-- at leases since the last look, so that they do not read what ended long ago; whoever cannot wait
-- for a transaction that commits late looks at all of them. Nothing is waited for: a claim may hold rows
-- that somebody who pauses the batch waits for, and what is left now is found at the next look.
CREATE FUNCTION expire_leases(since timestamptz DEFAULT '-infinity') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    moment  timestamptz := clock_timestamp();
    expired bigint[] := ARRAY (
        SELECT r.id FROM llm_responses r JOIN batch_configs c ON c.batch_id = r.batch_id
        WHERE r.lease_expires_at > since AND r.lease_expires_at <= moment
        FOR NO KEY UPDATE OF r SKIP LOCKED FOR SHARE OF c SKIP LOCKED);
    strange bigint[] := ARRAY (
        SELECT r.id FROM llm_responses r
        WHERE r.lease_expires_at > since AND r.lease_expires_at <= moment
          AND NOT EXISTS (SELECT FROM batch_configs c WHERE c.batch_id = r.batch_id)
        FOR NO KEY UPDATE SKIP LOCKED);
    due     timestamptz;
BEGIN
    SELECT min(lease_expires_at) INTO due FROM llm_responses
    WHERE lease_expires_at > moment AND lease_expires_at <= moment + interval '1 second';
    PERFORM look_for_leases_at(coalesce(due, moment + interval '1 second'));
    IF expired || strange = '{}' THEN
        RETURN 0;
    END IF;
    RETURN return_responses(
        expired || strange, (SELECT last_value FROM llm_responses_queue_clock),
        'ended with its lease, without a result');
END $$;

-- What hints cannot know: leases and places of transactions that committed late or were rolled back.
-- Afterwards no lease is over, and the rows behind the virtual time are at its head, ten thousand a call.
CREATE FUNCTION tidy_queue() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    changed int := expire_leases();
    present bigint := (SELECT last_value FROM llm_responses_queue_clock);
    head    bigint := (SELECT queue_position FROM llm_responses
                       WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') ORDER BY queue_position LIMIT 1);
    moved   int;
BEGIN
    IF head > present THEN
        PERFORM setval('llm_responses_queue_clock'::regclass, head);
    ELSIF head < present THEN
        UPDATE llm_responses r SET queue_position = present + behind.rank
        FROM (SELECT id, row_number() OVER (ORDER BY queue_position, id) AS rank
              FROM (SELECT id, queue_position FROM llm_responses
                    WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND queue_position < present
                    ORDER BY queue_position LIMIT 10000 FOR NO KEY UPDATE SKIP LOCKED) AS locked) AS behind
        WHERE r.id = behind.id;
        GET DIAGNOSTICS moved = ROW_COUNT;
        changed := changed + moved;
    END IF;
    RETURN changed;
END $$;

-- The rows are updated by their physical place, which the lock holds still: looking them up by id
-- would cost three pages each.
CREATE FUNCTION take_responses(present bigint, rows int, lease interval, worker text)
RETURNS SETOF llm_responses LANGUAGE plpgsql ROWS 1
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    UPDATE llm_responses r
    SET status = 'P', started_processing_at = moment, lease_token = new_lease_token(r.id),
        lease_expires_at = moment + lease, deliveries = r.deliveries + 1, worker = take_responses.worker
    WHERE r.ctid = ANY (ARRAY (
        SELECT w.ctid FROM llm_responses w
        WHERE w.status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND w.queue_position >= present
        ORDER BY w.queue_position LIMIT rows FOR NO KEY UPDATE SKIP LOCKED))
    RETURNING r.*;
END $$;

CREATE FUNCTION deliver_responses(rows int, lease interval, worker text) RETURNS SETOF claimed_response
LANGUAGE plpgsql AS $$
DECLARE
    present bigint := (SELECT last_value FROM llm_responses_queue_clock);
BEGIN
    RETURN QUERY
    WITH taken AS MATERIALIZED (SELECT * FROM take_responses(present, rows, lease, worker)),
    moved AS MATERIALIZED (
        SELECT setval('llm_responses_queue_clock'::regclass, max(t.queue_position)) FROM taken t
        HAVING max(t.queue_position) > present)
    SELECT t.lease_token, t.lease_expires_at, t.id, t.batch_id, t.document_id, t.prompt_id, t.connection_id,
           t.attempt, t.deliveries, t.file_name,
           jsonb_path_query_first(c.config, '$.prompts[*] ? (@.id == $id)',
                                  jsonb_build_object('id', t.prompt_id)) ->> 'text',
           t.connection_details, c.config -> 'batch' -> 'metadata'
    FROM taken t
    LEFT JOIN batch_configs c ON c.batch_id = t.batch_id
    LEFT JOIN moved ON true
    ORDER BY t.queue_position;
END $$;

-- When a claim looks at leases next, at most a second from now. What this session heard stays true until
-- then, unless somebody takes a lease of less than a second; remembering it saves a page for each claim.
-- Whoever sets it by hand keeps only himself from looking.
CREATE FUNCTION next_look(moment timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    heard timestamptz := nullif(current_setting('llm_responses.next_look', true), '')::timestamptz;
BEGIN
    IF heard > moment THEN
        RETURN heard;
    END IF;
    RETURN (SELECT to_timestamp(last_value / 1000000.0) FROM llm_responses_lease_clock);
END $$;

CREATE FUNCTION claim_responses(
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
    PERFORM set_config('llm_responses.next_look', look::text, false);
    RETURN QUERY SELECT * FROM deliver_responses(rows, lease, worker);
    GET DIAGNOSTICS taken = ROW_COUNT;
    IF taken < rows THEN
        PERFORM tidy_queue();
        RETURN QUERY SELECT * FROM deliver_responses(rows - taken, lease, worker);
    END IF;
END $$;
COMMENT ON FUNCTION claim_responses IS
    'Take up to so many rows for as long as the lease; each comes with a token of its own.';

-- Why a token allows nothing: asked after a write under it found no row.
CREATE FUNCTION refused(token uuid) RETURNS written_response LANGUAGE plpgsql STABLE AS $$
DECLARE
    r llm_responses := (SELECT w FROM llm_responses w WHERE w.id = response_of_token(token));
BEGIN
    RETURN (false, CASE
        WHEN r.id IS NULL THEN 'nothing was changed: there is no such lease'
        WHEN r.lease_token IS DISTINCT FROM token
            THEN format('nothing was changed: row %s was delivered to another worker since', r.id)
        WHEN r.lease_expires_at IS NOT NULL
            THEN format('nothing was changed: the lease of row %s ended at %s', r.id, r.lease_expires_at)
        ELSE format('nothing was changed: the lease of row %s is over, and the row is %s', r.id, r.status)
    END)::written_response;
END $$;

CREATE FUNCTION heartbeat_response(token uuid, lease interval DEFAULT '5 minutes') RETURNS written_response
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
    RETURN (true, format('the lease ends at %s', moment + lease))::written_response;
END $$;
COMMENT ON FUNCTION heartbeat_response IS 'Let a lease last so long from now on.';

-- Ends a lease with a result, whole: a column that is not given is NULL.
CREATE FUNCTION write_result(
    token uuid, status text, error_message text, overall_score double precision, response_text text,
    response_json text, input_tokens int, output_tokens int, time_taken_seconds double precision)
RETURNS written_response LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    -- NaN, which is above infinity, would make a NaN of every sum that it is in.
    IF least(input_tokens, output_tokens) < 0 OR time_taken_seconds NOT BETWEEN 0 AND 1e10 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'tokens and seconds are numbers from 0 on, and finite';
    END IF;
    UPDATE llm_responses r
    SET status = status, error_message = error_message, overall_score = overall_score,
        response_text = response_text, response_json = response_json, input_tokens = input_tokens,
        output_tokens = output_tokens, time_taken_seconds = taken.seconds,
        response_time_ms = least(round(taken.seconds * 1000), 2147483647),
        tokens_per_second = output_tokens / nullif(taken.seconds, 0),
        lease_expires_at = NULL, completed_processing_at = moment, "timestamp" = moment
    FROM (SELECT w.id, coalesce(time_taken_seconds,
                                extract(epoch FROM moment - w.started_processing_at)) AS seconds
          FROM llm_responses w WHERE w.id = response_of_token(token)) AS taken
    WHERE r.id = taken.id AND r.lease_token = token AND r.lease_expires_at > moment;
    IF NOT FOUND THEN
        RETURN refused(token);
    END IF;
    RETURN (true, format('row %s is %s', response_of_token(token), status))::written_response;
END $$;

CREATE FUNCTION complete_response(
    token uuid, overall_score double precision DEFAULT NULL, response_text text DEFAULT NULL,
    response_json text DEFAULT NULL, input_tokens int DEFAULT NULL, output_tokens int DEFAULT NULL,
    time_taken_seconds double precision DEFAULT NULL)
RETURNS written_response LANGUAGE sql SECURITY DEFINER SET enable_seqscan = off AS $$
    SELECT write_result(token, 'S', NULL, overall_score, response_text, response_json, input_tokens,
                        output_tokens, time_taken_seconds)
$$;
COMMENT ON FUNCTION complete_response IS 'End a lease with success; seconds since the claim unless given.';

CREATE FUNCTION fail_response(
    token uuid, error_message text, retry boolean DEFAULT false, response_text text DEFAULT NULL,
    response_json text DEFAULT NULL, input_tokens int DEFAULT NULL, output_tokens int DEFAULT NULL,
    time_taken_seconds double precision DEFAULT NULL)
RETURNS written_response LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off AS $$
DECLARE
    held bigint;
    word text;
BEGIN
    IF retry IS NOT TRUE THEN
        RETURN write_result(token, 'F', coalesce(error_message, 'no reason given'), NULL, response_text,
                            response_json, input_tokens, output_tokens, time_taken_seconds);
    END IF;
    SELECT r.id INTO held FROM llm_responses r
    WHERE r.id = response_of_token(token) AND r.lease_token = token
      AND r.lease_expires_at > clock_timestamp() FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN refused(token);
    END IF;
    PERFORM return_responses(
        ARRAY[held], back_of_queue(), 'failed: ' || coalesce(error_message, 'no reason given'));
    SELECT r.status INTO word FROM llm_responses r WHERE r.id = held;
    RETURN (true, format('row %s is %s', held, word))::written_response;
END $$;
COMMENT ON FUNCTION fail_response IS
    'End a lease with failure, or, with retry, give the row back to be delivered again, five times at most.';
