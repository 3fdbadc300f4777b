-- The order in which waiting rows are delivered, and what a row needs to be delivered.
--
-- Virtual time: a batch's rows are placed one step apart, from the present virtual time on, and
-- delivering a row moves the time to its place. So batches take turns, whatever their sizes, and a
-- batch of twice the priority has steps of half the size. Each batch is shifted by its number, so that
-- rows of many batches do not share a place, where each claim would read them all again.
--
-- The time is a sequence, because what a sequence says does not depend on snapshots: a claim begins to
-- look where the last one ended, and does not read what was delivered before, also while an old
-- snapshot keeps vacuum from removing it. The price is that the time does not go back with a
-- transaction: tidy_queue() finds rows behind it.
CREATE SEQUENCE llm_responses_queue_clock MINVALUE 0 START 0;
COMMENT ON SEQUENCE llm_responses_queue_clock IS
    'Virtual time: queue_position of the row that was delivered last.';
CREATE SEQUENCE llm_responses_lease_clock MINVALUE 0 START 0;
COMMENT ON SEQUENCE llm_responses_lease_clock IS
    'When a claim looks for expired leases next, in microseconds since 1970.';

-- A place one to two steps of the usual priority behind the present; at random, so that rows that come
-- at once do not share it.
CREATE FUNCTION back_of_queue() RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER AS
    'SELECT last_value + 100000 + floor(random() * 100000)::bigint FROM llm_responses_queue_clock';

-- One NaN makes NaN of every sum; from now on, forget_time() keeps it out.
UPDATE llm_responses SET time_taken_seconds = NULL WHERE time_taken_seconds NOT BETWEEN -1e10 AND 1e10;
ALTER TABLE llm_responses
    ADD COLUMN file_name        text,
    ADD COLUMN queue_position   bigint NOT NULL DEFAULT 0,
    ADD COLUMN lease_token      uuid,
    ADD COLUMN lease_expires_at timestamptz,
    ADD COLUMN deliveries       int NOT NULL DEFAULT 0,
    ADD COLUMN worker           text,
    ADD CONSTRAINT llm_responses_lease_whole
        CHECK (lease_expires_at IS NULL OR (status = 'P' AND lease_token IS NOT NULL));
COMMENT ON COLUMN llm_responses.file_name IS
    'Path of the document below its folder when it was queued; the first one where several hold it.';
COMMENT ON COLUMN llm_responses.queue_position IS
    'Place in the queue, in virtual time; of meaning while the row waits.';
COMMENT ON COLUMN llm_responses.lease_token IS
    'Of the last claim: whoever holds it may write the result until lease_expires_at.';
COMMENT ON COLUMN llm_responses.lease_expires_at IS
    'Set while the row is under a lease, and only changed by the functions for processors.';
COMMENT ON COLUMN llm_responses.deliveries IS 'How often the row was claimed by claim_responses.';
COMMENT ON COLUMN llm_responses.worker IS 'What the last claim called itself.';

UPDATE llm_responses r SET queue_position = placed.rank * 100000 - r.batch_id::bigint * 7919 % 100000
FROM (SELECT id, row_number() OVER (PARTITION BY batch_id ORDER BY id) AS rank
      FROM llm_responses WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY')) AS placed
WHERE r.id = placed.id;
ALTER TABLE llm_responses ALTER COLUMN queue_position SET DEFAULT back_of_queue();

-- A status update is never HOT, and each index that a row is in costs it three pages. So rows that run
-- or are done are in as few as there are questions: by id, by batch, and by document, where the unique
-- index also stands behind the foreign key.
ALTER TABLE llm_responses
    DROP CONSTRAINT llm_responses_one_per_attempt,
    ADD CONSTRAINT llm_responses_one_per_attempt
        UNIQUE (document_id, batch_id, prompt_id, connection_id, attempt);
DROP INDEX llm_responses_document_id, llm_responses_open;
CREATE INDEX llm_responses_batch ON llm_responses (batch_id);
CREATE INDEX llm_responses_waiting ON llm_responses (batch_id, id)
    WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY');
CREATE INDEX llm_responses_queue ON llm_responses (queue_position)
    WHERE status IN ('QUEUED', 'N', 'READY_TO_RETRY');
CREATE INDEX llm_responses_leases ON llm_responses (lease_expires_at) WHERE lease_expires_at IS NOT NULL;

ALTER TABLE batch_configs
    ADD COLUMN requeue_as text NOT NULL DEFAULT 'QUEUED' CHECK (requeue_as IN ('QUEUED', 'PAUSED', 'F'));
COMMENT ON COLUMN batch_configs.requeue_as IS
    'What becomes of a running row that goes back: PAUSED while the batch is paused, F once it is cancelled.';

CREATE OR REPLACE VIEW current_llm_responses AS
    SELECT r.* FROM llm_responses r
    WHERE r.withdrawn_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM llm_responses newer
        WHERE newer.batch_id = r.batch_id AND newer.document_id = r.document_id
          AND newer.prompt_id = r.prompt_id AND newer.connection_id = r.connection_id
          AND newer.attempt > r.attempt);
