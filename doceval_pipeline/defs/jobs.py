"""Jobs on batches, launched from the launchpad, by sensors or from the command line."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.files.file_counts import batch_tallies, left_out
from doceval_pipeline.batches.files.folders import folder_problems
from doceval_pipeline.batches.staging.applying import apply
from doceval_pipeline.batches.staging.planning import Plan, plan
from doceval_pipeline.batches.staging.reprocessing import cancel, cancel_staging, pause, reprocess, resume
from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.launchpads import example_values
from doceval_pipeline.defs.naming import NAME, name_of, shown_name
from doceval_pipeline.defs.reporting import completion_report
from doceval_pipeline.defs.resources import FINDING, QUEUEING, DocEval, StagingProgress
from doceval_pipeline.defs.staging import Queue, queue_rows
from doceval_pipeline.defs.steps import NoConfig, first_run_of, open_batch, open_step
from doceval_pipeline.doc_eval.batches import batch_id_of, partition_key
from doceval_pipeline.doc_eval.definitions import schema
from doceval_pipeline.doc_eval.definitions.apply import Applied
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate, refuse_credentials
from doceval_pipeline.doc_eval.definitions.yaml_text import Location
from doceval_pipeline.errors import EvaluationFileError
from doceval_pipeline.reports.formatting import counted, size_text
from doceval_pipeline.reports.sanitize import visible_name

report_batch = dg.define_asset_job(
    "report_batch",
    selection=dg.AssetSelection.assets(completion_report),
    description="Writes the completion report of a batch from its current results.",
)


def _description(model: type[schema.Definition], name: str) -> str | None:
    """The description of a field of an evaluation file, for the launchpad's field of the same name."""
    return model.model_fields[name].description


_connection_field = partial(_description, schema.ConnectionDefinition)
_prompt_field = partial(_description, schema.PromptDefinition)
_batch_field = partial(_description, schema.BatchDefinition)


class NewConnection(dg.Config):
    """How a processor reaches a model. Never contains a key."""

    name: str = Field(description=_connection_field("name"))
    provider: str = Field(description=_connection_field("provider"))
    model: str = Field(description=_connection_field("model"))
    base_url: str | None = Field(default=None, description=_connection_field("base_url"))
    port: int | None = Field(default=None, description=_connection_field("port"))
    api_key_env: str | None = Field(default=None, description=_connection_field("api_key_env"))
    config: dict[str, Any] = Field(default={}, description=_connection_field("config"))
    prices: dict[str, Any] | None = Field(default=None, description=_connection_field("prices"))


class NewPrompt(dg.Config):
    """One criterion: the text that a model is asked about each document."""

    name: str = Field(description=_prompt_field("name"))
    text: str = Field(description=_prompt_field("text"))
    threshold: float | None = Field(default=None, description=_prompt_field("threshold"))
    weight: float | None = Field(default=None, description=_prompt_field("weight"))


class NewBatch(dg.Config):
    """A batch, and the connections and prompts to create or update with it."""

    name: str = Field(description=_batch_field("name"))
    folders: list[str] = Field(
        description="Folders that contain the documents: absolute paths, or URLs such as s3://BUCKET/PREFIX/."
    )
    connections: list[str] = Field(description=_batch_field("connections"))
    prompts: list[str] = Field(description=_batch_field("prompts"))
    description: str = Field(default="", description=_batch_field("description"))
    metadata: dict[str, Any] = Field(default={}, description=_batch_field("metadata"))
    include: list[str] = Field(default=[], description=_batch_field("include"))
    exclude: list[str] = Field(default=[], description=_batch_field("exclude"))
    stage_after: str | None = Field(default=None, description=_batch_field("stage_after"))
    priority: int = Field(default=10, description=_batch_field("priority"))
    reuse: str = Field(default="nothing", description=_batch_field("reuse"))
    margin: float | None = Field(default=None, description=_batch_field("margin"))
    new_connections: list[NewConnection] = Field(
        default=[], description="Connections to create, or to update by name, before the batch is created."
    )
    new_prompts: list[NewPrompt] = Field(
        default=[], description="Prompts to create, or to update by name, before the batch is created."
    )
    stage: bool = Field(default=False, description="Stage the batch immediately.")


