-- Who may do what in doc_eval. Run again at any time: what is not listed is taken back.
--
-- Processors have no business here.
DO $$
DECLARE
    granted constant text := 'doceval_stager, doceval_worker, doceval_plain_worker, doceval_reader';
    ours    constant text[] := ARRAY[
        'llm_providers', 'models', 'connections', 'prompts', 'folders', 'batches', 'batch_folders',
        'batch_connections', 'batch_prompts', 'documents', 'batch_documents', 'batch_progress',
        'connection_history', 'webhook_deliveries', 'run_requests', 'live_runs', 'lost_runs',
        'recurring_evaluations', 'occurrences', 'recurring_files',
        'doceval_doc_eval_version'];
    alone   boolean;
    name    text;
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO doceval_owner, doceval_stager, doceval_reader',
                   current_database());
    -- include large_objects.sql
    -- Whoever may connect can take advisory locks.
    IF alone THEN
        EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO doceval_owner', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO doceval_stager, doceval_reader', current_schema());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO doceval_stager', current_database());
    FOREACH name IN ARRAY ours
    LOOP
        EXECUTE format('ALTER TABLE %I OWNER TO doceval_owner', name);
        EXECUTE format('REVOKE ALL ON %I FROM %s', name, granted);
        EXECUTE format('GRANT SELECT ON %I TO doceval_stager, doceval_reader', name);
        IF name <> 'doceval_doc_eval_version' THEN
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON %I TO doceval_stager', name);
        END IF;
    END LOOP;
END $$;
-- Batches are numbered by hand, from the same sequence. A restored batch has the numbers that it had, and what
-- comes later gets others above them.
GRANT USAGE ON SEQUENCE batches_id_seq, folders_id_seq, connections_id_seq, prompts_id_seq,
                        documents_id_seq TO doceval_stager;
ALTER FUNCTION advance_numbers OWNER TO doceval_owner;
GRANT EXECUTE ON FUNCTION advance_numbers TO doceval_stager;
