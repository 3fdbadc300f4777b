"""Jobs: what can be launched as a whole, from the launchpad, by sensors and by the command line."""

from typing import Any

import dagster as dg
from pydantic import Field

from doceval_pipeline.defs import partitions
from doceval_pipeline.defs.reporting import completion_report
from doceval_pipeline.defs.resources import DocEval, one_line_failures
from doceval_pipeline.defs.staging import GROUP
from doceval_pipeline.doc_eval import definitions
from doceval_pipeline.doc_eval.apply import Applied, apply_evaluation
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.evaluation_file import Located, Location, key_path, resolve

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


def _described(model: type[definitions.Definition], name: str) -> str | None:
    return model.model_fields[name].description


class NewConnection(dg.Config):
    """How a processor reaches a model; never holds a key."""

    name: str = Field(description=_described(definitions.Connection, "name"))
    provider: str = Field(description=_described(definitions.Connection, "provider"))
    model: str = Field(description=_described(definitions.Connection, "model"))
    base_url: str | None = Field(default=None, description=_described(definitions.Connection, "base_url"))
    port: int | None = Field(default=None, description=_described(definitions.Connection, "port"))
    api_key_env: str | None = Field(
        default=None, description=_described(definitions.Connection, "api_key_env")
    )
    config: dict[str, Any] = Field(default={}, description=_described(definitions.Connection, "config"))


class NewPrompt(dg.Config):
    """What a model is asked about each document."""

    name: str = Field(description=_described(definitions.Prompt, "name"))
    text: str = Field(description=_described(definitions.Prompt, "text"))


class NewBatch(dg.Config):
    """A batch, and the connections and prompts to create or update with it."""

    name: str = Field(description=_described(definitions.Batch, "name"))
    folders: list[str] = Field(description="Folders of documents, as absolute paths.")
    connections: list[str] = Field(description=_described(definitions.Batch, "connections"))
    prompts: list[str] = Field(description=_described(definitions.Batch, "prompts"))
    description: str = Field(default="", description=_described(definitions.Batch, "description"))
    metadata: dict[str, Any] = Field(default={}, description=_described(definitions.Batch, "metadata"))
    include: list[str] = Field(default=[], description=_described(definitions.Batch, "include"))
    exclude: list[str] = Field(default=[], description=_described(definitions.Batch, "exclude"))
    new_connections: list[NewConnection] = Field(
        default=[], description="Connections to create, or to update by name, before the batch."
    )
    new_prompts: list[NewPrompt] = Field(
        default=[], description="Prompts to create, or to update by name, before the batch."
    )
    stage: bool = Field(default=False, description="Stage the batch at once.")


@dg.op
def create(context: dg.OpExecutionContext, config: NewBatch, doc_eval: DocEval) -> None:
    """Create a batch, or update one whose staging has not begun."""
    with one_line_failures():
        evaluation = resolve(_as_evaluation(config), None, _where)
        databases = doc_eval.open()
        applied = apply_evaluation(databases.doc_eval, Located(evaluation, _where), config.stage)
    number = applied.numbers[config.name]
    context.instance.add_dynamic_partitions(partitions.NAME, [partition_key(number)])
    context.add_output_metadata(
        {"batch": number, "partition": partition_key(number), "result": _what_was_done(applied)}
    )
    context.log.info(f"{partition_key(number)} ({_what_was_done(applied)})")


@dg.job
def create_batch() -> None:
    """Create a batch from the launchpad: folders, connections and prompts."""
    create()


def _as_evaluation(config: NewBatch) -> dict[str, Any]:
    given = config.model_dump()
    given.pop("stage")
    connections, prompts = given.pop("new_connections"), given.pop("new_prompts")
    return {"connections": connections, "prompts": prompts, "batches": [given]}


def _where(location: Location) -> str:
    """Words for a place in the launchpad's config, which is flat where a file is nested."""
    if location[:1] == ("batches",):
        return f"config: {key_path(location[2:])}"
    return f"config: new_{key_path(location)}"


def _what_was_done(applied: Applied) -> str:
    if applied.batches.created:
        return "created"
    return "updated" if applied.changed else "nothing changed"
