-- The schema of knowledge as all migrations together leave it. Generated for reading, never run:
-- python -m doceval_pipeline_tests.migrations.current_schema rewrites it. Rights are in roles.sql.

CREATE TABLE batch_configs (
    batch_id integer NOT NULL,
    config jsonb NOT NULL,
    sha256 text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    requeue_as text NOT NULL DEFAULT 'QUEUED'::text,
    CONSTRAINT batch_configs_pkey PRIMARY KEY (batch_id),
    CONSTRAINT batch_configs_requeue_as_check CHECK ((requeue_as = ANY (ARRAY['QUEUED'::text, 'PAUSED'::text, 'F'::text]))),
    CONSTRAINT batch_configs_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text))
);

CREATE TRIGGER note_questions AFTER INSERT ON public.batch_configs FOR EACH ROW EXECUTE FUNCTION note_questions();

CREATE TABLE batch_questions (
    batch_id integer NOT NULL,
    prompt_id integer NOT NULL,
    connection_id integer NOT NULL,
    digest text NOT NULL,
    CONSTRAINT batch_questions_digest_check CHECK ((digest ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT batch_questions_pkey PRIMARY KEY (batch_id, prompt_id, connection_id)
);

CREATE INDEX batch_questions_digest ON public.batch_questions USING btree (digest, batch_id);

CREATE TABLE docs (
    id bigint NOT NULL GENERATED AS IDENTITY,
    document_id text NOT NULL,
    sha256 text NOT NULL,
    content text NOT NULL,
    content_type text NOT NULL,
    doc_type text NOT NULL,
    file_size bigint NOT NULL,
    encoding text NOT NULL DEFAULT 'base64'::text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT docs_content_whole CHECK ((octet_length(content) = (4 * ((file_size + 2) / 3)))),
    CONSTRAINT docs_document_id_key UNIQUE (document_id),
    CONSTRAINT docs_encoding_check CHECK ((encoding = 'base64'::text)),
    CONSTRAINT docs_file_size_check CHECK ((file_size >= 0)),
    CONSTRAINT docs_id_from_content CHECK ((document_id = ('sha256:'::text || sha256))),
    CONSTRAINT docs_pkey PRIMARY KEY (id),
    CONSTRAINT docs_sha256_check CHECK (((octet_length(sha256) = 64) AND (sha256 !~ '[^0-9a-f]'::text))),
    CONSTRAINT docs_sha256_key UNIQUE (sha256)
);

CREATE TABLE llm_responses (
    id bigint NOT NULL GENERATED AS IDENTITY,
    batch_id integer NOT NULL,
    document_id bigint NOT NULL,
    prompt_id integer NOT NULL,
    connection_id integer NOT NULL,
    attempt integer NOT NULL DEFAULT 1,
    status text NOT NULL DEFAULT 'QUEUED'::text,
    connection_details jsonb NOT NULL,
    task_id text,
    started_processing_at timestamp with time zone,
    completed_processing_at timestamp with time zone,
    response_text text,
    response_json text,
    response_time_ms integer,
    error_message text,
    overall_score double precision,
    input_tokens integer,
    output_tokens integer,
    time_taken_seconds double precision,
    tokens_per_second double precision,
    "timestamp" timestamp with time zone,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    withdrawn_at timestamp with time zone,
    file_name text,
    queue_position bigint NOT NULL DEFAULT back_of_queue(),
    lease_token uuid,
    lease_expires_at timestamp with time zone,
    deliveries integer NOT NULL DEFAULT 0,
    worker text,
    superseded_at timestamp with time zone,
    impossible_numbers text[],
    not_before timestamp with time zone,
    uncounted integer NOT NULL DEFAULT 0,
    deferred boolean NOT NULL DEFAULT false,
    reused_from bigint,
    reused_batch_id integer,
    is_answer boolean NOT NULL DEFAULT true,
    CONSTRAINT llm_responses_attempt_check CHECK ((attempt >= 1)),
    CONSTRAINT llm_responses_document_id_fkey FOREIGN KEY (document_id) REFERENCES docs(id),
    CONSTRAINT llm_responses_lease_whole CHECK (((lease_expires_at IS NULL) OR ((status = 'P'::text) AND (lease_token IS NOT NULL)))),
    CONSTRAINT llm_responses_not_before CHECK ((((not_before IS NULL) AND (NOT deferred)) OR ((status = ANY (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text, 'PAUSED'::text])) AND (not_before IS NOT NULL) AND ((not_before >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (not_before <= '9990-01-01 00:00:00+00'::timestamp with time zone))))),
    CONSTRAINT llm_responses_one_per_attempt UNIQUE (document_id, batch_id, prompt_id, connection_id, attempt),
    CONSTRAINT llm_responses_overall_score_check CHECK (((overall_score >= (0)::double precision) AND (overall_score <= (100)::double precision))),
    CONSTRAINT llm_responses_pkey PRIMARY KEY (id),
    CONSTRAINT llm_responses_reused_whole CHECK ((((reused_from IS NULL) AND (reused_batch_id IS NULL) AND is_answer) OR ((reused_from IS NOT NULL) AND (reused_from > 0) AND (reused_batch_id IS NOT NULL) AND (reused_batch_id >= 0) AND (status = 'S'::text) AND (overall_score IS NOT NULL) AND (deliveries = 0) AND (num_nonnulls(started_processing_at, completed_processing_at, "timestamp", response_time_ms, input_tokens, output_tokens, time_taken_seconds, tokens_per_second, lease_token, lease_expires_at, error_message, impossible_numbers) = 0)))),
    CONSTRAINT llm_responses_sizes CHECK (((octet_length(response_text) <= 16777216) AND (octet_length(response_json) <= 16777216) AND (octet_length(error_message) <= 16777216) AND (octet_length(task_id) <= 2000) AND (octet_length(status) <= 200) AND (octet_length(worker) <= 4000))),
    CONSTRAINT llm_responses_uncounted CHECK (((uncounted >= 0) AND (uncounted <= 1000)))
);

CREATE INDEX llm_responses_answers ON public.llm_responses USING btree (document_id) WHERE (is_answer AND (superseded_at IS NULL) AND (overall_score IS NOT NULL) AND (status = ANY (ARRAY['S'::text, 'SUCCESS'::text, 'COMPLETED'::text])));

CREATE INDEX llm_responses_batch ON public.llm_responses USING btree (batch_id);

CREATE INDEX llm_responses_leases ON public.llm_responses USING btree (lease_expires_at) WHERE (lease_expires_at IS NOT NULL);

CREATE INDEX llm_responses_not_before ON public.llm_responses USING btree (deferred, not_before) WHERE ((status = ANY (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text])) AND (not_before IS NOT NULL));

CREATE INDEX llm_responses_queue ON public.llm_responses USING btree (queue_position) WHERE ((status = ANY (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text])) AND (NOT deferred));

