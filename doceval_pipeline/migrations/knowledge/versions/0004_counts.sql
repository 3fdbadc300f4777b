-- How many cells of each batch have which outcome, kept by the statements that change them.
--
-- Counting a million rows takes a second, and a tick of the pipeline has some milliseconds. So each
-- statement on llm_responses leaves the difference it made in response_deltas, in its own transaction:
-- counts and differences together are what counting the rows would give, whatever commits when, and
-- nobody waits for anybody. fold_response_counts() adds the differences up. A batch is completed on
-- the word of its rows alone; these numbers say where to look.

ALTER TABLE llm_responses ADD COLUMN superseded_at timestamptz;
COMMENT ON COLUMN llm_responses.superseded_at IS
    'Since when the cell has a later attempt; the row is kept and not counted.';
UPDATE llm_responses r SET superseded_at = now()
WHERE EXISTS (
    SELECT 1 FROM llm_responses newer
    WHERE newer.batch_id = r.batch_id AND newer.document_id = r.document_id
      AND newer.prompt_id = r.prompt_id AND newer.connection_id = r.connection_id
      AND newer.attempt > r.attempt);

CREATE OR REPLACE VIEW current_llm_responses AS
    SELECT r.* FROM llm_responses r WHERE r.withdrawn_at IS NULL AND r.superseded_at IS NULL;

CREATE TABLE response_counts (
    batch_id  int PRIMARY KEY,
    waiting   bigint NOT NULL,
    running   bigint NOT NULL,
    paused    bigint NOT NULL,
    succeeded bigint NOT NULL,
    failed    bigint NOT NULL,
    unknown   bigint NOT NULL,
    version   bigint NOT NULL
);
CREATE INDEX response_counts_version ON response_counts (version);
COMMENT ON TABLE response_counts IS 'Current cells of each batch by outcome, but for what is in response_deltas.';
COMMENT ON COLUMN response_counts.version IS
    'Grows from change to change over all batches, in the order in which changes are folded in.';
CREATE SEQUENCE response_counts_clock;

