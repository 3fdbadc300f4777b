-- The schema of doc_eval as all migrations together leave it. Generated for reading, never run:
-- python -m doceval_pipeline_tests.migrations.current_schema rewrites it. Rights are in roles.sql.

CREATE TABLE batch_connections (
    batch_id integer NOT NULL,
    connection_id integer NOT NULL,
    CONSTRAINT batch_connections_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT batch_connections_connection_id_fkey FOREIGN KEY (connection_id) REFERENCES connections(id),
    CONSTRAINT batch_connections_pkey PRIMARY KEY (batch_id, connection_id)
);

CREATE TABLE batch_documents (
    batch_id integer NOT NULL,
    document_id bigint NOT NULL,
    state text NOT NULL,
    reason text,
    file_size bigint,
    sha256 text,
    content_type text,
    doc_type text,
    knowledge_document_id bigint,
    etag text,
    modified_ns bigint,
    CONSTRAINT batch_documents_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT batch_documents_document_id_fkey FOREIGN KEY (document_id) REFERENCES documents(id),
    CONSTRAINT batch_documents_etag_check CHECK ((octet_length(etag) <= 1024)),
    CONSTRAINT batch_documents_file_size_check CHECK ((file_size >= 0)),
    CONSTRAINT batch_documents_pkey PRIMARY KEY (batch_id, document_id),
    CONSTRAINT batch_documents_reason_given CHECK (((reason IS NULL) = (state = ANY (ARRAY['ASSIGNED'::text, 'STAGED'::text])))),
    CONSTRAINT batch_documents_sha256_check CHECK (((octet_length(sha256) = 64) AND (sha256 !~ '[^0-9a-f]'::text))),
    CONSTRAINT batch_documents_sizes CHECK (((octet_length(state) <= 16777216) AND (octet_length(reason) <= 16777216) AND (octet_length(sha256) <= 16777216) AND (octet_length(content_type) <= 16777216) AND (octet_length(doc_type) <= 16777216))),
    CONSTRAINT batch_documents_staged_is_stored CHECK (((state <> 'STAGED'::text) OR ((sha256 IS NOT NULL) AND (knowledge_document_id IS NOT NULL)))),
    CONSTRAINT batch_documents_state_check CHECK ((state = ANY (ARRAY['ASSIGNED'::text, 'STAGED'::text, 'SKIPPED'::text, 'REJECTED'::text])))
);

CREATE INDEX batch_documents_document_id ON public.batch_documents USING btree (document_id);

CREATE INDEX batch_documents_unstaged ON public.batch_documents USING btree (batch_id, document_id) WHERE (state = 'ASSIGNED'::text);

CREATE TABLE batch_folders (
    batch_id integer NOT NULL,
    folder_id integer NOT NULL,
    CONSTRAINT batch_folders_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT batch_folders_folder_id_fkey FOREIGN KEY (folder_id) REFERENCES folders(id),
    CONSTRAINT batch_folders_pkey PRIMARY KEY (batch_id, folder_id)
);

CREATE TABLE batch_progress (
    batch_id integer NOT NULL,
    observed_at timestamp with time zone NOT NULL DEFAULT now(),
    waiting bigint NOT NULL,
    running bigint NOT NULL,
    paused bigint NOT NULL,
    succeeded bigint NOT NULL,
    failed bigint NOT NULL,
    unknown bigint NOT NULL,
    reused bigint NOT NULL DEFAULT 0,
    CONSTRAINT batch_progress_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT batch_progress_pkey PRIMARY KEY (batch_id, observed_at)
);

CREATE TABLE batch_prompts (
    batch_id integer NOT NULL,
    prompt_id integer NOT NULL,
    CONSTRAINT batch_prompts_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT batch_prompts_pkey PRIMARY KEY (batch_id, prompt_id),
    CONSTRAINT batch_prompts_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts(id)
);

