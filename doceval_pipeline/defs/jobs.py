"""Jobs: what can be launched as a whole, from the launchpad, by sensors and by the command line."""

from collections.abc import Mapping
from dataclasses import asdict
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
from doceval_pipeline.defs.resources import DocEval, StagingProgress
from doceval_pipeline.defs.staging import GROUP, Queue, queue_rows
from doceval_pipeline.defs.steps import NoConfig, first_run_of, open_batch, open_step
from doceval_pipeline.doc_eval.batches import batch_id_of, partition_key
from doceval_pipeline.doc_eval.definitions import schema
from doceval_pipeline.doc_eval.definitions.apply import Applied
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate, refuse_credentials
from doceval_pipeline.doc_eval.definitions.yaml_text import Location
from doceval_pipeline.errors import EvaluationFileError
from doceval_pipeline.reports.formatting import counted, size_text
from doceval_pipeline.reports.sanitize import visible_name

stage_batch = dg.define_asset_job(
    "stage_batch",
    selection=dg.AssetSelection.groups(GROUP),
    description="Stage a batch, or repair what is missing of its staging.",
)
report_batch = dg.define_asset_job(
    "report_batch",
    selection=dg.AssetSelection.assets(completion_report),
    description="Write the report of a batch as it is now.",
)


def _described(model: type[schema.Definition], name: str) -> str | None:
    return model.model_fields[name].description


class NewConnection(dg.Config):
    """How a processor reaches a model; never holds a key."""

    name: str = Field(description=_described(schema.Connection, "name"))
    provider: str = Field(description=_described(schema.Connection, "provider"))
    model: str = Field(description=_described(schema.Connection, "model"))
    base_url: str | None = Field(default=None, description=_described(schema.Connection, "base_url"))
    port: int | None = Field(default=None, description=_described(schema.Connection, "port"))
    api_key_env: str | None = Field(default=None, description=_described(schema.Connection, "api_key_env"))
    config: dict[str, Any] = Field(default={}, description=_described(schema.Connection, "config"))
    prices: dict[str, Any] | None = Field(default=None, description=_described(schema.Connection, "prices"))


class NewPrompt(dg.Config):
    """What a model is asked about each document."""

    name: str = Field(description=_described(schema.Prompt, "name"))
    text: str = Field(description=_described(schema.Prompt, "text"))


class NewBatch(dg.Config):
    """A batch, and the connections and prompts to create or update with it."""

    name: str = Field(description=_described(schema.Batch, "name"))
    folders: list[str] = Field(description="Folders of documents, as absolute paths.")
    connections: list[str] = Field(description=_described(schema.Batch, "connections"))
    prompts: list[str] = Field(description=_described(schema.Batch, "prompts"))
    description: str = Field(default="", description=_described(schema.Batch, "description"))
    metadata: dict[str, Any] = Field(default={}, description=_described(schema.Batch, "metadata"))
    include: list[str] = Field(default=[], description=_described(schema.Batch, "include"))
    exclude: list[str] = Field(default=[], description=_described(schema.Batch, "exclude"))
    stage_after: str | None = Field(default=None, description=_described(schema.Batch, "stage_after"))
    priority: int = Field(default=10, description=_described(schema.Batch, "priority"))
    reuse: str = Field(default="nothing", description=_described(schema.Batch, "reuse"))
    new_connections: list[NewConnection] = Field(
        default=[], description="Connections to create, or to update by name, before the batch."
    )
    new_prompts: list[NewPrompt] = Field(
        default=[], description="Prompts to create, or to update by name, before the batch."
    )
    stage: bool = Field(default=False, description="Stage the batch at once.")


@dg.op
def write_batch(context: dg.OpExecutionContext, config: NewBatch, doc_eval: DocEval) -> None:
    """Create a batch, or update one whose staging has not begun."""
    with open_step(context, doc_eval) as databases:
        given = _as_evaluation(_typed(config.model_dump(), context.run_config))
        located = locate(given, None, _where, folder_problems(databases.settings))
        applied, looked = apply(databases, located, stage=config.stage)
    (number,) = applied.numbers.values()
    context.instance.add_dynamic_partitions(partitions.NAME, [partition_key(number)])
    context.add_output_metadata(
        {"batch": number, "partition": partition_key(number), "result": _what_was_done(applied)}
    )
    context.log.info(f"{shown_name(config.name)} is {partition_key(number)}: {_what_was_done(applied)}")
    for change in applied.changes:
        context.log.info(visible_name(change.sentence))
    for found in looked.values():
        context.log.info(f"its folders hold {found.sentence}")
        for note in found.notes:
            context.log.warning(note)


# Dagster keeps the config of every run, also of one that fails. It asks this before there is a run.
@dg.config_mapping
def _without_credentials(given: NewBatch) -> dict[str, Any]:
    try:
        refuse_credentials(_as_evaluation(given.model_dump()), _where)
    except EvaluationFileError as error:
        raise dg.DagsterInvalidInvocationError(str(error)) from None
    return {write_batch.name: {"config": given.model_dump()}}


@dg.graph(config=_without_credentials)
def create() -> None:
    """Refuse what holds a key, and create the batch."""
    write_batch()


# Only what the launchpad opens with: its folder does not exist, so that a run of it as it is creates nothing.
@dg.job(config=example_values("create_batch"))
def create_batch() -> None:
    """Create a batch from the launchpad: folders, connections and prompts."""
    create()


class Reprocess(Queue):
    """What of a batch is processed again."""

    rescan: bool = Field(
        default=False,
        description="Look at the folders again first: new files and changed contents get cells, rows of "
        "contents that are gone are set aside.",
    )
    dry_run: bool = Field(
        default=False,
        description="Only find out what would be done and what it would take, and write nothing. Also for a "
        "batch that was never staged.",
    )


