"""The four assets of staging and the checks that stand beside them."""

from collections.abc import Iterator

import dagster as dg

from doceval_pipeline.batches import audit, staging
from doceval_pipeline.batches.invariants.invariant import SAMPLE
from doceval_pipeline.defs.partitions import batch_check, batch_check_spec, batches
from doceval_pipeline.defs.resources import DocEval, StagingProgress, one_line_failures
from doceval_pipeline.doc_eval.batch_documents import Tally
from doceval_pipeline.doc_eval.batches import batch_id_of

GROUP = "staging"


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"postgres"})
def batch_config_snapshot(context: dg.AssetExecutionContext, doc_eval: DocEval) -> dg.MaterializeResult[None]:
    """What the batch selects, sealed: folders, connections, prompt texts. The same bytes every time."""
    with one_line_failures():
        sealed = staging.seal_batch(doc_eval.open(), batch_id_of(context.partition_key))
    config = sealed.config
    return dg.MaterializeResult(
        metadata={
            "sha256": sealed.sha256,
            "folders": len(config["folders"]),
            "connections": len(config["connections"]),
            "prompts": len(config["prompts"]),
            "config": dg.MetadataValue.json(config),
        },
        data_version=dg.DataVersion(sealed.sha256),
    )


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"file", "postgres"}, deps=[batch_config_snapshot])
def document_assignment(context: dg.AssetExecutionContext, doc_eval: DocEval) -> dg.MaterializeResult[None]:
    """Every file of the batch's folders, usable or with the reason why not. Frozen once made."""
    with one_line_failures():
        assigned = staging.assign_documents(doc_eval.open(), batch_id_of(context.partition_key))
    return dg.MaterializeResult(
        metadata={
            "documents": assigned.files("ASSIGNED", "STAGED"),
            "bytes": assigned.bytes,
            "files_skipped": assigned.files("SKIPPED"),
            "files_rejected": assigned.files("REJECTED"),
            "by_reason": _by_reason(assigned.tallies),
            "newly_assigned": assigned.fresh,
            "seconds": round(assigned.seconds, 3),
        }
    )


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"file", "postgres"}, deps=[document_assignment])
def encoded_documents(
    context: dg.AssetExecutionContext, doc_eval: DocEval, progress: StagingProgress
) -> dg.MaterializeResult[None]:
    """The contents as canonical base64 in KnowledgeDocuments.docs, each distinct content once."""
    with one_line_failures():
        stored = staging.store_documents(
            doc_eval.open(), batch_id_of(context.partition_key), progress.listener(context.log)
        )
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


@dg.asset(partitions_def=batches, group_name=GROUP, kinds={"postgres"}, deps=[encoded_documents])
def queue_rows(context: dg.AssetExecutionContext, doc_eval: DocEval) -> dg.MaterializeResult[None]:
    """One row for each (document, prompt, connection) in KnowledgeDocuments.llm_responses."""
    with one_line_failures():
        queued = staging.queue_cells(doc_eval.open(), batch_id_of(context.partition_key))
    return dg.MaterializeResult(
        metadata={
            "cells": queued.cells,
            "rows_added": queued.added,
            "distinct_documents": queued.documents,
            "prompts": queued.prompts,
            "connections": queued.connections,
            "seconds": round(queued.seconds, 3),
        }
    )


class RoundTripSample(dg.Config):
    """How many stored documents are decoded and compared, up to 16 MiB of them; or all."""

    documents: int = SAMPLE
    every_document: bool = False


@batch_check(asset=encoded_documents, blocking=True)
def documents_round_trip(
    context: dg.AssetCheckExecutionContext, config: RoundTripSample, doc_eval: DocEval
) -> dg.AssetCheckResult:
    """The sha256 of each stored document's decoded content is the one of the file that was read."""
    with one_line_failures():
        sample = None if config.every_document else config.documents
        found = audit.check_round_trip(doc_eval.open(), _batch_of(context), sample)
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
        batch_check_spec(name, asset=queue_rows.key, blocking=True, description=description)
        for name, (_, description) in _QUEUE_CHECKS.items()
    ],
    can_subset=True,
)
def queue_checks(context: dg.AssetCheckExecutionContext, doc_eval: DocEval) -> Iterator[dg.AssetCheckResult]:
    """Both checks of the queue in one step, because a step of Dagster costs more than they do."""
    for key in context.selected_asset_check_keys:
        check, _ = _QUEUE_CHECKS[key.name]
        with one_line_failures():
            found = check(doc_eval.open(), _batch_of(context))
        yield _check_result(found, key)


def _batch_of(context: dg.AssetCheckExecutionContext) -> int:
    return batch_id_of(context.partition_key)


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
