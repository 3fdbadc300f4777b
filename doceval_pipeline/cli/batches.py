"""The commands that act on batches, and list their files."""

import shlex
from collections.abc import (
    Callable,
    Mapping,
)
from dataclasses import (
    asdict,
    replace,
)
from pathlib import (
    Path,
)
from typing import (
    Any,
)

import click
from rich.markup import (
    escape,
)
from sqlalchemy.exc import (
    SQLAlchemyError,
)

from doceval_pipeline.batches.databases import (
    Databases,
    open_databases,
)
from doceval_pipeline.batches.files.file_counts import (
    batch_tallies,
    left_out,
    left_out_by_reason,
    staged,
)
from doceval_pipeline.batches.files.folders import (
    folder_problems,
    notes_on_assigned,
)
from doceval_pipeline.batches.invariants.audit import (
    audit_installation,
)
from doceval_pipeline.batches.monitoring.pending_work import (
    find_pending_work,
)
from doceval_pipeline.batches.monitoring.status import (
    batch_progress,
    closed_batches,
    failed_occurrences,
    having_failures,
)
from doceval_pipeline.batches.open_doors import (
    open_doors,
)
from doceval_pipeline.batches.results.report_files import (
    newest_report,
)
from doceval_pipeline.batches.staging.applying import (
    NextOccurrence,
    Preview,
    next_occurrences,
)
from doceval_pipeline.batches.staging.applying import (
    apply as apply_and_look,
)
from doceval_pipeline.batches.staging.planning import (
    plan,
)
from doceval_pipeline.batches.staging.reprocessing import (
    Mode,
)
from doceval_pipeline.batches.webhook import (
    notifications,
)
from doceval_pipeline.cli.bars import (
    bars,
)
from doceval_pipeline.cli.output import (
    console,
    in_words,
    print_json,
    print_table,
    warn,
)
from doceval_pipeline.cli.selection import (
    Done,
    Selection,
    act_on_each,
    select,
    several_batches,
)
from doceval_pipeline.dagster_home.limits import (
    missing_safeguards,
)
from doceval_pipeline.doc_eval.batches import (
    BatchRecord,
    find_batch,
    partition_key,
)
from doceval_pipeline.doc_eval.definitions.apply import (
    Applied,
)
from doceval_pipeline.doc_eval.definitions.evaluation_file import (
    load_evaluation_file,
)
from doceval_pipeline.doc_eval.files import (
    list_files,
)
from doceval_pipeline.errors import (
    ConfigurationError,
    DatabaseError,
    DocEvalError,
    EmbeddedServerError,
)
from doceval_pipeline.names import (
    printable,
)
from doceval_pipeline.paths import (
    file_path,
)
from doceval_pipeline.recurrence import (
    in_zone,
)
from doceval_pipeline.reports.formatting import (
    size_text,
)
from doceval_pipeline.settings import (
    Settings,
)

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print data for other programs.")


def databases() -> Databases:
    """The installation that the environment names."""
    return open_databases(Settings.from_environment())


def warn_of_waiting(opened: Databases) -> None:
    """Say on standard error which work waits for sensors that do not run."""
    work = find_pending_work(opened)
    if not work:
        return
    # Dagster takes half a second to import.
    from doceval_pipeline.defs.idle import why_waiting

    try:
        said = why_waiting(opened.settings, work)
    except DocEvalError as error:
        waits = ", ".join(each.description for each in work)
        said = [f"{waits}, and whether Dagster's daemon runs cannot be told: {error}"]
    for sentence in said:
        warn(sentence)


@click.command()
@click.argument("file", type=file_path)
@click.option("--stage", is_flag=True, help="Let the daemon stage its batches at once.")
@as_json_option
def apply(file: Path, stage: bool, as_json: bool) -> None:
    """Create or update connections, prompts, batches and recurring evaluations from an evaluation FILE.

    YAML 1.2 or JSON. All mistakes are listed at once, before anything is written; applying a file again
    changes nothing. A key that FILE leaves out keeps its value, and null clears it. Each change is shown,
    with the open batches it affects; a recurring evaluation changes from its next occurrence. What FILE no
    longer names stays as it is. Relative folders count from the folder of FILE, or of the file that it
    is a link to.
    """
    located = load_evaluation_file(file, folder_problems(Settings.from_environment()))
    try:
        applied, looked = apply_and_look(databases(), located, stage=stage)
        coming = next_occurrences(databases(), applied)
    except (ConfigurationError, DatabaseError, EmbeddedServerError, SQLAlchemyError):
        # Reports the mistakes of the file even if the database cannot be reached.
        located.refuse()
        raise
    if as_json:
        found = {name: seen.as_json() for name, seen in looked.items()}
        ahead = {
            each.record.name: {
                "next_at": each.record.next_at,
                "timezone": each.record.definition.timezone,
                "paused_at": each.record.paused_at,
                "found": None if each.found is None else each.found.as_json(),
            }
            for each in coming
        }
        print_json({**asdict(applied), "changed": applied.changed, "found": found, "next_occurrences": ahead})
        return
    print_table(
        ("", "created", "updated", "unchanged"),
        [
            (kind, len(changes.created), len(changes.updated), len(changes.unchanged))
            for kind, changes in (
                ("connections", applied.connections),
                ("prompts", applied.prompts),
                ("batches", applied.batches),
                ("recurring evaluations", applied.recurring),
            )
        ],
    )
    for change in applied.changes:
        console.print(printable(change.sentence), markup=False)
    _say_what_is_next(applied, looked, stage)
    for each in coming:
        _say_next_occurrence(each)


