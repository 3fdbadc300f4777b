"""The four assets of staging and their checks."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.files.folders import notes_on_assigned
from doceval_pipeline.batches.invariants import audit
from doceval_pipeline.batches.invariants.invariant import SAMPLE
from doceval_pipeline.batches.staging import steps
from doceval_pipeline.batches.staging.reprocessing import Mode, queue_attempts
from doceval_pipeline.batches.staging.rescanning import assign
from doceval_pipeline.defs.catalog import (
    BATCH_CONFIGS,
    BATCH_DOCUMENTS,
    CODE_VERSIONS,
    DOCS,
    LLM_RESPONSES,
    row_count,
)
from doceval_pipeline.defs.naming import NAME, about, name_of, shown_name
from doceval_pipeline.defs.partitions import batch_check, batch_check_spec, batches
from doceval_pipeline.defs.resources import FINDING, QUEUEING, DocEval, StagingProgress
from doceval_pipeline.defs.steps import NoConfig, StepConfig, first_run_of, open_batch
from doceval_pipeline.doc_eval.files import Tally
from doceval_pipeline.doc_eval.recurring.occurrences import recurring_origins
from doceval_pipeline.domain.snapshot import Snapshot
from doceval_pipeline.reports.formatting import counted

GROUP = "staging"


@dg.asset(
    partitions_def=batches,
    group_name=GROUP,
    kinds={"postgres"},
    metadata=BATCH_CONFIGS.metadata,
    tags=BATCH_CONFIGS.tags,
    code_version=CODE_VERSIONS["batch_config_snapshot"],
)
def batch_config_snapshot(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> dg.MaterializeResult[None]:
    """Holds the sealed configuration of the batch: folders, connections, prompt texts. It never changes."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        sealed, name = steps.seal_batch(databases, batch_id), name_of(databases, batch_id)
        origin = _origin(databases, batch_id)
    context.log.info(f"{name}: {_sealed_sentence(sealed)}")
    return dg.MaterializeResult(
        metadata={
            NAME: name,
            **origin,
            "sha256": sealed.sha256,
            "folders": len(sealed.config["folders"]),
            "connections": len(sealed.config["connections"]),
            "prompts": len(sealed.config["prompts"]),
            "config": dg.MetadataValue.json(sealed.config),
            **row_count(1),
        },
        data_version=dg.DataVersion(sealed.sha256),
    )


class Assignment(StepConfig):
    """Whether to rescan the folders of a staged batch."""

    rescan: bool = Field(
        default=False,
        description="true rescans the folders: new and changed files join the batch, and files that are gone "
        "leave it. Then also materialize encoded_documents and queue_rows, which store and queue new "
        "documents. false keeps the files of a staged batch.",
    )


