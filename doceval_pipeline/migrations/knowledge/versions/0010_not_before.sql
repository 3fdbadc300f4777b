-- A busy model is nobody's failure. A processor gives its row back with the time until which the model asked
-- to be left alone, and the delivery does not count towards the five.
--
-- Claims read no deferred row: it is not in the index of the queue. Where claims look for leases that are
-- over, about once a second, they put the rows back whose time has come, a thousand at most.

ALTER TABLE llm_responses
    ADD COLUMN not_before timestamptz,
    ADD COLUMN uncounted  int     NOT NULL DEFAULT 0,
    ADD COLUMN deferred   boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT llm_responses_uncounted CHECK (uncounted BETWEEN 0 AND 1000),
    ADD CONSTRAINT llm_responses_not_before CHECK (
        not_before IS NULL AND NOT deferred
        OR status IN ('QUEUED', 'N', 'READY_TO_RETRY', 'PAUSED')
           AND not_before IS NOT NULL AND not_before BETWEEN '1970-01-01Z' AND '9990-01-01Z');
COMMENT ON COLUMN llm_responses.not_before IS
    'Until when the row is not handed out, as the processor asked that gave it back; NULL once it is taken.';
COMMENT ON COLUMN llm_responses.uncounted IS
    'How many of the deliveries do not count towards the five, as the processor asked that gave the row back.';
COMMENT ON COLUMN llm_responses.deferred IS
    'Whether the row is kept out of the queue because of not_before; claims end it, up to a second late.';

DROP INDEX llm_responses_queue;
CREATE INDEX llm_responses_queue ON llm_responses (queue_position)
    WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND NOT deferred;
CREATE INDEX llm_responses_not_before ON llm_responses (deferred, not_before)
    WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND not_before IS NOT NULL;

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
           not_before, uncounted, deferred
    FROM llm_responses r WHERE withdrawn_at IS NULL AND superseded_at IS NULL;

-- What is dropped and made anew below keeps its owner and whoever may call it.
CREATE TEMPORARY TABLE earlier_functions ON COMMIT DROP AS
    SELECT proname, proowner::regrole::text AS owner, proacl FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace AND proname IN ('fail_response', 'return_responses');

-- A row that is taken, closed or done waits for no time; nor does one that is resumed after it.
CREATE FUNCTION end_deferral() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status NOT IN ('QUEUED', 'N', 'READY_TO_RETRY', 'PAUSED') THEN
        NEW.not_before := NULL;
        NEW.deferred := false;
    ELSIF NEW.not_before <= clock_timestamp() THEN
        NEW.deferred := false;
    END IF;
    RETURN NEW;
END $$;
-- After the others, in the order of the names: place_response may hold or close the row.
CREATE TRIGGER put_end_to_deferral BEFORE UPDATE OF status ON llm_responses FOR EACH ROW
WHEN (NEW.not_before IS NOT NULL) EXECUTE FUNCTION end_deferral();

DROP FUNCTION return_responses(bigint[], bigint, text);
-- Sends running rows, which the caller has locked, back to where rows of their batch wait, at once or after
-- some time. The lock on the configuration makes a pause or cancel of the batch come wholly before or wholly
-- after this. The first thousand give-backs of a row that ask not to be counted are not. Each of them waits at least
-- as many seconds as the row has such give-backs, up to 60, so that a model whose pauses are too short does not
-- use up the thousand in minutes: they last 16 hours.
CREATE FUNCTION return_responses(
    ids bigint[], place bigint, reason text, wait interval DEFAULT '0', counted boolean DEFAULT true)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    moment  timestamptz := clock_timestamp();
    changed int;
