"""`doceval apply`: creates and changes what an evaluation file defines."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, grouped, print_json, print_table, warn
from doceval_pipeline.errors import ConfigurationError, DatabaseError, EmbeddedServerError
from doceval_pipeline.names import printable
from doceval_pipeline.paths import file_path
from doceval_pipeline.recurrence import in_zone
from doceval_pipeline.settings import Settings

if TYPE_CHECKING:
    from doceval_pipeline.batches.staging.applying import NextOccurrence, Preview
    from doceval_pipeline.doc_eval.definitions.apply import Applied


@command(epilog=examples("doceval apply evaluation.yaml", "doceval apply evaluation.yaml --stage"))
@click.argument("file", type=file_path)
@click.option("--stage", is_flag=True, help="Also request the staging of its batches.")
@as_json_option
def apply(*, file: Path, stage: bool, as_json: bool) -> None:
    """Create or update what an evaluation file defines.

    FILE (YAML 1.2 or JSON) defines connections, prompts, batches and recurring evaluations. All mistakes are
    listed before anything is written. Each change is shown with the open batches that it affects; applying
    the same file again changes nothing.

    A key that FILE omits keeps its value; null clears it. Objects that FILE no longer names are kept. A
    recurring evaluation changes from its next occurrence. Relative folders are relative to the folder of
    FILE; if FILE is a link, to the folder of the linked file.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from doceval_pipeline.batches.files.folders import folder_problems
    from doceval_pipeline.batches.staging.applying import apply as apply_and_preview
    from doceval_pipeline.batches.staging.applying import next_occurrences
    from doceval_pipeline.doc_eval.definitions.evaluation_file import load_evaluation_file

    located = load_evaluation_file(file, folder_problems(Settings.from_environment()))
    try:
        applied, previews = apply_and_preview(databases(), located, stage=stage)
        upcoming = next_occurrences(databases(), applied)
    except (ConfigurationError, DatabaseError, EmbeddedServerError, SQLAlchemyError):
        # Report the mistakes in the file even if the database cannot be reached.
        located.refuse()
        raise
    if as_json:
        print_json(_as_json(applied, previews, upcoming))
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
    _print_next_steps(applied, previews, stage=stage)
    for each in upcoming:
        _print_next_occurrence(each)
    notes = ((e.record.name, note) for e in upcoming if e.found is not None for note in e.found.notes)
    for line in grouped(notes, "recurring evaluations"):
        warn(line)


def _as_json(
    applied: "Applied", previews: "Mapping[str, Preview]", upcoming: "Sequence[NextOccurrence]"
) -> dict[str, Any]:
    preview_data = {name: preview.as_json() for name, preview in previews.items()}
    occurrences = {
        each.record.name: {
            "next_at": each.record.next_at,
            "timezone": each.record.definition.timezone,
            "paused_at": each.record.paused_at,
            "found": None if each.found is None else each.found.as_json(),
        }
        for each in upcoming
    }
    return {
        **asdict(applied),
        "changed": applied.changed,
        "found": preview_data,
        "next_occurrences": occurrences,
    }


def _print_next_occurrence(occurrence: "NextOccurrence") -> None:
    record = occurrence.record
    if record.paused_at is not None:
        when = f"paused; resume it with doceval recurring resume {shlex.quote(record.name)}"
    elif record.next_at is None:
        when = "next batch when documents arrive"
    else:
        when = f"next batch {in_zone(record.next_at, record.definition.timezone)}"
    console.print(printable(f"  {record.name}  {when}"), markup=False)
    if occurrence.found is not None:
        console.print(f"    found now: {occurrence.found.sentence}", markup=False)


def _print_next_steps(applied: "Applied", previews: "Mapping[str, Preview]", *, stage: bool) -> None:
    from doceval_pipeline.doc_eval.batches import partition_key

    if not applied.changed:
        console.print("nothing changed")
    for name, number in applied.numbers.items():
        console.print(f"  {partition_key(number)}  {printable(name)}", markup=False)
        if name in previews:
            console.print(f"    found now: {previews[name].sentence}", markup=False)
    for line in grouped(
        (partition_key(number), note)
        for name, number in applied.numbers.items()
        if name in previews
        for note in previews[name].notes
    ):
        warn(line)
    for note in applied.notes:
        warn(note)
    if applied.staging_requested_again:
        names = ", ".join(map(printable, applied.staging_requested_again))
        console.print(
            f"staging was already requested but has not begun; requested again: {names}", markup=False
        )
    if applied.staging_requested or applied.staging_requested_again:
        console.print("staging begins within seconds while [bold]doceval up[/] runs")
    elif stage:
        console.print("nothing to stage: staging of all its batches has begun")
    elif applied.batches.created:
        console.print("next: [bold]doceval stage BATCH[/], or materialize its partition in Dagster's UI")