@click.command()
@several_batches
@as_json_option
def stage(batches: tuple[str, ...], as_json: bool) -> None:
    """Stage each BATCH, or repair what is missing of its staging.

    BATCH is a number, a name, or a quoted pattern such as 'contracts-*'.
    """
    # Dagster takes half a second to import, which other commands need not wait for.
    from doceval_pipeline.cli.runs import open_job

    opened = databases()
    selection = select(opened.doc_eval, batches)

    def stage_one(batch: BatchRecord) -> Done:
        run(batch.id)
        (progress,) = batch_progress(opened, str(batch.id))
        documents, cells = progress.documents, progress.cells
        expected = progress.batch.expected_cells
        files, notes = batch_tallies(opened, batch.id), notes_on_assigned(opened, batch.id)
        if progress.batch.held_notice is not None:
            notes = [*notes, progress.batch.held_notice]
        line = (
            f"[bold]{batch.key}[/] {progress.batch.status}: {staged(documents.staged, documents.distinct)}, "
            f"{cells.rows:,} of {expected:,} cells queued"
            f"{f', {cells.reused:,} of them reused' if cells.reused else ''}; {left_out(files)}"
        )
        data = {**progress.as_json(), "files": left_out_by_reason(files), "notes": notes}
        return Done(line, data, {"documents": documents.staged, "cells": cells.rows}, notes)

    with open_job("stage_batch", [batch.id for batch in selection.batches], quiet=as_json) as run:
        act_on_each(selection, stage_one, as_json)


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
        print_json([file.as_json() for file in files])
        return
    # Two folders may have files of the same name.
    has_several_folders = len({file.folder for file in files}) > 1
    print_table(
        ("file", "state", "size", "sha256", "content type"),
        [
            (
                f"{f.folder}/{f.path}" if has_several_folders else f.path,
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
@several_batches
@click.option("--open", "opens", is_flag=True, help="Also open the report in a browser; of one BATCH only.")
@as_json_option
def report(batches: tuple[str, ...], opens: bool, as_json: bool) -> None:
    """Write the report of each BATCH as it is now, and print where it is.

    BATCH is a number, a name, or a quoted pattern such as 'contracts-*'.
    """
    from doceval_pipeline.cli.reports import open_report
    from doceval_pipeline.cli.runs import open_job

    selection = select(databases().doc_eval, batches)
    if opens and not selection.is_one:
        raise click.UsageError("--open opens the report of one batch: name one, without a pattern")

    def report_one(batch: BatchRecord) -> Done:
        (materialized,) = run(batch.id).get_asset_materialization_events()
        metadata = materialized.materialization.metadata
        path, verdict = str(metadata["report"].value), metadata["verdict"].value
        line = escape(path) if selection.is_one else f"[bold]{batch.key}[/] {escape(path)}"
        return Done(line, {"batch": batch.id, "path": path, "verdict": verdict})

    with open_job("report_batch", [batch.id for batch in selection.batches], quiet=True) as run:
        act_on_each(selection, report_one, as_json)
    if opens:
        open_report(newest_report(databases(), find_batch(databases().doc_eval, batches[0])), quiet=as_json)


@click.command()
@click.option("--every-document", is_flag=True, help="Decode every stored document, not a sample.")
@as_json_option
def check(every_document: bool, as_json: bool) -> None:
    """Check both databases for consistency (docs/invariants.md); exit code 1 if an invariant is violated.

    Read-only: a member of doceval_reader can run it. Warns on standard error, without another exit code, of
    guards that the installation's dagster.yaml no longer has, of webhooks that could not be sent, of
    recurring evaluations whose newest occurrence failed, of work that waits while no daemon runs, and of
    what processors' login roles could do to others.
    """
    opened = databases()
    with bars(visible=not as_json) as draw:
        found = list(audit_installation(opened, draw("checking invariants"), every_document=every_document))
    if as_json:
        print_json([finding.as_json() for finding in found])
    elif not found:
        console.print("[green]every invariant holds[/]")
    else:
        rows = [(f.invariant, f.batch, f.problem, f.fix) for f in found]
        print_table(("must hold", "batch", "but", "what to do"), rows)
    for warning in (
        *missing_safeguards(opened.settings),
        *open_doors(opened),
        *notifications.warnings(opened),
        *failed_occurrences(opened),
    ):
        warn(warning)
    warn_of_waiting(opened)
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
@click.argument("batches", nargs=-1, metavar="BATCH...")
@reprocess_options
@click.option(
    "--with-failures",
    is_flag=True,
    help="Only closed batches that have failed evaluations and were not cancelled; of all batches, if no "
    "BATCH is given. Implies --failed.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be queued, with totals. Writes nothing.")
@as_json_option
def reprocess(
    batches: tuple[str, ...],
    mode: str | None,
    rescan: bool,
    with_failures: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Repair what is missing of each BATCH, and queue new attempts; earlier ones are kept.

    BATCH is a number, a name, or a quoted pattern such as 'contracts-*'.
    """
    opened = databases()
    if not batches and not with_failures:
        raise click.UsageError("Missing argument 'BATCH...' (or --with-failures).")
    selection = select(opened.doc_eval, batches) if batches else Selection(closed_batches(opened))
    wanted = Mode(mode or "missing")
    if with_failures:
        selection = replace(selection, batches=having_failures(opened, selection.batches), is_one=False)
        wanted = Mode(mode or "failed")
    if not selection.batches and not selection.unknown and not as_json:
        console.print("no closed batch has failed evaluations")
        return
    if dry_run:
        act_on_each(selection, lambda batch: _planned(opened, batch, wanted, rescan), as_json)
        return
    config = {"reprocess_cells": {"config": {"mode": wanted.value, "rescan": rescan}}}
    _act(selection, "reprocess_batch", "reprocess_cells", as_json, config, stages=True)


@click.command()
@several_batches
@as_json_option
def pause(batches: tuple[str, ...], as_json: bool) -> None:
    """Hold the waiting rows of each BATCH; running ones may finish."""
    _act(select(databases().doc_eval, batches), "pause_batch", "pause_rows", as_json)


@click.command()
@several_batches
@as_json_option
def resume(batches: tuple[str, ...], as_json: bool) -> None:
    """Release the rows of each paused BATCH."""
    _act(select(databases().doc_eval, batches), "resume_batch", "resume_rows", as_json)


@click.command()
@several_batches
@as_json_option
def cancel(batches: tuple[str, ...], as_json: bool) -> None:
    """Close the waiting rows of each BATCH; it ends as FAILED and can be reprocessed."""
    _act(select(databases().doc_eval, batches), "cancel_batch", "cancel_rows", as_json)


COMMANDS = (apply, stage, documents, report, check, reprocess, pause, resume, cancel)


def _act(
    selection: Selection,
    job: str,
    op: str,
    as_json: bool,
    config: Mapping[str, Any] | None = None,
    stages: bool = False,
) -> None:
    """Run a job on each batch and print how many rows it changed, and with `stages` the files left out."""
    from doceval_pipeline.cli.runs import open_job

    def act(batch: BatchRecord) -> Done:
        counts = run(batch.id).output_for_node(op)
        (progress,) = batch_progress(databases(), str(batch.id))
        line = f"[bold]{batch.key}[/] {progress.batch.status}: {in_words(counts)}"
        data = {**progress.as_json(), "done": counts}
        if stages:
            files = batch_tallies(databases(), batch.id)
            line, data = f"{line}; {left_out(files)}", {**data, "files": left_out_by_reason(files)}
        return Done(line, data, counts)

    with open_job(job, [batch.id for batch in selection.batches], quiet=as_json, ops=config) as run:
        act_on_each(selection, act, as_json)


def _planned(opened: Databases, batch: BatchRecord, mode: Mode, rescan: bool) -> Done:
    """What reprocessing a batch would do."""
    found = plan(opened, batch.id, mode, lambda *_: None, rescan=rescan)
    counts = found.counts()
    return Done(f"[bold]{batch.key}[/] {found.batch.status}: {in_words(counts)}", found.as_json(), counts)


def _say_next_occurrence(coming: NextOccurrence) -> None:
    record = coming.record
    if record.paused_at is not None:
        when = f"paused; resume it with doceval recurring resume {shlex.quote(record.name)}"
    elif record.next_at is None:
        when = "a batch is made when documents arrive"
    else:
        when = f"next batch {in_zone(record.next_at, record.definition.timezone)}"
    console.print(printable(f"  {record.name}  {when}"), markup=False)
    if coming.found is not None:
        console.print(f"    found now: {coming.found.sentence}", markup=False)
        for note in coming.found.notes:
            warn(f"    {note}")


def _say_what_is_next(applied: Applied, looked: Mapping[str, Preview], stage: bool) -> None:
    if not applied.changed:
        console.print("nothing changed")
    for name, number in applied.numbers.items():
        console.print(f"  {partition_key(number)}  {printable(name)}", markup=False)
        if name in looked:
            console.print(f"    found now: {looked[name].sentence}", markup=False)
            for note in looked[name].notes:
                warn(f"    {note}")
    for note in applied.notes:
        warn(note)
    if applied.staging_requested_again:
        names = ", ".join(map(printable, applied.staging_requested_again))
        console.print(f"staging was requested before and has not begun, asked again: {names}", markup=False)
    if applied.staging_requested or applied.staging_requested_again:
        console.print("staging begins within seconds while [bold]doceval up[/] runs")
    elif stage:
        console.print("no batch is waiting to be staged: all have begun")
    elif applied.batches.created:
        console.print("next: [bold]doceval stage BATCH[/], or materialize its partition in Dagster's UI")