BEGIN
    PERFORM FROM batch_configs
    WHERE batch_id IN (SELECT r.batch_id FROM llm_responses r WHERE r.id = ANY (ids))
    ORDER BY batch_id FOR SHARE;
    WITH given AS (
        SELECT r.id, place + row_number() OVER (ORDER BY r.queue_position, r.id) AS place, r.deliveries,
               coalesce(c.requeue_as, 'QUEUED') AS requeue_as,
               CASE WHEN counted THEN wait
                    ELSE greatest(wait, make_interval(secs => least(r.uncounted, 60))) END AS pause,
               r.uncounted + (NOT counted AND r.uncounted < 1000)::int AS uncounted
        FROM llm_responses r LEFT JOIN batch_configs c ON c.batch_id = r.batch_id
        WHERE r.id = ANY (ids)),
    back AS (
        SELECT g.id, g.place, g.uncounted, g.pause,
               CASE WHEN g.deliveries - g.uncounted >= 5 THEN 'F' ELSE g.requeue_as END AS word,
               CASE WHEN g.deliveries - g.uncounted >= 5
                    THEN format('given up after %s deliveries, the last of which %s', g.deliveries, reason)
                    ELSE format('the batch was cancelled, and the delivery %s', reason) END AS failure
        FROM given g)
    UPDATE llm_responses r
    SET status = back.word, lease_expires_at = NULL, queue_position = back.place, uncounted = back.uncounted,
        not_before = CASE WHEN back.pause > interval '0' AND back.word <> 'F' THEN moment + back.pause END,
        deferred = back.pause > interval '0' AND back.word <> 'F',
        error_message = CASE back.word WHEN 'F' THEN back.failure ELSE r.error_message END,
        completed_processing_at = CASE back.word WHEN 'F' THEN moment END
    FROM back WHERE r.id = back.id;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;

-- Puts rows whose time came since then back into the queue, a thousand at most, and says how many. The rows
-- of a batch follow each other in steps of the usual priority, so that batches go on taking turns; where more
-- are to come, this thousand is spread over all that waits of the batch.
CREATE FUNCTION release_responses(since timestamptz, moment timestamptz) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    present  bigint := (SELECT last_value FROM llm_responses_queue_clock);
    released int;
BEGIN
    IF NOT EXISTS (SELECT FROM llm_responses r
                   WHERE r.status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND r.deferred
                     AND r.not_before > since AND r.not_before <= moment) THEN
        RETURN 0;
    END IF;
    UPDATE llm_responses r
    SET deferred = false,
        queue_position = present + ((p.rank - random()) * 100000 * CASE
            WHEN p.all_rows = 1000 THEN greatest(coalesce(c.waiting, 0) / p.of_batch, 1) ELSE 1 END)::bigint
    FROM (SELECT id, batch_id, row_number() OVER (PARTITION BY batch_id ORDER BY not_before, id) AS rank,
                 count(*) OVER (PARTITION BY batch_id) AS of_batch, count(*) OVER () AS all_rows
          FROM (SELECT id, batch_id, not_before FROM llm_responses
                WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND deferred
                  AND not_before > since AND not_before <= moment
                ORDER BY not_before LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED) AS locked) AS p
    LEFT JOIN response_counts c ON c.batch_id = p.batch_id
    WHERE r.id = p.id;
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END $$;

-- Rows whose lease is over go back to the queue, or fail after the fifth delivery; rows whose time has come
-- go there too. Claims look only at what is due since the last look, so that they do not read what ended
-- long ago; whoever cannot wait for a transaction that commits late looks at all of it. Nothing is waited for:
-- a claim may hold rows that somebody who pauses the batch waits for, and what is left now is found at the
-- next look.
CREATE OR REPLACE FUNCTION expire_leases(since timestamptz DEFAULT '-infinity') RETURNS int
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
    changed int := release_responses(since, moment);
    due     timestamptz;
    waits   timestamptz;
BEGIN
    SELECT min(lease_expires_at) INTO due FROM llm_responses
    WHERE lease_expires_at > moment AND lease_expires_at <= moment + interval '1 second';
    -- Where a thousand came back, the rest of them is looked for at once.
    SELECT r.not_before INTO waits FROM llm_responses r
    WHERE r.status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND r.deferred
      AND r.not_before > CASE WHEN changed < 1000 THEN moment ELSE since END
      AND r.not_before <= moment + interval '1 second'
    ORDER BY r.not_before LIMIT 1;
    PERFORM look_for_leases_at(least(due, waits, moment + interval '1 second'));
    IF expired || strange = '{}' THEN
        RETURN changed;
    END IF;
    RETURN changed + return_responses(
        expired || strange, (SELECT last_value FROM llm_responses_queue_clock),
        'ended with its lease, without a result');
END $$;

CREATE OR REPLACE FUNCTION tidy_queue() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    changed int := expire_leases();
    present bigint := (SELECT last_value FROM llm_responses_queue_clock);
    head    bigint := (SELECT queue_position FROM llm_responses
                       WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND NOT deferred
                       ORDER BY queue_position LIMIT 1);
    moved   int;