@dg.op
def write_batch(context: dg.OpExecutionContext, config: NewBatch, doc_eval: DocEval) -> None:
    """Creates a batch, or updates one whose staging has not begun."""
    with open_step(context, doc_eval) as databases:
        given = _as_evaluation(_typed(config.model_dump(), context.run_config))
        located = locate(given, None, _where, folder_problems(databases.settings))
        applied, previews = apply(databases, located, stage=config.stage)
    (number,) = applied.numbers.values()
    context.instance.add_dynamic_partitions(partitions.NAME, [partition_key(number)])
    context.add_output_metadata(
        {"batch": number, "partition": partition_key(number), "result": _outcome(applied)}
    )
    context.log.info(f"{shown_name(config.name)} is {partition_key(number)}: {_outcome(applied)}")
    for change in applied.changes:
        context.log.info(visible_name(change.sentence))
    for preview in previews.values():
        context.log.info(f"its folders contain {preview.sentence}")
        for note in preview.notes:
            context.log.warning(note)


# Dagster stores the config of every run, even of failed ones, but calls this before it creates the run.
@dg.config_mapping
def _without_credentials(given: NewBatch) -> dict[str, Any]:
    try:
        refuse_credentials(_as_evaluation(given.model_dump()), _where)
    except EvaluationFileError as error:
        raise dg.DagsterInvalidInvocationError(str(error)) from None
    return {write_batch.name: {"config": given.model_dump()}}


@dg.graph(config=_without_credentials)
def create() -> None:
    """Rejects config that contains a key, and creates the batch."""
    write_batch()


# Only the initial content of the launchpad: its folder does not exist, so that an unchanged launch creates
# nothing.
@dg.job(config=example_values("create_batch"))
def create_batch() -> None:
    """Creates a batch from the launchpad: folders, connections and prompts."""
    create()


class Reprocess(Queue):
    """Which evaluations of a batch are processed again."""

    rescan: bool = Field(
        default=False,
        description="Rescan the folders first: new and changed documents get evaluations, and the rows of "
        "removed documents are withdrawn.",
    )
    dry_run: bool = Field(
        default=False,
        description="Only log what would be done and what it would cost, and write nothing. Also works for "
        "batches that are not staged.",
    )


@dg.op
def reprocess_cells(
    context: dg.OpExecutionContext, config: Reprocess, doc_eval: DocEval, progress: StagingProgress
) -> dict[str, int]:
    """Repairs the batch and queues new attempts; earlier attempts are kept."""
    listener = progress.listener(context.log)
    with open_batch(context, doc_eval) as (databases, batch_id):
        if config.dry_run:
            planned = plan(databases, batch_id, config.mode, listener, rescan=config.rescan)
            return _report_plan(context, name_of(databases, batch_id), planned)
        request = first_run_of(context.instance, context.run)
        done = reprocess(
            databases,
            batch_id,
            config.mode,
            listener,
            finding=progress.listener(context.log, FINDING),
            queueing=progress.listener(context.log, QUEUEING),
            rescan=config.rescan,
            request=request,
        )
        context.log.info(f"{name_of(databases, batch_id)}: {left_out(batch_tallies(databases, batch_id))}")
        return _record_counts(context, databases, asdict(done))


