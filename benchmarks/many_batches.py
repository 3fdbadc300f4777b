"""Many batches with everything that they leave behind in the three databases. Made in SQL, and never timed.

Each batch has one document and four evaluations, its samples of progress, requests, history, message of the
webhook, runs and partition; most of them are occurrences of recurring evaluations.
"""

from contextlib import closing

from benchmarks import material
from benchmarks.dagster_runs import connect
from benchmarks.installation import Installation
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.knowledge.digests import digest

COLUMNS = 2
CELLS = COLUMNS * COLUMNS
# Each is as old as its number says; the newest one was completed an hour ago.
_BATCHES = """
    INSERT INTO batches (id, batch_number, batch_name, status, config_snapshot, config_sha256, expected_cells,
                         result_digest, reported_digest, created_at, started_at, completed_at)
    SELECT n, n, 'batch ' || n, CASE WHEN is_open THEN 'ANALYZING' ELSE 'COMPLETED' END,
           json_build_object('prompt', repeat('Does it say so? ', 100)), 'of nothing', :cells,
           known, known, done - interval '2 hours', done - interval '1 hour',
           CASE WHEN NOT is_open THEN done END
    FROM generate_series(2, :count) AS n,
         LATERAL (SELECT n % :one_open_in = 0 AS is_open,
                         now() - interval '1 hour' - (:count - n) * interval '1 minute' AS done) AS each,
         LATERAL (SELECT CASE WHEN NOT is_open THEN :digest END AS known) AS result
"""
# Its documents are those of all batches; the second batch is completed.
_FIRST_BATCH = """
    UPDATE batches b
    SET status = o.status, expected_cells = o.expected_cells, result_digest = o.result_digest,
        reported_digest = o.reported_digest, created_at = o.created_at - interval '1 minute',
        completed_at = o.completed_at
    FROM batches o WHERE b.id = 1 AND o.id = 2
"""
_OF_BATCHES = (
    "INSERT INTO batch_connections SELECT b.id, 1 FROM batches b WHERE b.id > 1",
    "INSERT INTO batch_prompts SELECT b.id, 1 FROM batches b WHERE b.id > 1",
    """
    INSERT INTO batch_documents (batch_id, document_id, state, file_size, sha256, knowledge_document_id)
    SELECT b.id, d.document_id, d.state, d.file_size, d.sha256, d.knowledge_document_id
    FROM batches b, batch_documents d WHERE d.batch_id = 1 AND b.id > 1
    """,
    """
    INSERT INTO batch_progress (batch_id, observed_at, waiting, running, paused, succeeded, failed, unknown)
    SELECT b.id, b.started_at + done * interval '1 minute', :cells - done, 0, 0, done, 0, 0
    FROM batches b, generate_series(0, :cells) AS done
    WHERE b.completed_at IS NOT NULL OR done = 0
    """,
    """
    INSERT INTO connection_history
    SELECT b.id, 1, measure, :cells, 1, 1, 1, 1, 1, 1
    FROM batches b, unnest(ARRAY['input_tokens', 'output_tokens', 'seconds']) AS measure
    WHERE b.completed_at IS NOT NULL
    """,
    """
    INSERT INTO run_requests (batch_id, kind, word, attempt, due_at)
    SELECT id, 'stage', 'x', 1, started_at FROM batches
    UNION ALL
    SELECT id, 'report', 'x', 1, completed_at FROM batches WHERE completed_at IS NOT NULL
    """,
    """
    INSERT INTO webhook_deliveries (batch_id, result_digest, payload, created_at, attempts, next_attempt_at,
                                    delivered_at)
    SELECT id, result_digest, repeat('x', 1000), completed_at + interval '5 seconds', 1, NULL,
           completed_at + interval '5 seconds'
    FROM batches WHERE completed_at IS NOT NULL
    """,
    """
    INSERT INTO recurring_evaluations (name, definition, watched_from)
    SELECT 'inbox ' || n, r.definition, r.watched_from
    FROM recurring_evaluations r, generate_series(2, :series) AS n WHERE r.name = 'inbox 1'
    """,
    """
    INSERT INTO occurrences (recurring_id, due_at, outcome, batch_id)
    SELECT r.id, b.created_at, 'MADE', b.id
    FROM batches b JOIN recurring_evaluations r ON r.name = 'inbox ' || b.id % (:series + 1)
    """,
    "ANALYZE",
)
_EVALUATIONS = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, status, connection_details,
                               task_id, started_processing_at, completed_processing_at, response_text,
                               overall_score, input_tokens, output_tokens, time_taken_seconds)
    SELECT n, d.id, p, c, CASE WHEN NOT is_open THEN 'S' ELSE 'QUEUED' END, CAST(:details AS jsonb),
           'task', now(), now(), CASE WHEN NOT is_open THEN 'An answer.' END,
           CASE WHEN NOT is_open THEN (p * 13 + c) % 101 END, 5000, 300, 2.5
    FROM generate_series(1, :count) AS n, generate_series(1, 2) AS p, generate_series(1, 2) AS c,
         (SELECT min(id) AS id FROM docs) AS d, LATERAL (SELECT n % :one_open_in = 0 AS is_open) AS each
