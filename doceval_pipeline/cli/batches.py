"""The commands that act on batches, and list their files."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from doceval_pipeline.batches.audit import violations
from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.status import batch_progress
from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.output import console, errors, print_json, print_table, printable
from doceval_pipeline.dagster_home.limits import given_up
from doceval_pipeline.doc_eval.apply import Applied, apply_evaluation
from doceval_pipeline.doc_eval.batch_documents import list_files
from doceval_pipeline.doc_eval.batches import find_batch, partition_key
from doceval_pipeline.doc_eval.evaluation_file import load_evaluation_file
from doceval_pipeline.reports.numbers import size_text
from doceval_pipeline.settings import Settings

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print data for other programs.")


def databases() -> Databases:
    """The installation that the environment names."""
    return open_databases(Settings.from_environment())


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--stage", is_flag=True, help="Let the daemon stage its batches at once.")
@as_json_option
def apply(file: Path, stage: bool, as_json: bool) -> None:
    """Create or update connections, prompts and batches from an evaluation FILE.

    Everything is checked before anything is written; applying a file again changes nothing.
    """
    located = load_evaluation_file(file)
    applied = apply_evaluation(databases().doc_eval, located, stage)
    if as_json:
        print_json({**asdict(applied), "changed": applied.changed})
        return
    print_table(
        ("", "created", "updated", "unchanged"),
        [
            (kind, len(changes.created), len(changes.updated), len(changes.unchanged))
            for kind, changes in (
                ("connections", applied.connections),
                ("prompts", applied.prompts),
                ("batches", applied.batches),
            )
        ],
    )
    _say_what_is_next(applied, stage)


@click.command()
@click.argument("batch")
@as_json_option
def stage(batch: str, as_json: bool) -> None:
    """Stage BATCH (a number or a name), or repair what is missing of its staging."""
    # Dagster takes half a second to import, which other commands need not wait for.
    from doceval_pipeline.cli.runs import run_in_dagster

    record = find_batch(databases().doc_eval, batch)
    run_in_dagster("stage_batch", record.id, quiet=as_json)
    (progress,) = batch_progress(databases(), str(record.id))
    if as_json:
        print_json(progress.as_json())
        return
    documents, cells = progress.documents, progress.cells
    console.print(
        f"[bold]{record.key}[/] {progress.batch.status}: {documents.staged:,} documents "
        f"({documents.distinct:,} distinct), {cells.rows:,} of {progress.batch.expected_cells:,} cells queued"
    )


@click.command()
@click.argument("batch")
@as_json_option
def documents(batch: str, as_json: bool) -> None:
    """List every file of BATCH: state, reason, size, sha256, content type."""
    opened = databases()
    record = find_batch(opened.doc_eval, batch)
    record.require_rows()
    with opened.doc_eval.connect() as connection:
        files = list(list_files(connection, record.id))
    if as_json:
        print_json([asdict(file) for file in files])
        return
    print_table(
        ("file", "state", "size", "sha256", "content type"),
        [
            (
                f.path,
                f"{f.state}: {f.reason}" if f.reason else f.state,
                None if f.size is None else size_text(f.size),
                f.sha256 and f.sha256[:8],
                f.content_type,
            )
            for f in files
        ],
        title=f"{record.key} {record.name}: {len(files):,} files",
    )


@click.command()
@click.argument("batch")
@as_json_option
def report(batch: str, as_json: bool) -> None:
    """Write the report of BATCH as it is now, and say where it stands."""
    from doceval_pipeline.cli.runs import run_in_dagster

    record = find_batch(databases().doc_eval, batch)
    result = run_in_dagster("report_batch", record.id, quiet=True)
    (materialized,) = result.get_asset_materialization_events()
    metadata = materialized.materialization.metadata
    path = metadata["report"].value
    if as_json:
        print_json({"batch": record.id, "path": path, "verdict": metadata["verdict"].value})
    else:
        console.print(path, markup=False)


@click.command()
@click.option("--every-document", is_flag=True, help="Decode every stored document, not a sample.")
@as_json_option
def check(every_document: bool, as_json: bool) -> None:
    """Hold both databases against docs/invariants.md; exit code 1 if anything is not as it must be.

    Read-only: a member of doceval_reader can run it. Warns on standard error, without another exit code, of
    guards that the installation's dagster.yaml no longer has.
    """
    opened = databases()
    with bars(visible=not as_json) as draw:
        found = list(violations(opened, every_document, draw("checking invariants")))
    if as_json:
        print_json([asdict(violation) for violation in found])
    elif not found:
        console.print("[green]every invariant holds[/]")
    else:
        rows = [(v.invariant, v.batch, v.problem, v.mend) for v in found]
        print_table(("must hold", "batch", "but", "what to do"), rows)
    for warning in given_up(opened.settings):
        errors.print(printable(warning), style="yellow", markup=False)
    if found:
        raise SystemExit(1)


def reprocess_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what is reprocessed; the same for doing it and for planning it."""
    for option in (
        click.option("--rescan", is_flag=True, help="Look at the folders again first."),
        click.option("--all", "mode", flag_value="all", help="Also a new attempt for each finished cell."),
        click.option(
            "--failed", "mode", flag_value="failed", help="Also a new attempt for each failed cell."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("batch")
@reprocess_options
@as_json_option
def reprocess(batch: str, mode: str | None, rescan: bool, as_json: bool) -> None:
    """Repair what is missing of BATCH, and queue new attempts; earlier ones are kept."""
    config = {"reprocess_cells": {"config": {"mode": mode or "missing", "rescan": rescan}}}
    _act(batch, "reprocess_batch", "reprocess_cells", as_json, config)


@click.command()
@click.argument("batch")
@as_json_option
def pause(batch: str, as_json: bool) -> None:
    """Hold the rows of BATCH that wait; what runs may finish."""
    _act(batch, "pause_batch", "pause_rows", as_json)


@click.command()
@click.argument("batch")
@as_json_option
def resume(batch: str, as_json: bool) -> None:
    """Release the rows of the paused BATCH."""
    _act(batch, "resume_batch", "resume_rows", as_json)


@click.command()
@click.argument("batch")
@as_json_option
def cancel(batch: str, as_json: bool) -> None:
    """Close the rows of BATCH that wait; it ends as FAILED and can be reprocessed."""
    _act(batch, "cancel_batch", "cancel_rows", as_json)


COMMANDS = (apply, stage, documents, report, check, reprocess, pause, resume, cancel)


def _act(batch: str, job: str, op: str, as_json: bool, config: Mapping[str, Any] | None = None) -> None:
    """Run a job on a batch and say what it did to how many rows."""
    from doceval_pipeline.cli.runs import run_in_dagster

    record = find_batch(databases().doc_eval, batch)
    counts = run_in_dagster(job, record.id, quiet=as_json, ops=config).output_for_node(op)
    (progress,) = batch_progress(databases(), str(record.id))
    if as_json:
        print_json({**progress.as_json(), "done": counts})
        return
    done = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    console.print(f"[bold]{record.key}[/] {progress.batch.status}: {done}")


def _say_what_is_next(applied: Applied, stage: bool) -> None:
    if not applied.changed:
        console.print("nothing changed")
    for name, number in applied.numbers.items():
        console.print(f"  {partition_key(number)}  {printable(name)}", markup=False)
    if applied.staging_requested:
        console.print("staging begins within seconds while [bold]doceval up[/] runs")
    elif stage:
        console.print("no batch is waiting to be staged: all have begun, or were asked for before")
    elif applied.batches.created:
        console.print("next: [bold]doceval stage BATCH[/], or materialize its partition in Dagster's UI")