CREATE INDEX llm_responses_reused ON public.llm_responses USING btree (reused_from, id) WHERE (NOT is_answer);

CREATE INDEX llm_responses_task_id ON public.llm_responses USING btree (task_id) WHERE (task_id IS NOT NULL);

CREATE INDEX llm_responses_waiting ON public.llm_responses USING btree (batch_id, id) WHERE (status = ANY (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text]));

CREATE TRIGGER bound_response BEFORE UPDATE OF response_text, response_json, error_message, task_id, status ON public.llm_responses FOR EACH ROW WHEN (((octet_length(new.response_text) > 16777216) OR (octet_length(new.response_json) > 16777216) OR (octet_length(new.error_message) > 16777216) OR (octet_length(new.task_id) > 2000) OR (octet_length(new.status) > 200))) EXECUTE FUNCTION bound_response();

CREATE TRIGGER count_deleted_responses AFTER DELETE ON public.llm_responses REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_responses();

CREATE TRIGGER count_later_attempt AFTER INSERT ON public.llm_responses FOR EACH ROW WHEN ((new.attempt > 1)) EXECUTE FUNCTION count_later_attempt();

CREATE TRIGGER count_truncated_responses AFTER TRUNCATE ON public.llm_responses FOR EACH STATEMENT EXECUTE FUNCTION count_truncated_responses();

CREATE TRIGGER count_updated_responses AFTER UPDATE ON public.llm_responses REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_updated_responses();

CREATE TRIGGER forget_impossible BEFORE UPDATE OF started_processing_at, completed_processing_at, "timestamp", response_time_ms, overall_score, input_tokens, output_tokens, time_taken_seconds, tokens_per_second ON public.llm_responses FOR EACH ROW WHEN (((impossible_columns(new.*) <> '{}'::text[]) OR (new.impossible_numbers IS NOT NULL) OR (new.overall_score = (0)::double precision) OR (new.time_taken_seconds = (0)::double precision) OR (new.tokens_per_second = (0)::double precision))) EXECUTE FUNCTION forget_impossible();

