"""The one Definitions object; nothing else."""

import dagster as dg

from doceval_pipeline.defs import jobs, reporting, responses, schedules, sensors, staging
from doceval_pipeline.defs.resources import DocEval, StagingProgress

defs = dg.Definitions(
    assets=[
        staging.batch_config_snapshot,
        staging.document_assignment,
        staging.encoded_documents,
        staging.queue_rows,
        responses.llm_responses,
        reporting.completion_report,
    ],
    asset_checks=[
        staging.documents_round_trip,
        staging.queue_is_complete,
        staging.rows_have_documents,
    ],
    jobs=[
        jobs.create_batch,
        jobs.stage_batch,
        jobs.report_batch,
        jobs.reprocess_batch,
        jobs.pause_batch,
        jobs.resume_batch,
        jobs.cancel_batch,
        jobs.archive_batch,
    ],
    sensors=[sensors.new_batches, sensors.response_status, sensors.staging_failure],
    schedules=[schedules.stage_saved_batches],
    resources={"doc_eval": DocEval(), "progress": StagingProgress()},
    # One batch is one process: a process per step costs more than the steps of a small batch.
    executor=dg.in_process_executor,
)