BEGIN
    IF head > present THEN
        PERFORM setval('llm_responses_queue_clock'::regclass, head);
    ELSIF head < present THEN
        UPDATE llm_responses r SET queue_position = present + behind.rank
        FROM (SELECT id, row_number() OVER (ORDER BY queue_position, id) AS rank
              FROM (SELECT id, queue_position FROM llm_responses
                    WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND NOT deferred
                      AND queue_position < present
                    ORDER BY queue_position LIMIT 10000 FOR NO KEY UPDATE SKIP LOCKED) AS locked) AS behind
        WHERE r.id = behind.id;
        GET DIAGNOSTICS moved = ROW_COUNT;
        changed := changed + moved;
    END IF;
    RETURN changed;
END $$;

CREATE OR REPLACE FUNCTION take_responses(present bigint, rows int, lease interval, worker text)
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
        WHERE w.status IN ('QUEUED', 'N', 'READY_TO_RETRY') AND NOT w.deferred AND w.queue_position >= present
        ORDER BY w.queue_position LIMIT rows FOR NO KEY UPDATE SKIP LOCKED))
    RETURNING r.*;
END $$;

-- Another parameter makes another function, and calls that name neither would fit both.
DROP FUNCTION fail_response(uuid, text, boolean, text, text, int, int, double precision);
CREATE FUNCTION fail_response(
    token uuid, error_message text, retry boolean DEFAULT false, response_text text DEFAULT NULL,
    response_json text DEFAULT NULL, input_tokens int DEFAULT NULL, output_tokens int DEFAULT NULL,
    time_taken_seconds double precision DEFAULT NULL, not_before interval DEFAULT NULL,
    counted boolean DEFAULT true)
RETURNS written_response LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    wait   interval := coalesce(not_before, interval '0');
    held   llm_responses;
BEGIN
    IF wait < interval '0' OR wait > interval '1 day' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not_before is an interval from 0 to a day';
    END IF;
    IF retry IS NOT TRUE THEN
        IF not_before IS NOT NULL OR NOT counted THEN
            RAISE invalid_parameter_value USING
                MESSAGE = 'not_before and counted => false are for rows that are given back: add retry => true';
        END IF;
        RETURN write_result(token, 'F', coalesce(error_message, 'no reason given'), NULL, response_text,
                            response_json, input_tokens, output_tokens, time_taken_seconds);
    END IF;
    SELECT * INTO held FROM llm_responses r
    WHERE r.id = response_of_token(token) AND r.lease_token = token
      AND r.lease_expires_at > moment FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN refused(token);
    END IF;
    PERFORM return_responses(ARRAY[held.id], back_of_queue(),
                             'failed: ' || coalesce(error_message, 'no reason given'), wait,
                             coalesce(counted, true));
    SELECT * INTO held FROM llm_responses r WHERE r.id = held.id;
    IF held.deferred AND (SELECT to_timestamp(last_value / 1000000.0) > held.not_before
                          FROM llm_responses_lease_clock) THEN
        PERFORM look_for_leases_at(held.not_before);
    END IF;
    RETURN (true, format('row %s is %s', held.id, held.status)
                  || CASE WHEN held.deferred THEN format(' and waits until %s', in_utc(held.not_before))
                     ELSE '' END)::written_response;
END $$;
COMMENT ON FUNCTION fail_response IS
    'End a lease with failure, or, with retry, give the row back: for not_before, and five times at most unless '
    'counted is false.';

-- Replacing a function takes its settings away. What is new belongs to the owner of the rest, in_utc of 0008
-- too: whoever owns fail_response calls it.
DO $$
DECLARE
    f      record;
    g      record;
    common constant text := (SELECT owner FROM earlier_functions WHERE proname = 'fail_response');
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature, p.prosecdef, e.owner, e.proacl, p.proname FROM pg_proc p
             LEFT JOIN earlier_functions e USING (proname)
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN (
                 'end_deferral', 'return_responses', 'release_responses', 'expire_leases', 'tidy_queue',
                 'fail_response', 'in_utc')
    LOOP
        IF f.prosecdef OR f.proname = 'end_deferral' THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.signature, current_schema());
        END IF;
        CONTINUE WHEN f.proname IN ('expire_leases', 'tidy_queue');
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', f.signature, coalesce(f.owner, common));
        FOR g IN SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee,
                        is_grantable
                 FROM aclexplode(f.proacl)
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', f.signature, g.grantee)
                    || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
        END LOOP;
    END LOOP;
END $$;
