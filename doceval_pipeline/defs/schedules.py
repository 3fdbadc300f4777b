"""Schedules. Off until somebody turns them on: staging may begin work that costs money."""

import dagster as dg

from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.jobs import stage_batch
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.doc_eval.batches import batches_in
from doceval_pipeline.doc_eval.lifecycle import Status


@dg.schedule(cron_schedule="0 * * * *", job=stage_batch, execution_timezone="UTC")
def stage_saved_batches(context: dg.ScheduleEvaluationContext, doc_eval: DocEval) -> list[dg.RunRequest]:
    """Stage every batch that is saved and not staged yet, at each full hour."""
    with doc_eval.open().doc_eval.connect() as connection:
        saved = [batch.key for batch in batches_in(connection, [Status.SAVED])]
    context.instance.add_dynamic_partitions(partitions.NAME, saved)
    moment = context.scheduled_execution_time.isoformat()
    return [dg.RunRequest(run_key=f"stage-{key}-{moment}", partition_key=key) for key in saved]
