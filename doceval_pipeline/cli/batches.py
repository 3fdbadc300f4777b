"""The commands that act on several batches: stage, reprocess, pause, resume, cancel."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option, reprocess_options, several_batches
from doceval_pipeline.cli.output import console, in_words
from doceval_pipeline.cli.selection import ActionResult, Selection, act_on_each, select

if TYPE_CHECKING:
    from doceval_pipeline.batches.databases import Databases
    from doceval_pipeline.batches.staging.reprocessing import Mode
    from doceval_pipeline.doc_eval.batches import BatchRecord


@command(epilog=examples("doceval stage 1", "doceval stage 'contracts-*'"))
@several_batches
@as_json_option
def stage(*, batches: tuple[str, ...], as_json: bool) -> None:
    """Stage batches, or complete their staging.

    Seals the configuration of each BATCH, stores its documents and queues its evaluations; a staging that was
    interrupted is completed. BATCH is a number, a name, or a quoted pattern such as 'contracts-*'.
    """
    from doceval_pipeline.batches.files.file_counts import batch_tallies, left_out, left_out_by_reason, staged
    from doceval_pipeline.batches.files.folders import notes_on_assigned
    from doceval_pipeline.batches.monitoring.status import batch_progress

    # Dagster takes half a second to import.
    with importing():
        from doceval_pipeline.cli.runs import open_job

    opened = databases()
    selection = select(opened.doc_eval, batches)

    def stage_one(batch: "BatchRecord") -> ActionResult:
        run(batch.id)
        progress = batch_progress(opened, str(batch.id))
        documents, cells = progress.documents, progress.cells
        expected = progress.batch.expected_cells
        files, notes = batch_tallies(opened, batch.id), notes_on_assigned(opened, batch.id)
        if progress.batch.held_notice is not None:
            notes = [*notes, progress.batch.held_notice]
        line = (
            f"[bold]{batch.key}[/] {progress.batch.status}: {staged(documents.staged, documents.distinct)}, "
            f"{cells.rows:,} of {expected:,} evaluations queued"
            f"{f', {cells.reused:,} of them reused' if cells.reused else ''}; {left_out(files)}"
        )
        data = {**progress.as_json(), "files": left_out_by_reason(files), "notes": notes}
        return ActionResult(line, data, {"documents": documents.staged, "evaluations": cells.rows}, notes)

    with open_job("stage_batch", [batch.id for batch in selection.batches], quiet=as_json) as run:
        act_on_each(selection, stage_one, as_json=as_json)


@command(
    epilog=examples(
        "doceval reprocess 1 --failed",
        "doceval reprocess 1 --rescan --dry-run",
        "doceval reprocess --with-failures",
    )
)
@click.argument("batches", nargs=-1, metavar="BATCH...")
@reprocess_options
@click.option(
    "--with-failures",
    is_flag=True,
    help="Only closed batches that have failed evaluations and were not cancelled; of all batches if no "
    "BATCH is given. Implies --failed.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be queued, with totals. Writes nothing.")
@as_json_option
def reprocess(
    *,
    batches: tuple[str, ...],
    mode: str | None,
    rescan: bool,
    with_failures: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Repair batches and queue new attempts.

    Adds missing documents and evaluations of each BATCH. Earlier attempts are kept. BATCH is a number, a
    name, or a quoted pattern such as 'contracts-*'.
    """
    from doceval_pipeline.batches.monitoring.status import batches_with_failures, closed_batches
    from doceval_pipeline.batches.staging.reprocessing import Mode

    opened = databases()
    if not batches and not with_failures:
        raise click.UsageError("Missing argument 'BATCH...' (or --with-failures).")
    selection = select(opened.doc_eval, batches) if batches else Selection(closed_batches(opened))
    chosen_mode = Mode(mode or "missing")
    if with_failures:
        selection = replace(selection, batches=batches_with_failures(opened, selection.batches), is_one=False)
        chosen_mode = Mode(mode or "failed")
    if not selection.batches and not selection.unknown and not as_json:
        console.print("no closed batch has failed evaluations")
        return
    if dry_run:
        act_on_each(
            selection, lambda batch: _planned(opened, batch, chosen_mode, rescan=rescan), as_json=as_json
        )
        return
    config = {"reprocess_cells": {"config": {"mode": chosen_mode.value, "rescan": rescan}}}
    _run_on_each(selection, "reprocess_batch", "reprocess_cells", config, stages=True, as_json=as_json)


@command(epilog=examples("doceval pause 1"))
@several_batches
@as_json_option
def pause(*, batches: tuple[str, ...], as_json: bool) -> None:
    """Hold the waiting evaluations of batches.

    Running evaluations may finish. BATCH is a number, a name, or a quoted pattern such as 'contracts-*'.
    """
    _run_on_each(select(databases().doc_eval, batches), "pause_batch", "pause_rows", as_json=as_json)


@command(epilog=examples("doceval resume 1"))
@several_batches
@as_json_option
def resume(*, batches: tuple[str, ...], as_json: bool) -> None:
    """Release the evaluations of paused batches.

    BATCH is a number, a name, or a quoted pattern such as 'contracts-*'.
    """
    _run_on_each(select(databases().doc_eval, batches), "resume_batch", "resume_rows", as_json=as_json)


@command(epilog=examples("doceval cancel 1"))
@several_batches
@as_json_option
def cancel(*, batches: tuple[str, ...], as_json: bool) -> None:
    """Close the waiting evaluations of batches.

    Each BATCH ends as FAILED and can be reprocessed. BATCH is a number, a name, or a quoted pattern such as
    'contracts-*'.
    """
    _run_on_each(select(databases().doc_eval, batches), "cancel_batch", "cancel_rows", as_json=as_json)


def _run_on_each(
    selection: Selection,
    job: str,
    op: str,
    config: Mapping[str, Any] | None = None,
    *,
    stages: bool = False,
    as_json: bool,
) -> None:
    """Run a job on each batch and print how many rows it changed; with `stages`, also the files left out."""
    from doceval_pipeline.batches.files.file_counts import batch_tallies, left_out, left_out_by_reason
    from doceval_pipeline.batches.monitoring.status import batch_progress

    with importing():
        from doceval_pipeline.cli.runs import open_job

    def act(batch: "BatchRecord") -> ActionResult:
        counts = run(batch.id).output_for_node(op)
        progress = batch_progress(databases(), str(batch.id))
        line = f"[bold]{batch.key}[/] {progress.batch.status}: {in_words(counts)}"
        data = {**progress.as_json(), "done": counts}
        if stages:
            files = batch_tallies(databases(), batch.id)
            line, data = f"{line}; {left_out(files)}", {**data, "files": left_out_by_reason(files)}
        return ActionResult(line, data, counts)

    with open_job(job, [batch.id for batch in selection.batches], quiet=as_json, ops=config) as run:
        act_on_each(selection, act, as_json=as_json)


def _planned(opened: "Databases", batch: "BatchRecord", mode: "Mode", *, rescan: bool) -> ActionResult:
    """The result of planning to reprocess a batch."""
    from doceval_pipeline.batches.staging.planning import plan

    batch_plan = plan(opened, batch.id, mode, lambda *_: None, rescan=rescan)
    counts = batch_plan.counts()
    return ActionResult(
        f"[bold]{batch.key}[/] {batch_plan.batch.status}: {in_words(counts)}", batch_plan.as_json(), counts
    )
