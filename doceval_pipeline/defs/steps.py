"""The frame of every step of a run: config, databases, failures, and the run that requested it."""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import model_validator

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.doc_eval.batches import batch_id_of
from doceval_pipeline.errors import ConfigurationError, DocEvalError, in_one_line

Context = dg.OpExecutionContext | dg.AssetExecutionContext | dg.AssetCheckExecutionContext

_PARTITION = "dagster/partition"
_BACKFILL, _ROOT_BACKFILL = "dagster/backfill", "dagster/root_backfill_id"
_PARENT_BACKFILL = "dagster/parent_backfill_id"
# A run with one of these tags continues its parent; any other run is a new request.
_CONTINUES = ("dagster/retry_number", "dagster/is_resume_retry", "dagster/is_asset_resume_retry")


class StepConfig(dg.Config):
    """Config of one op. `null` in a field with a default means the default, as Dagster's schema allows it."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if value is not None}


class NoConfig(StepConfig):
    """Accepts no config. Without a class, Dagster ignores the config of an asset silently."""


@contextmanager
def open_step(context: Context, doc_eval: DocEval) -> Iterator[Databases]:
    """Open the databases for one step; a `DocEvalError` fails it with one line instead of a traceback."""
    try:
        with database_errors():
            _refuse_config_of_other_ops(context)
            yield doc_eval.open()
    except DocEvalError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        # A bug, or an error of the machine: Dagster shows the traceback below the message.
        raise dg.Failure(description=in_one_line(error)) from error


@contextmanager
def open_batch(context: Context, doc_eval: DocEval) -> Iterator[tuple[Databases, int]]:
    """As `open_step`; yields the databases and the number of the batch of the step's partition."""
    with open_step(context, doc_eval) as databases:
        yield databases, batch_id_of(context.partition_key)


def first_run_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The id of the first run in a chain of automatic retries and re-executions from failure.

    A run that a person launches, or re-executes as a whole, starts a chain. So does a run of a backfill,
    unless the backfill repeats another one in which the run of the same partition did not succeed.
    """
    while (earlier := _continued_by(instance, run)) is not None:
        run = earlier
    # A person may have deleted the run that it continues.
    is_orphan = _is_continuation(run) and instance.get_run_by_id(str(run.parent_run_id)) is None
    return str(run.root_run_id) if is_orphan else run.run_id


def _is_continuation(run: dg.DagsterRun) -> bool:
    return run.parent_run_id is not None and any(tag in run.tags for tag in _CONTINUES)


def _continued_by(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    if _is_continuation(run):
        parent = instance.get_run_by_id(str(run.parent_run_id))
        # Dagster copies one of these tags to re-executions of a whole run, which may have succeeded.
        return None if parent is None or parent.is_success else parent
    if run.parent_run_id is None and _PARENT_BACKFILL in run.tags:
        tags = {
            _BACKFILL: run.tags[_PARENT_BACKFILL],
            _PARTITION: run.tags[_PARTITION],
        }
        for earlier in instance.get_runs(dg.RunsFilter(tags=tags)):
            if (earlier.asset_selection or set()) & (run.asset_selection or set()):
                return None if earlier.is_success else earlier
    return None


def _refuse_config_of_other_ops(context: Context) -> None:
    """Reject config that no step of the run reads; Dagster's implicit asset job accepts it silently.

    Raises
    ------
    ConfigurationError
    """
    ops: Any = context.run.run_config.get("ops") or {}
    foreign = ops.keys() - {node.name for node in context.job_def.nodes}
    if foreign and (foreign := foreign - _ops_of_the_request(context)):
        name = min(foreign)
        raise ConfigurationError(
            f"the config has ops.{name}, but this run does not execute {name}: fix the name, select the "
            "asset too, or remove its config"
        )


def _ops_of_the_request(context: Context) -> Set[str]:
    """The ops of the request that this run is a part of.

    Every run of a backfill gets the backfill's whole config, and a run that repeats a part of another run
    gets the config of the whole run.
    """
    root = context.run.root_run_id and context.instance.get_run_by_id(context.run.root_run_id)
    runs = [context.run, root] if root else [context.run]
    selected = set(root.asset_selection or ()) if root else set()
    for backfill_id in {
        run.tags[tag] for run in runs for tag in (_BACKFILL, _ROOT_BACKFILL) if tag in run.tags
    }:
        backfill = context.instance.get_backfill(backfill_id)
        selected |= set((backfill and backfill.asset_selection) or ())
    if not selected:
        return set()
    return {
        definition.node_def.name
        for definition in context.repository_def.asset_graph.assets_defs
        if definition.is_executable
        and selected & (definition.keys | {key.asset_key for key in definition.check_keys})
    }