@dg.op
def pause_rows(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Holds the waiting evaluations. Running evaluations may finish."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        return _record_counts(context, databases, {"rows_held": pause(databases, batch_id)})


@dg.op
def resume_rows(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Returns the held evaluations to the queue."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        return _record_counts(context, databases, {"rows_released": resume(databases, batch_id)})


@dg.op
def cancel_rows(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Cancels the waiting and held evaluations. Running evaluations may finish, and their results are kept.

    For a batch that waits to be staged, only the staging request is withdrawn.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        if cancel_staging(databases, batch_id):
            context.log.info(f"staging of {name_of(databases, batch_id)} is no longer requested")
            return _record_counts(context, databases, {"rows_closed": 0, "staging_requests_withdrawn": 1})
        return _record_counts(context, databases, {"rows_closed": cancel(databases, batch_id)})


@dg.job(partitions_def=partitions.batches)
def reprocess_batch() -> None:
    """Repairs one batch and queues new attempts for its failed evaluations, or for all: open the Launchpad.

    A backfill of this job has no config and only repairs. To reprocess many batches, launch a backfill of the
    asset `queue_rows` with `ops: {queue_rows: {config: {mode: failed}}}`.
    """
    reprocess_cells()


@dg.job(partitions_def=partitions.batches)
def pause_batch() -> None:
    """Holds the waiting evaluations of a batch. Running evaluations may finish."""
    pause_rows()


@dg.job(partitions_def=partitions.batches)
def resume_batch() -> None:
    """Returns the held evaluations of a paused batch to the queue."""
    resume_rows()


@dg.job(partitions_def=partitions.batches)
def cancel_batch() -> None:
    """Cancels the waiting evaluations of a batch. The batch becomes FAILED and can be reprocessed."""
    cancel_rows()


@dg.op
def archive_rows(
    context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval, progress: StagingProgress
) -> dict[str, Any]:
    """Writes everything about the batch into one file, verifies the file, and deletes the rows."""
    writing = progress.listener(context.log, "archiving documents")
    checking = progress.listener(context.log, "verifying archived documents")
    with open_batch(context, doc_eval) as (databases, batch_id):
        done, name = archive(databases, batch_id, writing, checking), name_of(databases, batch_id)
    shown = {
        NAME: name,
        "archive": dg.MetadataValue.path(done.path),
        "archive_bytes": done.size,
        "archive_sha256": done.sha256,
        "archived_rows": done.rows,
        "archived_documents": done.documents,
    }
    context.log.info(
        f"{name}: {counted(done.rows, 'queue row', 'queue rows')} and "
        f"{counted(done.documents, 'document', 'documents')} archived in {done.path} "
        f"({size_text(done.size)}, sha256 {done.sha256})"
    )
    context.log_event(archive_observation(context.partition_key, archived=True, shown=shown))
    return {**asdict(done), "path": str(done.path)}


@dg.job(partitions_def=partitions.batches)
def archive_batch() -> None:
    """Moves a closed batch from both databases into one file. `doceval restore` restores it."""
    archive_rows()


def archive_observation(key: str, *, archived: bool, shown: Mapping[str, Any]) -> dg.AssetObservation:
    """The event in the history of a batch's report that the batch was archived or restored."""
    return dg.AssetObservation(completion_report.key, partition=key, metadata={**shown, "archived": archived})


def _record_counts(
    context: dg.OpExecutionContext, databases: Databases, counts: dict[str, int]
) -> dict[str, int]:
    """Record changes of a batch's rows in the run and in the history of `queue_rows`; returns the counts."""
    name = name_of(databases, batch_id_of(context.partition_key))
    context.log.info(f"{name}: {_as_text(counts)}")
    context.log_event(
        dg.AssetObservation(
            queue_rows.key,
            partition=context.partition_key,
            metadata={NAME: name, "job": context.job_name, **counts},
        )
    )
    return counts


def _report_plan(context: dg.OpExecutionContext, name: str, planned: Plan) -> dict[str, int]:
    """Record a plan in the run only; returns its counts."""
    counts = planned.counts()
    context.log.info(f"{name}: dry run, nothing was written: {_as_text(counts)}")
    context.add_output_metadata({**counts, "plan": dg.MetadataValue.json(planned.as_json())})
    return counts


def _as_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


def _typed(config: dict[str, Any], run_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that the user typed, without Dagster's defaults, which must not replace stored values."""
    typed = run_config["ops"][create.name]["config"]
    kept = {key: _unconverted(value, typed[key]) for key, value in config.items() if key in typed}
    for key in ("new_connections", "new_prompts"):
        kept[key] = [
            {name: _unconverted(value, given[name]) for name, value in item.items() if name in given}
            for item, given in zip(config[key], typed.get(key, ()), strict=True)
        ]
    return kept


def _unconverted(value: Any, typed: Any) -> Any:
    """The value of a key, or what was typed if Dagster made a number of true or false."""
    return typed if isinstance(typed, bool) else value


def _as_evaluation(config: Mapping[str, Any]) -> dict[str, Any]:
    batch = {k: v for k, v in config.items() if k not in ("stage", "new_connections", "new_prompts")}
    return {"connections": config["new_connections"], "prompts": config["new_prompts"], "batches": [batch]}


def _where(location: Location) -> str:
    """A location as a path in the launchpad's config, which is flatter than an evaluation file."""
    if location[:1] == ("batches",):
        return f"config: {key_path(location[2:])}"
    return f"config: new_{key_path(location)}"


def _outcome(applied: Applied) -> str:
    if applied.batches.created:
        return "created"
    return "updated" if applied.changed else "nothing changed"