@dg.op
def reprocess_cells(
    context: dg.OpExecutionContext, config: Reprocess, doc_eval: DocEval, progress: StagingProgress
) -> dict[str, int]:
    """Queue new attempts, beside the earlier ones."""
    listener = progress.listener(context.log)
    with open_batch(context, doc_eval) as (databases, batch_id):
        if config.dry_run:
            found = plan(databases, batch_id, config.mode, listener, rescan=config.rescan)
            return _planned(context, name_of(databases, batch_id), found)
        request = first_run_of(context.instance, context.run)
        done = reprocess(databases, batch_id, config.mode, listener, rescan=config.rescan, request=request)
        context.log.info(f"{name_of(databases, batch_id)}: {left_out(batch_tallies(databases, batch_id))}")
        return _told(context, databases, asdict(done))


@dg.op
def pause_rows(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Hold the rows that wait; what runs may finish."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        return _told(context, databases, {"rows_held": pause(databases, batch_id)})


@dg.op
def resume_rows(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Queue the rows again that are held."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        return _told(context, databases, {"rows_released": resume(databases, batch_id)})


@dg.op
def cancel_rows(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Close the rows that wait or are held; what runs may finish, and its result is kept.

    Of a batch that waits to be staged, only the request is taken back.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        if cancel_staging(databases, batch_id):
            context.log.info(f"staging of {name_of(databases, batch_id)} is no longer requested")
            return _told(context, databases, {"rows_closed": 0, "staging_requests_withdrawn": 1})
        return _told(context, databases, {"rows_closed": cancel(databases, batch_id)})


@dg.job(partitions_def=partitions.batches)
def reprocess_batch() -> None:
    """Repair one batch, and queue a new attempt for its failed evaluations or for all: open the Launchpad.

    Its backfill has no config and only repairs. To reprocess many batches, launch a backfill of the asset
    `queue_rows` with `ops: {queue_rows: {config: {mode: failed}}}`.
    """
    reprocess_cells()


@dg.job(partitions_def=partitions.batches)
def pause_batch() -> None:
    """Hold the rows of a batch that wait; what runs may finish."""
    pause_rows()


@dg.job(partitions_def=partitions.batches)
def resume_batch() -> None:
    """Release the rows of a paused batch."""
    resume_rows()


@dg.job(partitions_def=partitions.batches)
def cancel_batch() -> None:
    """Close the rows of a batch that wait; it ends as FAILED and can be reprocessed."""
    cancel_rows()


@dg.op
def archive_rows(
    context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval, progress: StagingProgress
) -> dict[str, Any]:
    """Put everything about the batch into one file, read it back, and remove the rows."""
    writing = progress.listener(context.log, "archiving documents")
    checking = progress.listener(context.log, "reading documents back")
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
        f"{counted(done.documents, 'document', 'documents')} are in {done.path} "
        f"({size_text(done.size)}, sha256 {done.sha256})"
    )
    context.log_event(archive_observation(context.partition_key, archived=True, shown=shown))
    return {**asdict(done), "path": str(done.path)}


@dg.job(partitions_def=partitions.batches)
def archive_batch() -> None:
    """Move a closed batch out of both databases into one file; `doceval restore` brings it back."""
    archive_rows()


def archive_observation(key: str, archived: bool, shown: Mapping[str, Any]) -> dg.AssetObservation:
    """What the history of a batch's report says of its being archived, or restored."""
    return dg.AssetObservation(completion_report.key, partition=key, metadata={**shown, "archived": archived})


def _told(context: dg.OpExecutionContext, databases: Databases, counts: dict[str, int]) -> dict[str, int]:
    """Show what was done to a batch's rows, in the run and in the history of `queue_rows`."""
    name = name_of(databases, batch_id_of(context.partition_key))
    context.log.info(f"{name}: {_in_words(counts)}")
    context.log_event(
        dg.AssetObservation(
            queue_rows.key,
            partition=context.partition_key,
            metadata={NAME: name, "job": context.job_name, **counts},
        )
    )
    return counts


def _planned(context: dg.OpExecutionContext, name: str, found: Plan) -> dict[str, int]:
    """Show a plan in the run; nothing else hears of it."""
    counts = found.counts()
    context.log.info(f"{name}: a dry run, which writes nothing: {_in_words(counts)}")
    context.add_output_metadata({**counts, "plan": dg.MetadataValue.json(found.as_json())})
    return counts


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


def _typed(config: dict[str, Any], run_config: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config somebody typed: Dagster fills in defaults, which must not replace what is stored."""
    typed = run_config["ops"][create.name]["config"]
    kept = {key: value for key, value in config.items() if key in typed}
    for key in ("new_connections", "new_prompts"):
        kept[key] = [
            {name: value for name, value in item.items() if name in given}
            for item, given in zip(config[key], typed.get(key, ()), strict=True)
        ]
    return kept


def _as_evaluation(config: Mapping[str, Any]) -> dict[str, Any]:
    batch = {k: v for k, v in config.items() if k not in ("stage", "new_connections", "new_prompts")}
    return {"connections": config["new_connections"], "prompts": config["new_prompts"], "batches": [batch]}


def _where(location: Location) -> str:
    """Words for a place in the launchpad's config, which is flat where a file is nested."""
    if location[:1] == ("batches",):
        return f"config: {key_path(location[2:])}"
    return f"config: new_{key_path(location)}"


def _what_was_done(applied: Applied) -> str:
    if applied.batches.created:
        return "created"
    return "updated" if applied.changed else "nothing changed"
