"""Corruptions in the life of a batch, by invariant."""

from doceval_pipeline.batches.results.report_files import report_path
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline_tests.batches.invariants.corruptions.corruption import ROW, THE_ROW, Corruption
from doceval_pipeline_tests.batches.invariants.installation import Installation
from doceval_pipeline_tests.conftest import Sample


def _remove_report(installation: Installation) -> None:
    batch: Sample = installation["reprocessed"]
    ((name,),) = batch.doc_eval("SELECT report_file FROM batches WHERE id = :id")
    report_path(batch.databases, name).unlink()


def _begin_staging(installation: Installation) -> None:
    batch: Sample = installation["saved"]
    seal_batch(batch.databases, batch.id)
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '1 hour' WHERE id = :id")


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "staging-goes-on": (
        Corruption("saved", "SELECT 'status STAGING'", "doceval stage {id}", operation=_begin_staging),
    ),
    "requested-is-staged": (
        Corruption(
            "saved",
            "SELECT 'status SAVED'",
            "doceval stage {id}",
            doc_eval="UPDATE batches SET stage_requested_at = now() - interval '3 minutes' WHERE id = {id}",
        ),
        Corruption(
            "saved",
            "SELECT 'status FAILED_STAGING'",
            "doceval stage {id}",
            doc_eval="UPDATE batches SET status = 'FAILED_STAGING', stage_requested_at = now() "
            "WHERE id = {id}",
        ),
    ),
    "closed-is-done": (
        Corruption(
            "reprocessed",
            "SELECT 'llm_responses.id ' || max(id) FROM llm_responses WHERE batch_id = {id}",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET status = 'N' "
            "WHERE id = (SELECT max(id) FROM llm_responses WHERE batch_id = {id})",
        ),
    ),
    "verdict-is-true": (
        Corruption(
            "reprocessed",
            "SELECT 'status FAILED'",
            "recount_responses({id})",
            doc_eval="UPDATE batches SET status = 'FAILED' WHERE id = {id}",
        ),
        Corruption(
            "cancelled",
            "SELECT 'status COMPLETED'",
            "recount_responses({id})",
            doc_eval="UPDATE batches SET status = 'COMPLETED' WHERE id = {id}",
        ),
        Corruption(
            "reprocessed",
            "SELECT 'status COMPLETED'",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET status = 'F' WHERE batch_id = {id}",
        ),
    ),
    "done-is-closed": (
        Corruption(
            "reprocessed",
            "SELECT 'status ANALYZING'",
            "doceval up",
            doc_eval="UPDATE batches SET status = 'ANALYZING' WHERE id = {id}",
        ),
    ),
    "results-are-as-completed": (
        Corruption(
            "reprocessed",
            "SELECT 'result_digest'",
            "recount_responses({id})",
            knowledge="UPDATE llm_responses SET overall_score = 1 WHERE batch_id = {id}",
        ),
    ),
    "paused-is-held": (
        Corruption(
            "paused",
            THE_ROW,
            "doceval pause {id}",
            knowledge=f"UPDATE llm_responses SET status = 'READY_TO_RETRY' WHERE id = {ROW}",
        ),
        Corruption(
            "paused",
            "SELECT 'batch_configs.requeue_as'",
            "doceval pause {id}",
            knowledge="UPDATE batch_configs SET requeue_as = 'QUEUED' WHERE batch_id = {id}",
        ),
    ),
    "closed-is-reported": (
        Corruption(
            "reprocessed",
            "SELECT 'result_digest ' || result_digest FROM batches WHERE id = {id}",
            "doceval report {id}",
            reported_in="doc_eval",
            doc_eval="UPDATE batches SET reported_digest = NULL, completed_at = now() - interval '3 minutes' "
            "WHERE id = {id}",
        ),
        Corruption(
            "reprocessed",
            "SELECT 'result_digest ' || result_digest FROM batches WHERE id = {id}",
            "doceval report {id}",
            reported_in="doc_eval",
            doc_eval="""
                WITH changed AS (
                    UPDATE batches SET reported_digest = NULL, completed_at = now() WHERE id = {id}
                    RETURNING id, result_digest, completed_at)
                INSERT INTO run_requests (batch_id, kind, word, attempt, due_at, last_end, last_ended_at)
                SELECT id, 'report',
                       result_digest || to_char(completed_at AT TIME ZONE 'UTC', '-YYYYMMDD"T"HH24MISS.US'),
                       2, now(), 'CANCELED', now()
                FROM changed
            """,
        ),
    ),
    "report-is-there": (
        Corruption(
            "reprocessed",
            "SELECT 'reported_digest ' || reported_digest FROM batches WHERE id = {id}",
            "doceval report {id}",
            operation=_remove_report,
            reported_in="doc_eval",
        ),
    ),
    "runs-begin": (
        Corruption(
            "reprocessed",
            "SELECT 'run 0a1b2c3d of archive_batch'",
            "re-execute the run in Dagster's UI",
            doc_eval="INSERT INTO lost_runs VALUES ('0a1b2c3d-e', 'archive_batch', {id}, NULL, now())",
        ),
    ),
}
