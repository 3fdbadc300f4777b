-- Who may do what in KnowledgeDocuments. Run again at any time: what is not listed is taken back.
--
-- A worker writes results through the functions alone. A plain worker writes result columns, and no
-- column of a lease, so that it cannot get around one. Nobody but the owner may create anything where
-- the functions look for tables.
DO $$
DECLARE
    granted constant text := 'doceval_stager, doceval_worker, doceval_plain_worker, doceval_reader';
    ours    constant text[] := ARRAY[
        'docs', 'batch_configs', 'llm_responses', 'current_llm_responses', 'response_counts', 'response_deltas',
        'reprocess_requests', 'batch_questions', 'doceval_knowledge_version'];
    alone   boolean;
    f       record;
BEGIN
    -- include large_objects.sql
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO doceval_owner', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', current_schema(), granted);
    EXECUTE format('REVOKE ALL ON %s FROM %s', array_to_string(ours, ', '), granted);
    FOR f IN SELECT p.oid::regprocedure AS signature FROM pg_proc p
             WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN (
                 'back_of_queue', 'new_lease_token', 'response_of_token', 'require_lease', 'return_responses',
                 'look_for_leases_at', 'next_look', 'expire_leases', 'tidy_queue', 'take_responses',
                 'deliver_responses', 'claim_responses', 'refused', 'heartbeat_response', 'write_result',
                 'complete_response', 'fail_response', 'guard_response', 'place_response', 'hide_keys',
                 'forget_impossible', 'impossible_columns', 'in_utc', 'response_outcome', 'end_deferral',
                 'release_responses',
                 'count_updated_responses', 'count_deleted_responses', 'count_truncated_responses',
                 'count_later_attempt', 'lock_response_counts', 'fold_response_counts',
                 'recount_responses', 'is_json', 'bound_response', 'advance_numbers',
                 'question_digest', 'questions_of', 'note_questions', 'close_withdrawn')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', f.signature, granted);
        EXECUTE format('ALTER FUNCTION %s OWNER TO doceval_owner', f.signature);
    END LOOP;
END $$;

ALTER TABLE docs OWNER TO doceval_owner;
ALTER TABLE batch_configs OWNER TO doceval_owner;
ALTER TABLE llm_responses OWNER TO doceval_owner;
ALTER TABLE response_counts OWNER TO doceval_owner;
ALTER TABLE response_deltas OWNER TO doceval_owner;
ALTER TABLE reprocess_requests OWNER TO doceval_owner;
ALTER TABLE batch_questions OWNER TO doceval_owner;
ALTER TABLE doceval_knowledge_version OWNER TO doceval_owner;
ALTER VIEW current_llm_responses OWNER TO doceval_owner;
ALTER SEQUENCE llm_responses_queue_clock OWNER TO doceval_owner;
ALTER SEQUENCE llm_responses_lease_clock OWNER TO doceval_owner;
ALTER SEQUENCE response_counts_clock OWNER TO doceval_owner;
ALTER TYPE claimed_response OWNER TO doceval_owner;
ALTER TYPE written_response OWNER TO doceval_owner;

GRANT SELECT ON docs, batch_configs, llm_responses, current_llm_responses, response_counts, response_deltas,
                reprocess_requests, batch_questions, doceval_knowledge_version
    TO doceval_stager, doceval_reader;
GRANT INSERT, DELETE ON docs, batch_configs, llm_responses TO doceval_stager;
GRANT UPDATE (content_type) ON docs TO doceval_stager;
GRANT INSERT ON response_deltas TO doceval_stager;
GRANT INSERT, DELETE ON reprocess_requests TO doceval_stager;
-- A trigger writes questions. UPDATE is for the lock that keeps them until their results are taken.
GRANT DELETE, UPDATE (digest) ON batch_questions TO doceval_stager;
GRANT UPDATE (status, error_message, completed_processing_at, withdrawn_at, superseded_at, queue_position, is_answer)
    ON llm_responses TO doceval_stager;
GRANT UPDATE (requeue_as) ON batch_configs TO doceval_stager;
-- A restored row has the id that it had, and what comes later gets one above it.
GRANT USAGE ON SEQUENCE docs_id_seq, llm_responses_id_seq TO doceval_stager;
GRANT EXECUTE ON FUNCTION advance_numbers TO doceval_stager;
GRANT SELECT ON llm_responses_queue_clock TO doceval_stager, doceval_reader;
GRANT EXECUTE ON FUNCTION tidy_queue, expire_leases, back_of_queue, fold_response_counts, recount_responses
    TO doceval_stager;
GRANT EXECUTE ON FUNCTION response_outcome, is_json, question_digest, questions_of
    TO doceval_stager, doceval_reader;

GRANT SELECT ON docs, batch_configs TO doceval_worker;
GRANT EXECUTE ON FUNCTION claim_responses, heartbeat_response, complete_response, fail_response
    TO doceval_worker;

GRANT SELECT ON docs, batch_configs, llm_responses, current_llm_responses TO doceval_plain_worker;
GRANT UPDATE (status, task_id, started_processing_at, completed_processing_at, response_text, response_json,
              response_time_ms, error_message, overall_score, input_tokens, output_tokens,
              time_taken_seconds, tokens_per_second, "timestamp")
    ON llm_responses TO doceval_plain_worker;
