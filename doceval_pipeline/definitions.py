"""The one Definitions object; nothing else."""

import dagster as dg

from doceval_pipeline.defs import jobs, reporting, responses, schedules, sensors, staging, upkeep
from doceval_pipeline.defs.resources import DocEval, StagingProgress
from doceval_pipeline.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """Everything that Dagster is given; the times of the schedules come from the environment."""
    return dg.Definitions(
        assets=[
            staging.batch_config_snapshot,
            staging.document_assignment,
            staging.encoded_documents,
            staging.queue_rows,
            responses.llm_responses,
            reporting.completion_report,
            upkeep.audit,
        ],
        asset_checks=[
            staging.documents_round_trip,
            staging.queue_checks,
            responses.responses_keep_coming,
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
            upkeep.audit_databases,
            upkeep.retention,
        ],
        sensors=[
            sensors.new_batches,
            sensors.response_status,
            sensors.stalled_work,
            sensors.staging_failure,
        ],
        schedules=schedules.schedules(Settings.from_environment()),
        resources={"doc_eval": DocEval(), "progress": StagingProgress()},
        # One batch is one process: a process per step costs more than the steps of a small batch.
        executor=dg.in_process_executor,
    )
