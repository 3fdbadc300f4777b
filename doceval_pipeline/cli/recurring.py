"""The commands about recurring evaluations: recurring list, run, pause, resume, delete, report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from doceval_pipeline.cli.batches import as_json_option, databases
from doceval_pipeline.cli.output import console, print_json, print_table
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.recurring import (
    RecurringRecord,
    find_recurring,
    list_recurring,
    occurrences,
)
from doceval_pipeline.names import printable

# Of one recurring evaluation, shown by `doceval recurring list NAME`.
MOST_SHOWN = 30


@click.group()
def recurring() -> None:
    """Evaluations that make a batch again and again: by a schedule, or of what arrives in folders.

    They are defined under `recurring` in an evaluation file.
    """


@recurring.command("list")
@click.argument("name", required=False)
@as_json_option
def list_command(name: str | None, as_json: bool) -> None:
    """Show all recurring evaluations with their next and newest times, or the times of NAME."""
    opened = databases()
    with opened.doc_eval.connect() as connection:
        if name is not None:
            record = find_recurring(connection, name)
            found = occurrences(connection, record.id, MOST_SHOWN)
        else:
            records = list_recurring(connection)
    if name is None:
        _show_all(records, as_json)
    elif as_json:
        print_json([asdict(occurrence) for occurrence in found])
    else:
        print_table(
            ("time (UTC)", "outcome", "batch", "new", "changed", "unchanged", "gone", "reason"),
            [
                (
                    f"{o.due_at:%Y-%m-%d %H:%M}",
                    o.outcome.value,
                    None if o.batch_id is None else partition_key(o.batch_id),
                    o.files.new,
                    o.files.changed,
                    o.files.unchanged,
                    o.files.gone,
                    o.reason,
                )
                for o in found
            ],
            title=record.name,
            optional=("reason",),
        )


def _show_all(records: list[RecurringRecord], as_json: bool) -> None:
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    if not records:
        console.print("no recurring evaluation is defined: write one under recurring in an evaluation file")
        return
    print_table(
        ("name", "when", "status", "next (UTC)", "newest (UTC)", "outcome", "batch"),
        [
            (
                record.name,
                _when(record),
                "paused" if record.paused_at else "active",
                None if record.next_at is None else f"{record.next_at:%Y-%m-%d %H:%M}",
                None if record.newest_due_at is None else f"{record.newest_due_at:%Y-%m-%d %H:%M}",
                record.newest_outcome and record.newest_outcome.value,
                None if record.newest_batch_id is None else partition_key(record.newest_batch_id),
            )
            for record in records
        ],
    )


def _when(record: RecurringRecord) -> str:
    definition = record.definition
    if definition.on_arrival:
        return f"on arrival, quiet for {definition.quiet_for:,} s"
    return f"{definition.schedule} {definition.timezone}"


def _as_json(record: RecurringRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "definition": record.definition.model_dump(exclude={"name"}),
        "paused_at": record.paused_at,
        "next_at": record.next_at,
        "newest": None
        if record.newest_due_at is None
        else {
            "due_at": record.newest_due_at,
            "outcome": record.newest_outcome,
            "reason": record.newest_reason,
            "batch": record.newest_batch_id,
        },
    }


@recurring.command()
@click.argument("name")
@as_json_option
def run(name: str, as_json: bool) -> None:
    """Make the batch of NAME now, besides its schedule; the daemon stages it."""
    made = _run("run_recurring", "make_batch", name)
    if as_json:
        print_json(made)
        return
    if "partition" in made:
        console.print(
            f"[bold]{made['partition']}[/] is made; it is staged within seconds while doceval up runs"
        )
    else:
        console.print(f"no batch: {printable(made['reason'])}", markup=False)


@recurring.command()
@click.argument("name")
def pause(name: str) -> None:
    """Make no batch of NAME until it is resumed."""
    changed = _run("pause_recurring", "pause_occurrences", name)
    _say(name, "is paused" if changed else "was paused already")


@recurring.command()
@click.argument("name")
def resume(name: str) -> None:
    """Go on with the next time of NAME; times that have passed are not made up."""
    changed = _run("resume_recurring", "resume_occurrences", name)
    _say(name, "goes on" if changed else "is not paused")


@recurring.command()
@click.argument("name")
def delete(name: str) -> None:
    """Forget NAME and its times; the batches that it made stay."""
    _run("delete_recurring", "delete_definition", name)
    _say(name, "is deleted; its batches stay")


@recurring.command()
@click.argument("name")
@click.option("--open", "opens", is_flag=True, help="Also open the page in a browser.")
@as_json_option
def report(name: str, opens: bool, as_json: bool) -> None:
    """Write the page of the series of NAME as it is now, and print where it is.

    It shows scores, failures, cost and time by occurrence, marks drift, and lists documents whose score
    changed with their content.
    """
    from doceval_pipeline.batches.series import gather_series
    from doceval_pipeline.cli.reports import open_report
    from doceval_pipeline.cli.runs import open_job
    from doceval_pipeline.reports.series import series_data

    opened = databases()
    with opened.doc_eval.connect() as connection:
        record = find_recurring(connection, name)
    with open_job("refresh_series", [], quiet=True, ops={"series": {"config": {"name": record.name}}}) as act:
        (event,) = act().get_asset_materialization_events()
    path = Path(str(event.materialization.metadata["report"].value))
    if as_json:
        print_json({**series_data(gather_series(opened, record)), "path": str(path)})
    else:
        console.print(str(path), markup=False)
    if opens:
        open_report(path, quiet=as_json)


COMMANDS = (recurring,)


def _say(name: str, what: str) -> None:
    console.print(f"{printable(name)} {what}", markup=False)


def _run(job: str, op: str, name: str) -> Any:
    """The result of a job for a recurring evaluation, which is looked for before a run is made of it."""
    from doceval_pipeline.cli.runs import open_job

    with databases().doc_eval.connect() as connection:
        find_recurring(connection, name)
    with open_job(job, [], quiet=True, ops={op: {"config": {"name": name}}}) as act:
        return act().output_for_node(op)