CREATE TABLE batches (
    id integer NOT NULL GENERATED AS IDENTITY,
    batch_number integer NOT NULL,
    batch_name text NOT NULL,
    description text NOT NULL DEFAULT ''::text,
    status text NOT NULL DEFAULT 'SAVED'::text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    total_documents integer NOT NULL DEFAULT 0,
    processed_documents integer NOT NULL DEFAULT 0,
    meta_data jsonb NOT NULL DEFAULT '{}'::jsonb,
    config_snapshot json,
    config_sha256 text,
    include_patterns text[] NOT NULL DEFAULT '{}'::text[],
    exclude_patterns text[] NOT NULL DEFAULT '{}'::text[],
    expected_cells bigint,
    stage_requested_at timestamp with time zone,
    status_changed_at timestamp with time zone NOT NULL DEFAULT now(),
    failure_reason text,
    result_digest text,
    reported_digest text,
    cancelled_at timestamp with time zone,
    stage_after timestamp with time zone,
    archived_at timestamp with time zone,
    archive_file text,
    archive_sha256 text,
    priority integer NOT NULL DEFAULT 10,
    prices_at_completion jsonb,
    report_file text,
    reuse text NOT NULL DEFAULT 'nothing'::text,
    max_documents integer,
    max_cost double precision,
    held_reason text,
    is_of_changes boolean NOT NULL DEFAULT false,
    is_foreign boolean NOT NULL DEFAULT false,
    margin double precision,
    CONSTRAINT batches_archive_named CHECK ((((archived_at IS NULL) = (archive_file IS NULL)) AND ((archived_at IS NULL) = (archive_sha256 IS NULL)))),
    CONSTRAINT batches_archive_sha256_check CHECK ((archive_sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT batches_batch_name_check CHECK ((batch_name <> ''::text)),
    CONSTRAINT batches_batch_name_key UNIQUE (batch_name),
    CONSTRAINT batches_batch_number_key UNIQUE (batch_number),
    CONSTRAINT batches_expected_cells_check CHECK ((expected_cells > 0)),
    CONSTRAINT batches_margin_check CHECK (((margin > (0)::double precision) AND (margin <= (100)::double precision))),
    CONSTRAINT batches_max_cost_check CHECK (((max_cost >= (0)::double precision) AND (max_cost <= ('1000000000'::numeric)::double precision))),
    CONSTRAINT batches_max_documents_check CHECK ((max_documents > 0)),
    CONSTRAINT batches_meta_data_check CHECK ((jsonb_typeof(meta_data) = 'object'::text)),
    CONSTRAINT batches_pkey PRIMARY KEY (id),
    CONSTRAINT batches_prices_at_completion_check CHECK ((jsonb_typeof(prices_at_completion) = 'object'::text)),
    CONSTRAINT batches_priority_known CHECK (((priority >= 1) AND (priority <= 100))),
    CONSTRAINT batches_processed_documents_check CHECK ((processed_documents >= 0)),
    CONSTRAINT batches_report_file_named CHECK ((report_file ~ '^batch-[0-9]{6,10}-[0-9a-f]{16}\.html$'::text)),
    CONSTRAINT batches_reuse_check CHECK ((reuse = ANY (ARRAY['finished'::text, 'nothing'::text]))),
    CONSTRAINT batches_sealed_once_begun CHECK ((((config_snapshot IS NULL) = (config_sha256 IS NULL)) AND ((config_snapshot IS NOT NULL) OR (status = ANY (ARRAY['SAVED'::text, 'FAILED_STAGING'::text]))))),
    CONSTRAINT batches_sizes CHECK (((octet_length(batch_name) <= 16777216) AND (octet_length(description) <= 16777216) AND (octet_length(status) <= 16777216) AND (pg_column_size(meta_data) <= 16777216) AND (octet_length(config_sha256) <= 16777216) AND (pg_column_size(include_patterns) <= 16777216) AND (pg_column_size(exclude_patterns) <= 16777216) AND (octet_length(failure_reason) <= 16777216) AND (octet_length(result_digest) <= 16777216) AND (octet_length(reported_digest) <= 16777216) AND (octet_length(archive_file) <= 16777216) AND (octet_length(archive_sha256) <= 16777216) AND (pg_column_size(prices_at_completion) <= 16777216) AND (octet_length(report_file) <= 16777216))),
    CONSTRAINT batches_staged_has_cells CHECK (((expected_cells IS NOT NULL) OR (status = ANY (ARRAY['SAVED'::text, 'STAGING'::text, 'FAILED_STAGING'::text])))),
    CONSTRAINT batches_status_known CHECK ((status = ANY (ARRAY['SAVED'::text, 'STAGING'::text, 'STAGED'::text, 'ANALYZING'::text, 'COMPLETED'::text, 'FAILED_STAGING'::text, 'FAILED'::text, 'PAUSED'::text]))),
    CONSTRAINT batches_total_documents_check CHECK ((total_documents >= 0))
);

CREATE INDEX batches_open ON public.batches USING btree (id) WHERE (status <> ALL (ARRAY['SAVED'::text, 'COMPLETED'::text, 'FAILED'::text]));

CREATE UNIQUE INDEX batches_one_per_name ON public.batches USING btree (NORMALIZE(batch_name, NFC));

CREATE TABLE connection_history (
    batch_id integer NOT NULL,
    connection_id integer NOT NULL,
    measure text NOT NULL,
    cells bigint NOT NULL,
    sum_x double precision NOT NULL,
    sum_xx double precision NOT NULL,
    sum_y double precision NOT NULL,
    sum_yy double precision NOT NULL,
    sum_xy double precision NOT NULL,
    max_y double precision NOT NULL,
    CONSTRAINT connection_history_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT connection_history_cells_check CHECK ((cells > 0)),
    CONSTRAINT connection_history_connection_id_fkey FOREIGN KEY (connection_id) REFERENCES connections(id),
    CONSTRAINT connection_history_measure_check CHECK ((measure = ANY (ARRAY['input_tokens'::text, 'output_tokens'::text, 'seconds'::text]))),
    CONSTRAINT connection_history_pkey PRIMARY KEY (batch_id, connection_id, measure)
);

CREATE TABLE connections (
    id integer NOT NULL GENERATED AS IDENTITY,
    name text NOT NULL,
    provider_id integer NOT NULL,
    model_id integer NOT NULL,
    base_url text,
    port_no integer,
    api_key_env text,
    connection_config jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    prices jsonb,
    CONSTRAINT connections_api_key_env_check CHECK ((api_key_env ~ '^[A-Z_][A-Z0-9_]*$'::text)),
    CONSTRAINT connections_connection_config_check CHECK ((jsonb_typeof(connection_config) = 'object'::text)),
    CONSTRAINT connections_model_id_fkey FOREIGN KEY (model_id) REFERENCES models(id),
    CONSTRAINT connections_name_check CHECK ((name <> ''::text)),
    CONSTRAINT connections_name_key UNIQUE (name),
    CONSTRAINT connections_pkey PRIMARY KEY (id),
    CONSTRAINT connections_port_no_check CHECK (((port_no >= 1) AND (port_no <= 65535))),
    CONSTRAINT connections_prices_check CHECK ((jsonb_typeof(prices) = 'object'::text)),
    CONSTRAINT connections_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers(id),
    CONSTRAINT connections_sizes CHECK (((octet_length(name) <= 16777216) AND (octet_length(base_url) <= 16777216) AND (octet_length(api_key_env) <= 16777216) AND (pg_column_size(connection_config) <= 16777216) AND (pg_column_size(prices) <= 16777216)))
);

CREATE UNIQUE INDEX connections_one_per_name ON public.connections USING btree (NORMALIZE(name, NFC));

CREATE TABLE documents (
    id bigint NOT NULL GENERATED AS IDENTITY,
    folder_id integer NOT NULL,
    filepath text NOT NULL,
    filename text NOT NULL,
    raw_path bytea NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT documents_folder_id_fkey FOREIGN KEY (folder_id) REFERENCES folders(id),
    CONSTRAINT documents_pkey PRIMARY KEY (id),
    CONSTRAINT documents_sizes CHECK (((octet_length(filepath) <= 16777216) AND (octet_length(filename) <= 16777216)))
);

CREATE UNIQUE INDEX documents_one_per_path ON public.documents USING btree (folder_id, sha256(raw_path));

CREATE TABLE folders (
    id integer NOT NULL GENERATED AS IDENTITY,
    folder_path text NOT NULL,
    folder_name text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT folders_folder_path_check CHECK ((starts_with(folder_path, '/'::text) OR (folder_path ~ '^(s3|gs|az)://[^/?#@]+(/[^?#]+)?$'::text))),
    CONSTRAINT folders_folder_path_key UNIQUE (folder_path),
    CONSTRAINT folders_pkey PRIMARY KEY (id),
    CONSTRAINT folders_sizes CHECK (((octet_length(folder_path) <= 16777216) AND (octet_length(folder_name) <= 16777216)))
);

CREATE TABLE live_runs (
    id integer NOT NULL GENERATED AS IDENTITY,
    run_id text NOT NULL,
    batch_id integer,
    process text,
    started_at timestamp with time zone NOT NULL DEFAULT now(),
    missing_since timestamp with time zone,
    CONSTRAINT live_runs_pkey PRIMARY KEY (id),
    CONSTRAINT live_runs_run_id_key UNIQUE (run_id),
    CONSTRAINT live_runs_sizes CHECK (((octet_length(run_id) <= 16777216) AND (octet_length(process) <= 16777216)))
);

CREATE TABLE llm_providers (
    id integer NOT NULL GENERATED AS IDENTITY,
    provider_type text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT llm_providers_pkey PRIMARY KEY (id),
    CONSTRAINT llm_providers_provider_type_check CHECK ((provider_type <> ''::text)),
    CONSTRAINT llm_providers_provider_type_key UNIQUE (provider_type),
    CONSTRAINT llm_providers_sizes CHECK ((octet_length(provider_type) <= 16777216))
);

CREATE TABLE lost_runs (
    run_id text NOT NULL,
    job text NOT NULL,
    batch_id integer,
    batch_name text,
    ended_at timestamp with time zone NOT NULL,
    CONSTRAINT lost_runs_pkey PRIMARY KEY (run_id),
    CONSTRAINT lost_runs_sizes CHECK (((octet_length(run_id) <= 16777216) AND (octet_length(job) <= 16777216) AND (octet_length(batch_name) <= 16777216)))
);

CREATE TABLE models (
    id integer NOT NULL GENERATED AS IDENTITY,
    provider_id integer NOT NULL,
    model_name text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT models_model_name_check CHECK ((model_name <> ''::text)),
    CONSTRAINT models_pkey PRIMARY KEY (id),
    CONSTRAINT models_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers(id),
    CONSTRAINT models_provider_id_model_name_key UNIQUE (provider_id, model_name),
    CONSTRAINT models_sizes CHECK ((octet_length(model_name) <= 16777216))
);

CREATE TABLE occurrences (
    recurring_id integer NOT NULL,
    due_at timestamp with time zone NOT NULL,
    outcome text NOT NULL,
    reason text,
    batch_id integer,
    new_files bigint NOT NULL DEFAULT 0,
    changed_files bigint NOT NULL DEFAULT 0,
    unchanged_files bigint NOT NULL DEFAULT 0,
    gone_files bigint NOT NULL DEFAULT 0,
    was_ahead boolean NOT NULL DEFAULT false,
    recorded_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT occurrences_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT occurrences_batch_id_key UNIQUE (batch_id),
    CONSTRAINT occurrences_changed_files_check CHECK ((changed_files >= 0)),
    CONSTRAINT occurrences_gone_files_check CHECK ((gone_files >= 0)),
    CONSTRAINT occurrences_made_has_batch CHECK (((batch_id IS NOT NULL) = (outcome = 'MADE'::text))),
    CONSTRAINT occurrences_new_files_check CHECK ((new_files >= 0)),
    CONSTRAINT occurrences_outcome_check CHECK ((outcome = ANY (ARRAY['MADE'::text, 'SKIPPED'::text, 'FAILED'::text]))),
    CONSTRAINT occurrences_pkey PRIMARY KEY (recurring_id, due_at),
    CONSTRAINT occurrences_reason_given CHECK (((reason IS NOT NULL) OR (outcome = 'MADE'::text))),
    CONSTRAINT occurrences_recurring_id_fkey FOREIGN KEY (recurring_id) REFERENCES recurring_evaluations(id) ON DELETE CASCADE,
    CONSTRAINT occurrences_unchanged_files_check CHECK ((unchanged_files >= 0))
);

CREATE TABLE prompts (
    id integer NOT NULL GENERATED AS IDENTITY,
    name text NOT NULL,
    prompt_text text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    threshold double precision,
    weight double precision,
    CONSTRAINT prompts_name_check CHECK ((name <> ''::text)),
    CONSTRAINT prompts_name_key UNIQUE (name),
    CONSTRAINT prompts_pkey PRIMARY KEY (id),
    CONSTRAINT prompts_prompt_text_check CHECK ((prompt_text <> ''::text)),
    CONSTRAINT prompts_sizes CHECK (((octet_length(name) <= 16777216) AND (octet_length(prompt_text) <= 16777216))),
    CONSTRAINT prompts_threshold_check CHECK (((threshold >= (0)::double precision) AND (threshold <= (100)::double precision))),
    CONSTRAINT prompts_weight_check CHECK (((weight > (0)::double precision) AND (weight <= (1000000)::double precision)))
);

CREATE UNIQUE INDEX prompts_one_per_name ON public.prompts USING btree (NORMALIZE(name, NFC));

CREATE TABLE recurring_evaluations (
    id integer NOT NULL GENERATED AS IDENTITY,
    name text NOT NULL,
    definition jsonb NOT NULL,
    watched_from timestamp with time zone NOT NULL DEFAULT now(),
    paused_at timestamp with time zone,
    known_digest text,
    seen_digest text,
    waiting_from timestamp with time zone,
    changed_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT recurring_evaluations_definition_check CHECK ((jsonb_typeof(definition) = 'object'::text)),
    CONSTRAINT recurring_evaluations_name_check CHECK ((name <> ''::text)),
    CONSTRAINT recurring_evaluations_pkey PRIMARY KEY (id)
);

CREATE UNIQUE INDEX recurring_evaluations_one_per_name ON public.recurring_evaluations USING btree (NORMALIZE(name, NFC));

CREATE TABLE recurring_files (
    recurring_id integer NOT NULL,
    document_id bigint NOT NULL,
    file_size bigint NOT NULL,
    modified_ns bigint NOT NULL,
    batch_id integer,
    etag text,
    CONSTRAINT recurring_files_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT recurring_files_document_id_fkey FOREIGN KEY (document_id) REFERENCES documents(id),
    CONSTRAINT recurring_files_etag_check CHECK ((octet_length(etag) <= 1024)),
    CONSTRAINT recurring_files_pkey PRIMARY KEY (recurring_id, document_id),
    CONSTRAINT recurring_files_recurring_id_fkey FOREIGN KEY (recurring_id) REFERENCES recurring_evaluations(id) ON DELETE CASCADE
);

CREATE INDEX recurring_files_document ON public.recurring_files USING btree (document_id);

CREATE TABLE run_requests (
    batch_id integer NOT NULL,
    kind text NOT NULL,
    word text NOT NULL,
    attempt integer NOT NULL,
    due_at timestamp with time zone NOT NULL,
    last_end text,
    last_ended_at timestamp with time zone,
    CONSTRAINT run_requests_attempt_check CHECK ((attempt >= 1)),
    CONSTRAINT run_requests_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT run_requests_ended_somehow CHECK (((last_end IS NULL) = (last_ended_at IS NULL))),
    CONSTRAINT run_requests_kind_check CHECK ((kind = ANY (ARRAY['stage'::text, 'report'::text]))),
    CONSTRAINT run_requests_pkey PRIMARY KEY (batch_id, kind),
    CONSTRAINT run_requests_sizes CHECK (((octet_length(kind) <= 16777216) AND (octet_length(word) <= 16777216) AND (octet_length(last_end) <= 16777216)))
);

CREATE TABLE webhook_deliveries (
    batch_id integer NOT NULL,
    result_digest text NOT NULL,
    payload text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamp with time zone DEFAULT now(),
    delivered_at timestamp with time zone,
    given_up_at timestamp with time zone,
    last_failure text,
    CONSTRAINT webhook_deliveries_attempts_check CHECK ((attempts >= 0)),
    CONSTRAINT webhook_deliveries_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES batches(id),
    CONSTRAINT webhook_deliveries_failed_first CHECK (((given_up_at IS NULL) OR (last_failure IS NOT NULL))),
    CONSTRAINT webhook_deliveries_one_fate CHECK ((num_nonnulls(next_attempt_at, delivered_at, given_up_at) = 1)),
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (batch_id, result_digest),
    CONSTRAINT webhook_deliveries_sizes CHECK (((octet_length(result_digest) <= 16777216) AND (octet_length(payload) <= 16777216) AND (octet_length(last_failure) <= 16777216)))
);

CREATE INDEX webhook_deliveries_due ON public.webhook_deliveries USING btree (next_attempt_at) WHERE (next_attempt_at IS NOT NULL);

CREATE OR REPLACE FUNCTION public.advance_numbers(numbered text, largest bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
DECLARE
    -- The bounds of numbers in archives, which leave enough for whatever comes later.
    most constant bigint := CASE
        WHEN numbered IN ('documents', 'docs', 'llm_responses') THEN 1000000000000000
        WHEN numbered IN ('batches', 'folders', 'connections', 'prompts') THEN 1000000000 END;
    sequence regclass;
BEGIN
    IF most IS NULL OR largest IS NULL OR largest > most THEN
        RAISE invalid_parameter_value USING MESSAGE = 'advance_numbers: no such table, or too large a number';
    END IF;
    sequence := pg_get_serial_sequence(numbered, 'id');
    IF coalesce(pg_sequence_last_value(sequence), 0) < largest THEN
        PERFORM setval(sequence, largest);
    END IF;
END $function$;