CREATE TRIGGER guard_response BEFORE UPDATE OF status, task_id, started_processing_at, completed_processing_at, response_text, response_json, response_time_ms, error_message, overall_score, input_tokens, output_tokens, time_taken_seconds, tokens_per_second, "timestamp" ON public.llm_responses FOR EACH ROW WHEN (((old.lease_expires_at IS NOT NULL) OR (old.status = ANY (ARRAY['S'::text, 'SUCCESS'::text, 'COMPLETED'::text, 'F'::text, 'FAILED'::text, 'TIMEOUT'::text])))) EXECUTE FUNCTION guard_response();

CREATE TRIGGER hide_keys BEFORE UPDATE OF error_message ON public.llm_responses FOR EACH ROW WHEN ((new.error_message ~ '[\w.~+/=-]{16}|://'::text)) EXECUTE FUNCTION hide_keys('(?<![A-Za-z0-9])(?:sk-(?=[\w-]{0,99}\w{16})(?=[A-Za-z_-]{0,99}[0-9])[\w-]{16,}|(?:gsk|hf|r8|gh[oprsu]|github_pat|[sr]k_live)_\w{16,}|(?:glpat|pplx|nvapi|xai|xox[a-z])-[\w-]{16,}|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|eyJ[\w-]{8,250}\.[\w-]{8,}|(?:[Bb]earer|[Bb]asic)\s+(?=[A-Za-z._~+/=-]{0,99}[0-9])[A-Za-z0-9._~+/=-]{16,}|[a-z][a-z0-9+.-]{0,30}://[^\s/?#@:]*:[^\s/?#@]+@)');

CREATE TRIGGER place_response BEFORE UPDATE OF status ON public.llm_responses FOR EACH ROW WHEN (((new.status = ANY (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text])) AND (old.status <> ALL (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text])) AND (new.queue_position = old.queue_position))) EXECUTE FUNCTION place_response();

CREATE TRIGGER put_end_to_deferral BEFORE UPDATE OF status ON public.llm_responses FOR EACH ROW WHEN ((new.not_before IS NOT NULL)) EXECUTE FUNCTION end_deferral();

CREATE TRIGGER put_withdrawn_aside BEFORE UPDATE OF status, withdrawn_at ON public.llm_responses FOR EACH ROW WHEN (((new.withdrawn_at IS NOT NULL) AND (new.superseded_at IS NULL) AND (new.status = ANY (ARRAY['QUEUED'::text, 'N'::text, 'READY_TO_RETRY'::text, 'PAUSED'::text])))) EXECUTE FUNCTION close_withdrawn();

CREATE TABLE reprocess_requests (
    batch_id integer NOT NULL,
    request text NOT NULL,
    new_attempts integer NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT reprocess_requests_new_attempts_check CHECK ((new_attempts >= 0)),
    CONSTRAINT reprocess_requests_pkey PRIMARY KEY (batch_id, request),
    CONSTRAINT reprocess_requests_request_check CHECK (((length(request) >= 1) AND (length(request) <= 200)))
);

CREATE TABLE response_counts (
    batch_id integer NOT NULL,
    waiting bigint NOT NULL,
    running bigint NOT NULL,
    paused bigint NOT NULL,
    succeeded bigint NOT NULL,
    failed bigint NOT NULL,
    unknown bigint NOT NULL,
    version bigint NOT NULL,
    reused bigint NOT NULL DEFAULT 0,
    CONSTRAINT response_counts_pkey PRIMARY KEY (batch_id)
);

CREATE INDEX response_counts_version ON public.response_counts USING btree (version);

CREATE TABLE response_deltas (
    batch_id integer NOT NULL,
    waiting bigint NOT NULL DEFAULT 0,
    running bigint NOT NULL DEFAULT 0,
    paused bigint NOT NULL DEFAULT 0,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    unknown bigint NOT NULL DEFAULT 0,
    reused bigint NOT NULL DEFAULT 0
);

