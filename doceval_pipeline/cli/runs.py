"""Runs Dagster's jobs in this process, on the same instance as the UI, so that they appear there."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from doceval_pipeline.batches.restoring import Restored
from doceval_pipeline.batches.storing import Progress as Tell
from doceval_pipeline.cli.bars import Draw, bars
from doceval_pipeline.definitions import own_definitions
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.defs.jobs import archive_observation
from doceval_pipeline.defs.resources import StagingProgress
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.errors import StagingError
from doceval_pipeline.settings import Settings

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_in_dagster(
    job: str, batch_id: int, quiet: bool, ops: Mapping[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    """Run a job for one batch's partition; it shows in the UI like any other run.

    Parameters
    ----------
    quiet
        Draw no progress.
    ops
        The config of the job's ops, as in the launchpad.

    Raises
    ------
    StagingError
        The run failed; the line is the one that the run shows in Dagster.
    """
    key = partition_key(batch_id)
    with open_instance(Settings.from_environment()) as instance, bars(visible=not quiet) as draw:
        instance.add_dynamic_partitions(partitions.NAME, [key])
        defs = own_definitions()
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=key,
            # The events are in Dagster's event log; the terminal gets the result.
            run_config={**QUIET, "ops": dict(ops or {})},
            raise_on_error=False,
            resources={
                **(defs.resources or {}),
                "progress": StagingProgress() if quiet else _in_the_terminal(draw),
            },
        )
    if not result.success:
        raise StagingError(_failure(result))
    return result


def restore_and_tell(restore: Callable[[], Restored]) -> Restored:
    """Restore a batch, and let its partition's history in Dagster say so.

    No job, because the file is on the machine of whoever asks, and the partition may not be there yet.
    """
    with open_instance(Settings.from_environment()) as instance:
        restored = restore()
        key = partition_key(restored.batch_id)
        instance.add_dynamic_partitions(partitions.NAME, [key])
        shown = {
            "archive": dg.MetadataValue.path(restored.path),
            "archive_bytes": restored.path.stat().st_size,
            "archive_sha256": restored.sha256,
            "restored_rows": restored.rows,
            "restored_documents": restored.documents,
        }
        instance.report_runless_asset_event(archive_observation(key, archived=False, shown=shown))
    return restored


def _in_the_terminal(draw: Draw) -> StagingProgress:
    class Bars(StagingProgress):
        """Draws progress instead of writing it into the run's log."""

        def listener(self, log: dg.DagsterLogManager, what: str = "storing documents") -> Tell:
            return draw(what)

    return Bars()


def _failure(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error is not None:
                return data.error.message.strip().splitlines()[-1]
    return f"run {result.run_id} failed: see it in Dagster's UI"