"""
# As `recount_responses` counts one batch.
_COUNTS = """
    INSERT INTO response_counts (batch_id, waiting, running, paused, succeeded, failed, unknown, version)
    SELECT n, CASE WHEN is_open THEN :cells ELSE 0 END, 0, 0, CASE WHEN is_open THEN 0 ELSE :cells END, 0, 0,
           nextval('response_counts_clock')
    FROM generate_series(1, :count) AS n, LATERAL (SELECT n % :one_open_in = 0 AS is_open) AS each
"""
_REOPEN = """
    UPDATE llm_responses SET status = 'QUEUED', overall_score = NULL
    WHERE status = 'S' AND response_text IS NULL
"""
_RECOUNT = "SELECT recount_responses(n) FROM generate_series(:one_open_in, :count, :one_open_in) AS n"
_SEALED = """
    INSERT INTO batch_configs (batch_id, config, sha256)
    SELECT n, config, sha256 FROM batch_configs, generate_series(2, :count) AS n WHERE batch_id = 1
"""
# Two runs of each batch, with the tags that Dagster's sensors look up.
_RUNS = """
    INSERT INTO runs (run_id, pipeline_name, status, run_body, create_timestamp, update_timestamp, start_time,
                      end_time)
    SELECT job || '-' || n, job || '_batch', 'SUCCESS', '', now(), now() - interval '8 days', 1, 2
    FROM generate_series(1, %(count)s) AS n, unnest(ARRAY['stage', 'report']) AS job;
    INSERT INTO run_tags (run_id, key, value)
    SELECT job || '-' || n, key, format(form, job, lpad(n::text, 6, '0'))
    FROM generate_series(1, %(count)s) AS n, unnest(ARRAY['stage', 'report']) AS job,
         (VALUES ('dagster/partition', 'batch-%%2$s'), ('dagster/run_key', '%%s-batch-%%s-x-1'),
                 ('dagster/sensor_name', 'new_batches')) AS tag(key, form);
    INSERT INTO dynamic_partitions (partitions_def_name, partition)
    SELECT %(partitions)s, 'batch-' || lpad(n::text, 6, '0') FROM generate_series(1, %(count)s) AS n;
    ANALYZE
"""


def make_batches(installation: Installation, count: int, one_open_in: int, series: int) -> None:
    """Fill the three databases with `count` batches, the documents and evaluations of one batch each.

    Parameters
    ----------
    one_open_in
        Every so many batches one is open; the others are completed, reported and their messages delivered.
    series
        The number of recurring evaluations that made the batches.
    """
    installation.empty()
    first = installation.apply(material.documents(installation.folder / "one", 1, material.KIB), 2, 2)
    material.store_batch(installation, first)
    _define_recurring(installation)
    _fill_knowledge(installation, count, one_open_in)
    with installation.databases.knowledge.connect() as connection:
        # A batch's number is not part of its digest, and these batches are alike.
        result = digest(connection, first)
    _fill_doc_eval(installation, count, one_open_in, series, result)
    _fill_dagster(installation, count)
    installation.checkpoint()


def reopen(installation: Installation, count: int, one_open_in: int) -> None:
    """Discard the results of the open batches, and run a checkpoint."""
    parameters = {"count": count, "one_open_in": one_open_in}
    installation.make_rows(_REOPEN, range(1, 1))
    installation.knowledge(_RECOUNT, **parameters)
    installation.vacuum("llm_responses")
    installation.checkpoint()


def _define_recurring(installation: Installation) -> None:
    content = {
        "recurring": [
            {
                "name": "inbox 1",
                "schedule": "0 0 1 1 *",
                "folders": [str(installation.folder / "one")],
                "connections": ["model-0"],
                "prompts": ["prompt-0"],
            }
        ],
    }
    apply_evaluation(installation.databases.doc_eval, locate(content, None, key_path))


def _fill_knowledge(installation: Installation, count: int, one_open_in: int) -> None:
    parameters = {"count": count, "one_open_in": one_open_in}
    installation.make_rows(_EVALUATIONS, range(1, 1), **parameters, details=material.DETAILS)
    installation.knowledge(_COUNTS, **parameters, cells=CELLS)
    installation.knowledge(_SEALED, count=count)
    installation.vacuum("llm_responses")


def _fill_doc_eval(
    installation: Installation, count: int, one_open_in: int, series: int, result: str | None
) -> None:
    installation.doc_eval(_BATCHES, count=count, one_open_in=one_open_in, cells=CELLS, digest=result)
    installation.doc_eval(_FIRST_BATCH)
    for statement in _OF_BATCHES:
        names = {"cells": CELLS, "series": series}
        installation.doc_eval(
            statement, **{name: value for name, value in names.items() if f":{name}" in statement}
        )


def _fill_dagster(installation: Installation, count: int) -> None:
    open_instance(installation.databases.settings).dispose()
    with closing(connect(installation.home, "dagster")) as storage, storage, storage.cursor() as cursor:
        cursor.execute("TRUNCATE dynamic_partitions, runs, run_tags, event_logs, asset_keys CASCADE")
        cursor.execute(_RUNS, {"count": count, "partitions": partitions.NAME})