CREATE VIEW current_llm_responses AS
 SELECT id,
    batch_id,
    document_id,
    prompt_id,
    connection_id,
    attempt,
    status,
    connection_details,
    task_id,
        CASE
            WHEN ((started_processing_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (started_processing_at <= '9990-01-01 00:00:00+00'::timestamp with time zone)) THEN started_processing_at
            ELSE NULL::timestamp with time zone
        END AS started_processing_at,
        CASE
            WHEN ((completed_processing_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (completed_processing_at <= '9990-01-01 00:00:00+00'::timestamp with time zone)) THEN completed_processing_at
            ELSE NULL::timestamp with time zone
        END AS completed_processing_at,
        CASE
            WHEN (octet_length(response_text) <= 16777216) THEN response_text
            ELSE ("left"(response_text, 100000) || format('
(the first 100000 characters of %s bytes)'::text, octet_length(response_text)))
        END AS response_text,
        CASE
            WHEN (octet_length(response_json) <= 16777216) THEN response_json
            ELSE "left"(response_json, 100000)
        END AS response_json,
        CASE
            WHEN (response_time_ms >= 0) THEN response_time_ms
            ELSE NULL::integer
        END AS response_time_ms,
        CASE
            WHEN (octet_length(error_message) <= 16777216) THEN error_message
            ELSE "left"(error_message, 100000)
        END AS error_message,
    (overall_score + (0.0)::double precision) AS overall_score,
        CASE
            WHEN (input_tokens >= 0) THEN input_tokens
            ELSE NULL::integer
        END AS input_tokens,
        CASE
            WHEN (output_tokens >= 0) THEN output_tokens
            ELSE NULL::integer
        END AS output_tokens,
        CASE
            WHEN ((time_taken_seconds >= (0)::double precision) AND (time_taken_seconds <= ('10000000000'::numeric)::double precision)) THEN time_taken_seconds
            ELSE NULL::double precision
        END AS time_taken_seconds,
        CASE
            WHEN ((tokens_per_second >= (0)::double precision) AND (tokens_per_second <= ('10000000000'::numeric)::double precision)) THEN tokens_per_second
            ELSE NULL::double precision
        END AS tokens_per_second,
        CASE
            WHEN (("timestamp" >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND ("timestamp" <= '9990-01-01 00:00:00+00'::timestamp with time zone)) THEN "timestamp"
            ELSE NULL::timestamp with time zone
        END AS "timestamp",
    created_at,
    withdrawn_at,
    file_name,
    queue_position,
    lease_token,
    lease_expires_at,
    deliveries,
    worker,
    superseded_at,
    NULLIF((impossible_numbers || impossible_columns(r.*)), '{}'::text[]) AS impossible_numbers,
    not_before,
    uncounted,
    deferred,
    reused_from,
    reused_batch_id,
    is_answer
   FROM llm_responses r
  WHERE ((withdrawn_at IS NULL) AND (superseded_at IS NULL));

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

CREATE OR REPLACE FUNCTION public.back_of_queue()
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$SELECT last_value + 100000 + floor(random() * 100000)::bigint FROM llm_responses_queue_clock$function$;

CREATE OR REPLACE FUNCTION public.bound_response()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.claim_responses(rows integer DEFAULT 1, lease interval DEFAULT '00:05:00'::interval, worker text DEFAULT NULL::text)
 RETURNS SETOF claimed_response
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.close_withdrawn()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    NEW.status := 'F';
    NEW.error_message := 'its document left the batch before it was evaluated';
    NEW.completed_processing_at := clock_timestamp();
    NEW.not_before := NULL;
    NEW.deferred := false;
    RETURN NEW;
END $function$;

CREATE OR REPLACE FUNCTION public.complete_response(token uuid, overall_score double precision DEFAULT NULL::double precision, response_text text DEFAULT NULL::text, response_json text DEFAULT NULL::text, input_tokens integer DEFAULT NULL::integer, output_tokens integer DEFAULT NULL::integer, time_taken_seconds double precision DEFAULT NULL::double precision)
 RETURNS written_response
 LANGUAGE sql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET search_path TO 'public', 'pg_temp'
AS $function$
    SELECT write_result(token, 'S', NULL, overall_score, response_text, response_json, input_tokens,
                        output_tokens, time_taken_seconds)
$function$;

CREATE OR REPLACE FUNCTION public.count_deleted_responses()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    INSERT INTO response_deltas
    SELECT batch_id,
           -count(*) FILTER (WHERE outcome = 'waiting'), -count(*) FILTER (WHERE outcome = 'running'),
           -count(*) FILTER (WHERE outcome = 'paused'), -count(*) FILTER (WHERE outcome = 'succeeded'),
           -count(*) FILTER (WHERE outcome = 'failed'), -count(*) FILTER (WHERE outcome = 'unknown'),
           -count(reused_from)
    FROM (SELECT batch_id, response_outcome(status) AS outcome, reused_from FROM old_rows
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
END $function$;

CREATE OR REPLACE FUNCTION public.count_later_attempt()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.count_truncated_responses()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    DELETE FROM response_counts;
    DELETE FROM response_deltas;
    RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.count_updated_responses()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    INSERT INTO response_deltas
    SELECT batch_id,
           coalesce(sum(cells) FILTER (WHERE outcome = 'waiting'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'running'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'paused'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'succeeded'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'failed'), 0),
           coalesce(sum(cells) FILTER (WHERE outcome = 'unknown'), 0),
           coalesce(sum(cells) FILTER (WHERE reused), 0)
    FROM (
        SELECT batch_id, response_outcome(status) AS outcome, reused, sum(cells) AS cells
        FROM (SELECT batch_id, status, reused_from IS NOT NULL AS reused, 1 AS cells FROM new_rows
              WHERE withdrawn_at IS NULL AND superseded_at IS NULL
              UNION ALL
              SELECT batch_id, status, reused_from IS NOT NULL, -1 FROM old_rows
              WHERE withdrawn_at IS NULL AND superseded_at IS NULL) AS changed
        GROUP BY batch_id, status, reused) AS summed
    GROUP BY batch_id
    HAVING bool_or(cells <> 0) OR bool_or(outcome IN ('succeeded', 'failed'));
    RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.deliver_responses(rows integer, lease interval, worker text)
 RETURNS SETOF claimed_response
 LANGUAGE plpgsql
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.end_deferral()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    IF NEW.status NOT IN ('QUEUED', 'N', 'READY_TO_RETRY', 'PAUSED') THEN
        NEW.not_before := NULL;
        NEW.deferred := false;
    ELSIF NEW.not_before <= clock_timestamp() THEN
        NEW.deferred := false;
    END IF;
    RETURN NEW;
END $function$;

CREATE OR REPLACE FUNCTION public.expire_leases(since timestamp with time zone DEFAULT '-infinity'::timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET enable_sort TO 'off'
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.fail_response(token uuid, error_message text, retry boolean DEFAULT false, response_text text DEFAULT NULL::text, response_json text DEFAULT NULL::text, input_tokens integer DEFAULT NULL::integer, output_tokens integer DEFAULT NULL::integer, time_taken_seconds double precision DEFAULT NULL::double precision, not_before interval DEFAULT NULL::interval, counted boolean DEFAULT true)
 RETURNS written_response
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.fold_response_counts(most integer DEFAULT 20000)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
           nextval('response_counts_clock'), sum(reused)
    FROM folded GROUP BY batch_id
    ON CONFLICT (batch_id) DO UPDATE
    SET waiting = c.waiting + excluded.waiting, running = c.running + excluded.running,
        paused = c.paused + excluded.paused, succeeded = c.succeeded + excluded.succeeded,
        failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown,
        version = excluded.version, reused = c.reused + excluded.reused;
END $function$;

CREATE OR REPLACE FUNCTION public.forget_impossible()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.guard_response()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.heartbeat_response(token uuid, lease interval DEFAULT '00:05:00'::interval)
 RETURNS written_response
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.hide_keys()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    NEW.error_message := regexp_replace(NEW.error_message, TG_ARGV[0], '(key not shown)', 'g');
    RETURN NEW;
END $function$;

CREATE OR REPLACE FUNCTION public.impossible_columns(r llm_responses)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION public.in_utc(moment timestamp with time zone)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')$function$;

CREATE OR REPLACE FUNCTION public.is_json(given text)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE STRICT
AS $function$
BEGIN
    PERFORM given::json;
    RETURN true;
EXCEPTION
    -- The second is what is nested too deeply to be read.
    WHEN data_exception OR statement_too_complex THEN
        RETURN false;
END $function$;

CREATE OR REPLACE FUNCTION public.lock_response_counts()
 RETURNS void
 LANGUAGE sql
AS $function$LOCK TABLE response_counts IN SHARE UPDATE EXCLUSIVE MODE$function$;

CREATE OR REPLACE FUNCTION public.look_for_leases_at(moment timestamp with time zone)
 RETURNS void
 LANGUAGE sql
AS $function$SELECT setval('llm_responses_lease_clock'::regclass, (extract(epoch FROM moment) * 1000000)::bigint)$function$;

CREATE OR REPLACE FUNCTION public.new_lease_token(id bigint)
 RETURNS uuid
 LANGUAGE sql
AS $function$SELECT (lpad(to_hex(id), 16, '0') || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid$function$;

CREATE OR REPLACE FUNCTION public.next_look(moment timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.note_questions()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
    INSERT INTO batch_questions (batch_id, prompt_id, connection_id, digest)
    SELECT NEW.batch_id, q.prompt_id, q.connection_id, q.digest FROM questions_of(NEW.config) AS q
    ON CONFLICT ON CONSTRAINT batch_questions_pkey DO UPDATE SET digest = excluded.digest;
    RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.place_response()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.question_digest(prompt jsonb, connection jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'public', 'pg_temp'
AS $function$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        prompt -> 'text', connection -> 'provider_type', connection -> 'model_name', connection -> 'base_url',
        connection -> 'port_no', connection -> 'connection_config')::text, 'UTF8')), 'hex')
$function$;

CREATE OR REPLACE FUNCTION public.questions_of(config jsonb)
 RETURNS TABLE(prompt_id integer, connection_id integer, digest text)
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'public', 'pg_temp'
AS $function$
    SELECT (p ->> 'id')::numeric::int, (c ->> 'id')::numeric::int, min(question_digest(p, c))
    FROM jsonb_path_query(config, '$.prompts[*] ? (@.id.type() == "number" && @.id.floor() == @.id
                                                   && @.id >= 1 && @.id <= 2147483647)') AS p,
         jsonb_path_query(config, '$.connections[*] ? (@.id.type() == "number" && @.id.floor() == @.id
                                                       && @.id >= 1 && @.id <= 2147483647)') AS c
    GROUP BY 1, 2 HAVING count(DISTINCT question_digest(p, c)) = 1
$function$;

CREATE OR REPLACE FUNCTION public.recount_responses(batch integer)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
           nextval('response_counts_clock'), count(reused_from)
    FROM (SELECT response_outcome(status) AS outcome, reused_from
          FROM current_llm_responses WHERE batch_id = batch) AS cells
    ON CONFLICT (batch_id) DO UPDATE
    SET waiting = excluded.waiting, running = excluded.running, paused = excluded.paused,
        succeeded = excluded.succeeded, failed = excluded.failed, unknown = excluded.unknown,
        version = excluded.version, reused = excluded.reused;
END $function$;

CREATE OR REPLACE FUNCTION public.refused(token uuid)
 RETURNS written_response
 LANGUAGE plpgsql
 STABLE
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.release_responses(since timestamp with time zone, moment timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_sort TO 'off'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.require_lease(lease interval)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
BEGIN
    IF lease IS NULL OR lease <= interval '0' OR lease > interval '1 day' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a lease lasts more than nothing and at most a day';
    END IF;
END $function$;

CREATE OR REPLACE FUNCTION public.response_of_token(token uuid)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE
AS $function$SELECT ('x' || left(replace(token::text, '-', ''), 16))::bit(64)::bigint$function$;

CREATE OR REPLACE FUNCTION public.response_outcome(status text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT CASE WHEN status IN ('QUEUED', 'N', 'READY_TO_RETRY') THEN 'waiting'
                WHEN status IN ('P', 'PROCESSING', 'R') THEN 'running'
                WHEN status IN ('PAUSED') THEN 'paused'
                WHEN status IN ('S', 'SUCCESS', 'COMPLETED') THEN 'succeeded'
                WHEN status IN ('F', 'FAILED', 'TIMEOUT') THEN 'failed'
                ELSE 'unknown' END
$function$;

CREATE OR REPLACE FUNCTION public.return_responses(ids bigint[], place bigint, reason text, wait interval DEFAULT '00:00:00'::interval, counted boolean DEFAULT true)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.take_responses(present bigint, rows integer, lease interval, worker text)
 RETURNS SETOF llm_responses
 LANGUAGE plpgsql
 ROWS 1
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_sort TO 'off'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.tidy_queue()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET enable_sort TO 'off'
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.write_result(token uuid, status text, error_message text, overall_score double precision, response_text text, response_json text, input_tokens integer, output_tokens integer, time_taken_seconds double precision)
 RETURNS written_response
 LANGUAGE plpgsql
AS $function$
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
END $function$;