@dg.asset(
    partitions_def=batches,
    group_name=GROUP,
    kinds={"file", "postgres"},
    deps=[batch_config_snapshot],
    metadata=BATCH_DOCUMENTS.metadata,
    tags=BATCH_DOCUMENTS.tags,
    code_version=CODE_VERSIONS["document_assignment"],
)
def document_assignment(
    context: dg.AssetExecutionContext, config: Assignment, doc_eval: DocEval, progress: StagingProgress
) -> dg.MaterializeResult[None]:
    """Lists every file of the batch's folders, with the reason if a file is unusable.

    Frozen once it is complete. `rescan: true` in its config rescans the folders.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        finding = progress.listener(context.log, FINDING)
        assigned, rescanned = assign(databases, batch_id, finding, rescan=config.rescan)
        name = name_of(databases, batch_id)
        notes = notes_on_assigned(databases, batch_id) if assigned.fresh or config.rescan else []
    context.log.info(f"{name}: {assigned.sentence}")
    if config.rescan:
        context.log.info(f"{name}: {rescanned.sentence}")
    for note in notes:
        context.log.warning(f"{name}: {note}")
    return dg.MaterializeResult(
        metadata={
            NAME: name,
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
            **row_count(sum(tally.files for tally in assigned.tallies)),
        },
        data_version=_new_version(context),
    )


@dg.asset(
    partitions_def=batches,
    group_name=GROUP,
    kinds={"file", "postgres"},
    deps=[document_assignment],
    metadata=DOCS.metadata,
    tags=DOCS.tags,
    code_version=CODE_VERSIONS["encoded_documents"],
)
def encoded_documents(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval, progress: StagingProgress
) -> dg.MaterializeResult[None]:
    """Stores the documents as canonical base64 in KnowledgeDocuments.docs, each distinct document once."""
    with open_batch(context, doc_eval) as (databases, batch_id):
        stored = steps.store_documents(databases, batch_id, progress.listener(context.log))
        name = name_of(databases, batch_id)
    files, size = stored.files, stored.bytes
    context.log.info(f"{name}: {stored.sentence}")
    return dg.MaterializeResult(
        metadata={
            NAME: name,
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
            **row_count(stored.distinct),
        },
        data_version=_new_version(context),
    )


class Queue(StepConfig):
    """Which evaluations of a staged batch get a new attempt."""

    mode: Mode = Field(
        default=Mode.missing,
        description="missing only adds missing rows. failed also queues a new attempt for each failed "
        "evaluation, and all for each succeeded or failed one. Waiting and running evaluations are not "
        "changed, and earlier attempts are kept.",
    )


@dg.asset(
    partitions_def=batches,
    group_name=GROUP,
    kinds={"postgres"},
    deps=[encoded_documents],
    metadata=LLM_RESPONSES.metadata,
    tags=LLM_RESPONSES.tags,
    code_version=CODE_VERSIONS["queue_rows"],
)
def queue_rows(
    context: dg.AssetExecutionContext, config: Queue, doc_eval: DocEval, progress: StagingProgress
) -> dg.MaterializeResult[None]:
    """Queues one row for each (document, prompt, connection) in KnowledgeDocuments.llm_responses.

    `mode: failed` or `mode: all` in its config queues new attempts. A backfill of this asset reprocesses
    many batches.
    """
    with open_batch(context, doc_eval) as (databases, batch_id):
        request = first_run_of(context.instance, context.run)
        queueing = progress.listener(context.log, QUEUEING)
        queued, new_attempts = queue_attempts(databases, batch_id, config.mode, request, queueing)
        rows, name = steps.count_rows(databases, batch_id), name_of(databases, batch_id)
    context.log.info(
        f"{name}: {queued.sentence}; mode {config.mode.value} queued "
        f"{counted(new_attempts, 'new attempt', 'new attempts')}"
    )
    held = {} if queued.held is None else {"held_reason": queued.held}
    if held:
        context.log.warning(f"{name}: held: {queued.held}; resume_batch releases its evaluations")
    return dg.MaterializeResult(
        metadata={
            NAME: name,
            "cells": queued.cells,
            "cells_reused": queued.cells_reused,
            "rows_added": queued.added,
            "new_attempts": new_attempts,
            "distinct_documents": queued.documents,
            "prompts": queued.prompts,
            "connections": queued.connections,
            **held,
            "seconds": round(queued.seconds, 3),
            **row_count(rows),
        },
        data_version=_new_version(context),
    )


STAGING_ASSETS = frozenset(
    asset.key for asset in (batch_config_snapshot, document_assignment, encoded_documents, queue_rows)
)


class RoundTripSample(StepConfig):
    """How many stored documents are decoded and compared, up to 16 MiB of them; or all."""

    documents: int = Field(
        default=SAMPLE,
        description="How many stored documents are decoded and compared, up to 16 MiB of them.",
    )
    every_document: bool = Field(
        default=False, description="true compares all stored documents of the batch."
    )


stage_batch = dg.define_asset_job(
    "stage_batch",
    selection=dg.AssetSelection.groups(GROUP),
    description="Stages a batch, or completes an incomplete staging.",
)


@batch_check(asset=encoded_documents, blocking=True)
def documents_round_trip(
    context: dg.AssetCheckExecutionContext, config: RoundTripSample, doc_eval: DocEval
) -> dg.AssetCheckResult:
    """Checks that each stored document, when decoded, has the sha256 of the file that was read."""
    sample = None if config.every_document else config.documents
    with open_batch(context, doc_eval) as (databases, batch_id):
        result, name = audit.check_round_trip(databases, batch_id, sample), name_of(databases, batch_id)
    return _check_result(context, name, result, documents_round_trip.check_key)


_QUEUE_CHECKS = {
    "queue_is_complete": (
        audit.check_queue_complete,
        "Checks that each distinct document x prompt x connection has exactly one current row.",
    ),
    "rows_have_documents": (
        audit.check_rows_have_documents,
        "Checks that every queue row has its document, and that the document belongs to the batch.",
    ),
}


@dg.multi_asset_check(
    specs=[
        batch_check_spec(name, asset=queue_rows.key, blocking=True, description=description)
        for name, (_, description) in _QUEUE_CHECKS.items()
    ],
    can_subset=True,
)
def queue_checks(
    context: dg.AssetCheckExecutionContext, config: NoConfig, doc_eval: DocEval
) -> Iterator[dg.AssetCheckResult]:
    """Both checks of the queue in one step, because a Dagster step takes longer than both."""
    for key in context.selected_asset_check_keys:
        check, _ = _QUEUE_CHECKS[key.name]
        with open_batch(context, doc_eval) as (databases, batch_id):
            result, name = check(databases, batch_id), name_of(databases, batch_id)
        yield _check_result(context, name, result, key)


def _check_result(
    context: dg.AssetCheckExecutionContext, name: str, result: audit.BatchCheck, key: dg.AssetCheckKey
) -> dg.AssetCheckResult:
    context.log.info(f"{name}: {key.name}: {result.summary}")
    return dg.AssetCheckResult(
        check_name=key.name,
        asset_key=key.asset_key,
        passed=not result.problems,
        **about(name, result.summary, {"checked": result.checked, "problems": result.problems}),
    )


def _origin(databases: Databases, batch_id: int) -> dict[str, str]:
    """Metadata about the recurring evaluation that created a batch, if any."""
    with databases.doc_eval.connect() as connection:
        origin = recurring_origins(connection, [batch_id]).get(batch_id)
    if origin is None:
        return {}
    return {"recurring_evaluation": shown_name(origin.name), "due_at": origin.due_at.isoformat()}


def _sealed_sentence(sealed: Snapshot) -> str:
    chosen = [
        counted(len(sealed.config[f"{kind}s"]), kind, f"{kind}s")
        for kind in ("folder", "connection", "prompt")
    ]
    return f"snapshot {sealed.sha256[:8]} is sealed, with {', '.join(chosen[:-1])} and {chosen[-1]}"


def _new_version(context: dg.AssetExecutionContext) -> dg.DataVersion:
    """A data version that no other materialization has.

    By default, Dagster gives the same version to all with the same code and inputs, even after a rescan or
    new attempts.
    """
    return dg.DataVersion(context.run.run_id)


def _by_reason(tallies: list[Tally]) -> dg.TableMetadataValue:
    # Reasons are words of doceval; file names, which others chose, are not shown here.
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
