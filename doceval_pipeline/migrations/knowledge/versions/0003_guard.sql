-- Results stand. A processor may write by UPDATE as ever; what must not be changed is left as it is,
-- and the statement counts the row as updated, because there are processors that stop where their
-- write finds no row.
--
-- Three rules. A row under a lease is changed only together with lease_expires_at, which the
-- functions for processors do and which no other role may write. The first S or F of an attempt
-- stands, except that S follows F. A running row that goes back takes its place at the back of the
-- queue, or is held or closed with its batch.

CREATE FUNCTION guard_response() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.lease_expires_at IS NULL THEN
        IF OLD.status IN ('F', 'FAILED', 'TIMEOUT') AND NEW.status IN ('S', 'SUCCESS', 'COMPLETED') THEN
            RETURN NEW;
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.lease_expires_at IS DISTINCT FROM OLD.lease_expires_at THEN
        RETURN NEW;
    END IF;
    -- A result after the lease is better than none, as long as the row was not delivered again.
    IF OLD.lease_expires_at <= clock_timestamp()
        AND NEW.status IN ('S', 'SUCCESS', 'COMPLETED', 'F', 'FAILED', 'TIMEOUT') THEN
        NEW.lease_expires_at := NULL;
        RETURN NEW;
    END IF;
    RETURN OLD;
END $$;

CREATE TRIGGER guard_response BEFORE UPDATE OF
    status, task_id, started_processing_at, completed_processing_at, response_text, response_json,
    response_time_ms, error_message, overall_score, input_tokens, output_tokens, time_taken_seconds,
    tokens_per_second, "timestamp"
ON llm_responses FOR EACH ROW
WHEN (OLD.lease_expires_at IS NOT NULL
      OR OLD.status IN ('S', 'SUCCESS', 'COMPLETED', 'F', 'FAILED', 'TIMEOUT'))
EXECUTE FUNCTION guard_response();

CREATE FUNCTION place_response() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    word text;
BEGIN
    SELECT requeue_as INTO word FROM batch_configs WHERE batch_id = NEW.batch_id FOR SHARE;
    IF word = 'PAUSED' THEN
        NEW.status := 'PAUSED';
    ELSIF word = 'F' THEN
        NEW.status := 'F';
        NEW.error_message := 'the batch was cancelled, and its processor gave the row back';
        NEW.completed_processing_at := clock_timestamp();
    END IF;
    NEW.queue_position := back_of_queue();
    RETURN NEW;
END $$;

-- After the guard, in the order of the names.
CREATE TRIGGER place_response BEFORE UPDATE OF status ON llm_responses FOR EACH ROW
WHEN (NEW.status IN ('QUEUED', 'N', 'READY_TO_RETRY')
      AND OLD.status NOT IN ('QUEUED', 'N', 'READY_TO_RETRY')
      AND NEW.queue_position = OLD.queue_position)
EXECUTE FUNCTION place_response();

-- A provider's refusal may quote the key, and a careless processor hand it on. The pattern is
-- credentials.KEY of the pipeline, and takes a tenth of a millisecond, so that texts are left out that hold
-- neither a word as long as any key nor a URL. Not on INSERT: a row is queued without a message.
CREATE FUNCTION hide_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.error_message := regexp_replace(NEW.error_message, TG_ARGV[0], '(key not shown)', 'g');
    RETURN NEW;
END $$;
DO $do$
DECLARE
    key constant text :=
        '(?<![A-Za-z0-9])(?:sk-(?=[\w-]{0,99}\w{16})(?=[A-Za-z_-]{0,99}[0-9])[\w-]{16,}'
        || '|(?:gsk|hf|r8|gh[oprsu]|github_pat|[sr]k_live)_\w{16,}'
        || '|(?:glpat|pplx|nvapi|xai|xox[a-z])-[\w-]{16,}'
        || '|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|eyJ[\w-]{8,250}\.[\w-]{8,}'
        || '|(?:[Bb]earer|[Bb]asic)\s+(?=[A-Za-z._~+/=-]{0,99}[0-9])[A-Za-z0-9._~+/=-]{16,}'
        || '|[a-z][a-z0-9+.-]{0,30}://[^\s/?#@:]*:[^\s/?#@]+@)';
BEGIN
    EXECUTE format($sql$
        CREATE TRIGGER hide_keys BEFORE UPDATE OF error_message ON llm_responses FOR EACH ROW
        WHEN (NEW.error_message ~ '[\w.~+/=-]{16}|://') EXECUTE FUNCTION hide_keys(%L)$sql$, key);
END $do$;

-- A time that nothing ever took, such as NaN, would be in every sum. The result that it comes with is kept.
CREATE FUNCTION forget_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.time_taken_seconds := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER forget_time BEFORE UPDATE OF time_taken_seconds ON llm_responses FOR EACH ROW
WHEN (NEW.time_taken_seconds NOT BETWEEN -1e10 AND 1e10) EXECUTE FUNCTION forget_time();

-- Only roles that were given them may call the functions, and nobody can have those that act as their
-- owner find other tables, or the triggers that act as whoever writes find other operators.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature, p.proname, p.prosecdef FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN (
                 'back_of_queue', 'new_lease_token', 'response_of_token', 'require_lease', 'return_responses',
                 'look_for_leases_at', 'next_look', 'expire_leases', 'tidy_queue', 'take_responses',
                 'deliver_responses', 'claim_responses', 'refused', 'heartbeat_response', 'write_result',
                 'complete_response', 'fail_response', 'guard_response', 'place_response', 'hide_keys',
                 'forget_time')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.signature);
        IF f.prosecdef OR f.proname IN ('guard_response', 'hide_keys') THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.signature, current_schema());
        END IF;
    END LOOP;
END $$;
