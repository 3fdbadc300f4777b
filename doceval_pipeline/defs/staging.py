"""The four assets of staging and the checks that stand beside them."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from doceval_pipeline.batches import audit, staging
from doceval_pipeline.batches.invariants.invariant import SAMPLE
from doceval_pipeline.batches.reprocessing import Mode, queue_attempts
from doceval_pipeline.batches.rescanning import assign
from doceval_pipeline.defs.partitions import batches
from doceval_pipeline.defs.resources import DocEval, StagingProgress
from doceval_pipeline.defs.steps import NoConfig, StepConfig, first_run_of, open_batch
from doceval_pipeline.doc_eval.batch_documents import Tally

GROUP = "staging"


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"postgres"})
def batch_config_snapshot(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.MaterializeResult[None]:
    """What the batch selects, sealed: folders, connections, prompt texts. The same bytes every time."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        sealed = staging.seal_batch(databases, batch_id)
    return dg.MaterializeResult(
        metadata={
            "sha256": sealed.sha256,
            "folders": len(sealed.config["folders"]),
            "connections": len(sealed.config["connections"]),
            "prompts": len(sealed.config["prompts"]),
            "config": dg.MetadataValue.json(sealed.config),
        },
        data_version=dg.DataVersion(sealed.sha256),
    )


class Assignment(StepConfig):
    """Whether the folders of a staged batch are looked at again."""

    rescan: bool = Field(
        default=False,
        description="true looks at the folders again: new files and changed contents join the batch, files "
        "that are gone leave it. Then materialize encoded_documents and queue_rows too, which store and "
        "queue what is new. false keeps the files of a staged batch as they are.",
    )


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"file", "postgres"}, deps=[batch_config_snapshot])
def document_assignment(
    context: dg.AssetExecutionContext, config: Assignment, doc_eval: DocEval
) -> dg.MaterializeResult[None]:
    """Every file of the batch's folders, usable or with the reason why not.

    Frozen once made. `rescan: true` in its config looks at the folders again.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        assigned, rescanned = assign(databases, batch_id, config.rescan)
    return dg.MaterializeResult(
        metadata={
            "documents": assigned.files("ASSIGNED", "STAGED"),
            "bytes": assigned.bytes,
            "files_skipped": assigned.files("SKIPPED"),
            "files_rejected": assigned.files("REJECTED"),
            "by_reason": _by_reason(assigned.tallies),
            "newly_assigned": assigned.fresh,
            "files_new": rescanned.new,
            "files_changed": rescanned.changed,
            "files_gone": rescanned.gone,
            "seconds": round(assigned.seconds, 3),
        }
    )


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"file", "postgres"}, deps=[document_assignment])
def encoded_documents(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval, progress: StagingProgress
) -> dg.MaterializeResult[None]:
    """The contents as canonical base64 in KnowledgeDocuments.docs, each distinct content once."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        stored = staging.store_documents(databases, batch_id, progress.listener(context.log))
    usable = [tally for tally in stored.tallies if tally.state == "STAGED"]
    files, size = sum(tally.files for tally in usable), sum(tally.bytes for tally in usable)
    return dg.MaterializeResult(
        metadata={
            "documents": files,
            "distinct_documents": stored.distinct,
            "duplicate_files": files - stored.distinct,
            "bytes": size,
            "copied_documents": stored.copied,
            "copied_bytes": stored.copied_bytes,
            "reused_documents": stored.distinct - stored.copied,
            "by_reason": _by_reason(stored.tallies),
            "seconds": round(stored.seconds, 3),
            "documents_per_second": round(files / stored.seconds, 1),
            "megabytes_per_second": round(size / stored.seconds / 1e6, 3),
        }
    )


class Queue(StepConfig):
    """Which evaluations of a staged batch are done again."""

    mode: Mode = Field(
        default=Mode.missing,
        description="missing only adds rows that are not there. failed also queues a new attempt for each "
        "evaluation that has failed, and all for each that has succeeded or failed. Evaluations that wait or "
        "run are left alone, and earlier attempts are kept.",
    )


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"postgres"}, deps=[encoded_documents])
def queue_rows(
    context: dg.AssetExecutionContext, config: Queue, doc_eval: DocEval
) -> dg.MaterializeResult[None]:
    """One row for each (document, prompt, connection) in KnowledgeDocuments.llm_responses.

    `mode: failed` or `mode: all` in its config queues new attempts. A backfill of this asset reprocesses
    many batches.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        request = first_run_of(context.instance, context.run)
        queued, new_attempts = queue_attempts(databases, batch_id, config.mode, request)
    return dg.MaterializeResult(
        metadata={
            "cells": queued.cells,
            "rows_added": queued.added,
            "new_attempts": new_attempts,
            "distinct_documents": queued.documents,
            "prompts": queued.prompts,
            "connections": queued.connections,
            "seconds": round(queued.seconds, 3),
        }
    )


class RoundTripSample(StepConfig):
    """How many stored documents are decoded and compared, up to 16 MiB of them; or all."""

    documents: int = SAMPLE
    every_document: bool = False


@dg.asset_check(asset=encoded_documents, partitions_def=batches, blocking=True)
def documents_round_trip(
    context: dg.AssetCheckExecutionContext, config: RoundTripSample, doc_eval: DocEval
) -> dg.AssetCheckResult:
    """The sha256 of each stored document's decoded content is the one of the file that was read."""
    sample = None if config.every_document else config.documents
    with open_batch(context, doc_eval) as (databases, batch_id):
        found = audit.check_round_trip(databases, batch_id, sample)
    return _check_result(found)


_QUEUE_CHECKS = {
    "queue_is_complete": (
        audit.check_queue_complete,
        "There is exactly one current row for each distinct document x prompt x connection.",
    ),
    "rows_have_documents": (
        audit.check_rows_have_documents,
        "No queue row is without its document, and none is for a document that is not the batch's.",
    ),
}


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            name, asset=queue_rows.key, partitions_def=batches, blocking=True, description=description
        )
        for name, (_, description) in _QUEUE_CHECKS.items()
    ],
    can_subset=True,
)
def queue_checks(
    context: dg.AssetCheckExecutionContext, config: NoConfig, doc_eval: DocEval
) -> Iterator[dg.AssetCheckResult]:
    """Both checks of the queue in one step, because a step of Dagster costs more than they do."""
    for key in context.selected_asset_check_keys:
        check, _ = _QUEUE_CHECKS[key.name]
        with open_batch(context, doc_eval) as (databases, batch_id):
            found = check(databases, batch_id)
        yield _check_result(found, key)


def _check_result(found: audit.Finding, key: dg.AssetCheckKey | None = None) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=None if key is None else key.name,
        asset_key=None if key is None else key.asset_key,
        passed=not found.problems,
        description=found.text,
        metadata={"checked": found.checked, "problems": found.problems},
    )


def _by_reason(tallies: list[Tally]) -> dg.TableMetadataValue:
    # Reasons are words of ours; file names are not, and are not shown here.
    columns = [
        dg.TableColumn("state"),
        dg.TableColumn("reason"),
        dg.TableColumn("files", "int"),
        dg.TableColumn("bytes", "int"),
    ]
    records = [
        dg.TableRecord({"state": t.state, "reason": t.reason, "files": t.files, "bytes": t.bytes})
        for t in tallies
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))