CREATE TABLE response_deltas (
    batch_id  int NOT NULL,
    waiting   bigint NOT NULL DEFAULT 0,
    running   bigint NOT NULL DEFAULT 0,
    paused    bigint NOT NULL DEFAULT 0,
    succeeded bigint NOT NULL DEFAULT 0,
    failed    bigint NOT NULL DEFAULT 0,
    unknown   bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE response_deltas IS 'What statements on llm_responses changed of the counts; zeros where only a result did.';
ALTER TABLE response_deltas SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE FUNCTION response_outcome(status text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN status IN ('QUEUED', 'N', 'READY_TO_RETRY') THEN 'waiting'
                WHEN status IN ('P', 'PROCESSING', 'R') THEN 'running'
                WHEN status IN ('PAUSED') THEN 'paused'
                WHEN status IN ('S', 'SUCCESS', 'COMPLETED') THEN 'succeeded'
                WHEN status IN ('F', 'FAILED', 'TIMEOUT') THEN 'failed'
                ELSE 'unknown' END
$$;

INSERT INTO response_counts
SELECT batch_id, count(*) FILTER (WHERE outcome = 'waiting'), count(*) FILTER (WHERE outcome = 'running'),
       count(*) FILTER (WHERE outcome = 'paused'), count(*) FILTER (WHERE outcome = 'succeeded'),
       count(*) FILTER (WHERE outcome = 'failed'), count(*) FILTER (WHERE outcome = 'unknown'),
       nextval('response_counts_clock')
FROM (SELECT batch_id, response_outcome(status) AS outcome FROM current_llm_responses) AS cells
GROUP BY batch_id;

-- Of all rows that a statement changed at once. A lease that is only made longer is no change.
CREATE FUNCTION count_updated_responses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO response_deltas
    SELECT batch_id,
           coalesce(sum(cells) FILTER (WHERE outcome = 'waiting'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'running'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'paused'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'succeeded'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'failed'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'unknown'), 0)
    FROM (
        SELECT batch_id, response_outcome(status) AS outcome, sum(cells) AS cells
        FROM (SELECT batch_id, status, 1 AS cells FROM new_rows
              WHERE withdrawn_at IS NULL AND superseded_at IS NULL
              UNION ALL
              SELECT batch_id, status, -1 FROM old_rows
              WHERE withdrawn_at IS NULL AND superseded_at IS NULL) AS changed
        GROUP BY batch_id, status) AS summed
    GROUP BY batch_id
    HAVING bool_or(cells <> 0) OR bool_or(outcome IN ('succeeded', 'failed'));
    RETURN NULL;
END $$;
CREATE TRIGGER count_updated_responses AFTER UPDATE ON llm_responses
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_updated_responses();

-- Rows that somebody deletes are no longer there, and an attempt that stood before counts again.
CREATE FUNCTION count_deleted_responses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO response_deltas
    SELECT batch_id,
           -count(*) FILTER (WHERE outcome = 'waiting'), -count(*) FILTER (WHERE outcome = 'running'),
           -count(*) FILTER (WHERE outcome = 'paused'), -count(*) FILTER (WHERE outcome = 'succeeded'),
           -count(*) FILTER (WHERE outcome = 'failed'), -count(*) FILTER (WHERE outcome = 'unknown')
    FROM (SELECT batch_id, response_outcome(status) AS outcome FROM old_rows
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
CREATE TRIGGER count_deleted_responses AFTER DELETE ON llm_responses
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_responses();

CREATE FUNCTION count_truncated_responses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM response_counts;
    DELETE FROM response_deltas;
    RETURN NULL;
END $$;
CREATE TRIGGER count_truncated_responses AFTER TRUNCATE ON llm_responses
    FOR EACH STATEMENT EXECUTE FUNCTION count_truncated_responses();

-- First attempts are counted by whoever queues them, a whole batch in one row: a trigger that sees
-- them would cost a fifth of queueing a million. Later attempts are rare, and anybody may add one.
CREATE FUNCTION count_later_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    outcome constant text := response_outcome(NEW.status);
BEGIN
    IF NEW.withdrawn_at IS NULL AND NEW.superseded_at IS NULL THEN
        INSERT INTO response_deltas
        VALUES (NEW.batch_id, (outcome = 'waiting')::int, (outcome = 'running')::int, (outcome = 'paused')::int,
                (outcome = 'succeeded')::int, (outcome = 'failed')::int, (outcome = 'unknown')::int);
    END IF;
    IF EXISTS (
        SELECT 1 FROM llm_responses r
        WHERE r.batch_id = NEW.batch_id AND r.document_id = NEW.document_id AND r.prompt_id = NEW.prompt_id
          AND r.connection_id = NEW.connection_id AND r.attempt < NEW.attempt AND r.superseded_at IS NULL)
    THEN
        UPDATE llm_responses r SET superseded_at = now()
        WHERE r.batch_id = NEW.batch_id AND r.document_id = NEW.document_id AND r.prompt_id = NEW.prompt_id
          AND r.connection_id = NEW.connection_id AND r.attempt < NEW.attempt AND r.superseded_at IS NULL;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_later_attempt AFTER INSERT ON llm_responses FOR EACH ROW
    WHEN (NEW.attempt > 1) EXECUTE FUNCTION count_later_attempt();

-- One at a time, so that versions grow in the order of commits. A lock on the table, because anybody
-- who may connect can take an advisory lock and keep it; in a mode that only holds up vacuum besides.
CREATE FUNCTION lock_response_counts() RETURNS void LANGUAGE sql VOLATILE AS
    'LOCK TABLE response_counts IN SHARE UPDATE EXCLUSIVE MODE';

CREATE FUNCTION fold_response_counts(most int DEFAULT 20000) RETURNS void
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
           nextval('response_counts_clock')
    FROM folded GROUP BY batch_id
    ON CONFLICT (batch_id) DO UPDATE
    SET waiting = c.waiting + excluded.waiting, running = c.running + excluded.running,
        paused = c.paused + excluded.paused, succeeded = c.succeeded + excluded.succeeded,
        failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown,
        version = excluded.version;
END $$;

-- Counts a batch anew from its rows, whatever stood here before: after a restore, or where somebody
-- wrote around the triggers.
CREATE FUNCTION recount_responses(batch int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
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
           nextval('response_counts_clock')
    FROM (SELECT response_outcome(status) AS outcome FROM current_llm_responses WHERE batch_id = batch) AS cells
    ON CONFLICT (batch_id) DO UPDATE
    SET waiting = excluded.waiting, running = excluded.running, paused = excluded.paused,
        succeeded = excluded.succeeded, failed = excluded.failed, unknown = excluded.unknown,
        version = excluded.version;
END $$;

DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS signature, p.prosecdef FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN (
                 'response_outcome', 'count_updated_responses', 'count_deleted_responses',
                 'count_truncated_responses', 'count_later_attempt', 'lock_response_counts',
                 'fold_response_counts', 'recount_responses')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.signature);
        IF f.prosecdef THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.signature, current_schema());
        END IF;
    END LOOP;
END $$;
