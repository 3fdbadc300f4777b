"""Runs Dagster jobs in this process, on the same instance as the UI, so that they appear there."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.cli.bars import NewBar, bars
from doceval_pipeline.cli.collector import importing
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.defs.naming import NAME, name_of, run_tags_of
from doceval_pipeline.defs.resources import STORING, StagingProgress
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.errors import StagingError
from doceval_pipeline.portions import Progress
from doceval_pipeline.settings import Settings

if TYPE_CHECKING:
    from doceval_pipeline.batches.archiving.restore import RestoredBatch

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class JobRunner(Protocol):
    """Runs a job, for the partition of a batch if the job has partitions; the UI shows it like any run."""

    def __call__(self, batch_id: int | None = None) -> dg.ExecuteInProcessResult:
        """The result of a successful run.

        Raises
        ------
        StagingError
            The run failed; the message is the one that Dagster shows.
        """


@contextmanager
def open_job(
    name: str, batch_ids: Iterable[int], *, quiet: bool, ops: Mapping[str, Any] | None = None
) -> Iterator[JobRunner]:
    """Prepare to run a job for each of the given batches in this process.

    Parameters
    ----------
    quiet
        Draw no progress bars.
    ops
        The config of the job's ops, as in the launchpad.
    """
    settings, numbers = Settings.from_environment(), list(batch_ids)
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions(partitions.NAME, [partition_key(number) for number in numbers])
        tags = run_tags_of(open_databases(settings), numbers)
        defs = _definitions_of(name, settings)
        job = defs.resolve_job_def(name)

        def run(batch_id: int | None = None) -> dg.ExecuteInProcessResult:
            with bars(visible=not quiet) as new_bar:
                progress = StagingProgress() if quiet else _terminal_progress(new_bar)
                result = job.execute_in_process(
                    instance=instance,
                    partition_key=None if batch_id is None else partition_key(batch_id),
                    tags=None if batch_id is None else tags.get(batch_id),
                    # Dagster's event log has the events; the terminal shows the result.
                    run_config={**QUIET, "ops": dict(ops or {})},
                    raise_on_error=False,
                    resources={**(defs.resources or {}), "progress": progress},
                )
            if not result.success:
                if _was_interrupted(result):
                    # Dagster ends the run and returns, and the next batch would begin.
                    raise KeyboardInterrupt
                raise StagingError(_failure(result))
            return result

        yield run


def _definitions_of(job: str, settings: Settings) -> dg.Definitions:
    """The definitions of a job: of staging alone, which is started most often, or of the whole project."""
    with importing():
        if job == "stage_batch":
            from doceval_pipeline.defs.assembly import staging_definitions as definitions
        else:
            from doceval_pipeline.definitions import own_definitions as definitions
    return definitions(settings)


def restore_and_report(restore: Callable[[], "RestoredBatch"]) -> "RestoredBatch":
    """Restore a batch and record that in its partition's history in Dagster.

    Not a job, because the file is on the caller's machine and the partition may not exist yet.
    """
    from doceval_pipeline.defs.jobs import archive_observation

    with open_instance(Settings.from_environment()) as instance:
        restored = restore()
        key = partition_key(restored.batch_id)
        instance.add_dynamic_partitions(partitions.NAME, [key])
        shown = {
            NAME: name_of(open_databases(Settings.from_environment()), restored.batch_id),
            "archive": dg.MetadataValue.path(restored.path),
            "archive_bytes": restored.path.stat().st_size,
            "archive_sha256": restored.sha256,
            "restored_rows": restored.rows,
            "restored_documents": restored.documents,
        }
        instance.report_runless_asset_event(archive_observation(key, archived=False, shown=shown))
    return restored


def _terminal_progress(new_bar: NewBar) -> StagingProgress:
    class _TerminalProgress(StagingProgress):
        """Draws progress bars instead of writing progress into the run's log."""

        def listener(self, log: dg.DagsterLogManager, what: str = STORING) -> Progress:
            return new_bar(what)

    return _TerminalProgress()


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    reasons = [
        event.job_failure_data.failure_reason
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.RUN_FAILURE
    ]
    return any(reason is not None and reason.name == "UNEXPECTED_TERMINATION" for reason in reasons)


def _failure(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error is not None:
                return _reason(data.error)
    return f"run {result.run_id} failed: see it in Dagster's UI"


def _reason(error: SerializableErrorInfo) -> str:
    """The message of an error that Dagster has recorded, without the name of its class."""
    while error.cause is not None:
        error = error.cause
    message = error.message.strip().removeprefix(f"{error.cls_name}:")
    # The name of the class may include its module.
    message = message.split(f".{error.cls_name}:", 1)[-1].strip()
    return (message.splitlines() or ["no reason was given"])[0]
