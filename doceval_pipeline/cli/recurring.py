"""The commands for recurring evaluations: recurring list, run, pause, resume, delete, report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import examples
from doceval_pipeline.cli.installation import databases, warn_of_waiting
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, fail, print_json, print_table
from doceval_pipeline.cli.suggestions import SuggestingGroup
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.domain.recurring import Occurrence, OccurrenceOutcome, OccurrenceSummary
from doceval_pipeline.names import printable
from doceval_pipeline.recurrence import in_zone
from doceval_pipeline.reports.formatting import counted

# Occurrences that `doceval recurring list NAME` shows, and how many --json has.
MOST_SHOWN, MOST_AS_JSON = 30, 100_000
# Open batches that `delete` lists.
MOST_NAMED = 5
# A running daemon creates a due batch within this time.
TIME_TO_MAKE = timedelta(seconds=60)
WORDS = {
    "ls": "list",
    "show": "list",
    "status": "list",
    "history": "list NAME",
    "start": "run NAME",
    "trigger": "run NAME",
    "now": "run NAME",
    "stop": "pause NAME",
    "disable": "pause NAME",
    "suspend": "pause NAME",
    "enable": "resume NAME",
    "unpause": "resume NAME",
    "continue": "resume NAME",
    "remove": "delete NAME",
    "rm": "delete NAME",
    "forget": "delete NAME",
}


@click.group(
    cls=SuggestingGroup,
    words=WORDS,
    typed="doceval recurring",
    epilog=examples("doceval recurring list", "doceval recurring run 'contracts daily'"),
)
def recurring() -> None:
    """Manage recurring evaluations.

    A recurring evaluation creates a batch on a schedule or when documents arrive. Define it under
    `recurring` in an evaluation file; doceval apply FILE creates and changes it.
    """


@recurring.command("list", epilog=examples("doceval recurring list 'contracts daily'"))
@click.argument("name", required=False)
@as_json_option
def list_command(*, name: str | None, as_json: bool) -> None:
    """List recurring evaluations, or occurrences of one.

    Without NAME, lists all recurring evaluations. Times are in the time zone of the evaluation, and in UTC.
    """
    from doceval_pipeline.doc_eval.recurring.occurrences import list_occurrences, summarize_occurrences
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring, list_recurring

    opened = databases()
    if name is None:
        with opened.doc_eval.connect() as connection:
            records = list_recurring(connection)
        _show_all(records, as_json=as_json)
        if not as_json:
            warn_of_waiting(opened)
        return
    with opened.doc_eval.connect() as connection:
        record = find_recurring(connection, name)
        occurrences = list_occurrences(connection, record.id, MOST_AS_JSON if as_json else MOST_SHOWN)
        count = summarize_occurrences(connection, record.id).occurrences
    if as_json:
        print_json([asdict(occurrence) for occurrence in occurrences])
    else:
        _show_occurrences(record, occurrences, count)


@recurring.command(epilog=examples("doceval recurring run 'contracts daily'"))
@click.argument("name")
@as_json_option
def run(*, name: str, as_json: bool) -> None:
    """Create a batch now, outside the schedule.

    Works while NAME is paused, too. The daemon of doceval up stages the batch. If nothing is new, no batch is
    created and the exit code is 0. Exit code 1 if a folder cannot be read.
    """
    made = _run("run_recurring", "make_batch", name)
    if as_json:
        print_json(made)
    elif made["outcome"] == OccurrenceOutcome.FAILED:
        fail(f"no batch: {made['reason']}")
    else:
        _print_occurrence(name, made)
    if made["outcome"] == OccurrenceOutcome.FAILED:
        raise SystemExit(1)


@recurring.command(epilog=examples("doceval recurring pause 'contracts daily'"))
@click.argument("name")
def pause(name: str) -> None:
    """Pause a recurring evaluation.

    NAME creates no batch until it is resumed; its open batches continue.
    """
    changed = _run("pause_recurring", "pause", name)
    _print(name, "is paused; its open batches continue" if changed else "was already paused")


@recurring.command(epilog=examples("doceval recurring resume 'contracts daily'"))
@click.argument("name")
def resume(name: str) -> None:
    """Resume a recurring evaluation.

    NAME continues with its next occurrence. Occurrences missed while it was paused are not made up.
    """
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring

    changed = _run("resume_recurring", "resume", name)
    with databases().doc_eval.connect() as connection:
        record = find_recurring(connection, name)
    _print(name, f"{'is resumed' if changed else 'was not paused'}; next {_next(record)}")


@recurring.command(epilog=examples("doceval recurring delete 'contracts daily'"))
@click.argument("name")
def delete(name: str) -> None:
    """Delete a recurring evaluation; keep its batches.

    Also deletes the occurrences of NAME. If you define it again, all documents count as new;
    their results are still reused.
    """
    from doceval_pipeline.doc_eval.recurring.occurrences import summarize_occurrences
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring

    with databases().doc_eval.connect() as connection:
        summary = summarize_occurrences(connection, find_recurring(connection, name).id)
    _run("delete_recurring", "delete", name)
    _print(name, f"is deleted; {_remaining_batches(summary)}")


@recurring.command(epilog=examples("doceval recurring report 'contracts daily' --open"))
@click.argument("name")
@click.option("--open", "opens", is_flag=True, help="Also open the page in a browser.")
@as_json_option
def report(*, name: str, opens: bool, as_json: bool) -> None:
    """Write the series page of a recurring evaluation.

    The page of NAME as of now shows scores, failures, cost and time by occurrence, marks drift, and
    lists documents whose score changed with their content.
    """
    from doceval_pipeline.batches.results.series.reporting import write_series
    from doceval_pipeline.cli.reports import open_report
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring

    with importing():
        from doceval_pipeline.cli.runs import open_job
    from doceval_pipeline.reports.series import series_data

    opened = databases()
    with opened.doc_eval.connect() as connection:
        record = find_recurring(connection, name)
    with open_job("refresh_series", [], quiet=True, ops={"series": {"config": {"name": record.name}}}) as act:
        (event,) = act().get_asset_materialization_events()
    path = Path(str(event.materialization.metadata["report"].value))
    if as_json:
        # Written again, so that path and figures match; it is the same file if nothing changed.
        written = write_series(opened, record.name)
        path = written.path
        print_json({**series_data(written.series), "path": str(path)})
    else:
        console.print(str(path), markup=False)
    if opens:
        open_report(path, quiet=as_json)


def _show_all(records: Sequence[RecurringRecord], *, as_json: bool) -> None:
    if as_json:
        print_json([_as_json(record) for record in records])
        return
    if not records:
        console.print("no recurring evaluation is defined: add one under recurring in an evaluation file")
        return
    print_table(
        ("name", "when", "state", "next", "newest", "outcome", "batch", "reason"),
        [_row(record) for record in records],
        optional=("newest", "outcome", "batch", "reason"),
    )


def _row(record: RecurringRecord) -> tuple[str | None, ...]:
    from doceval_pipeline.doc_eval.batches import partition_key

    batch = None
    if record.newest_batch_id is not None:
        batch = f"{partition_key(record.newest_batch_id)} {record.newest_batch_status}"
    return (
        record.name,
        _when(record),
        _state(record),
        _next(record),
        _at(record.newest_due_at, record),
        record.newest_outcome and record.newest_outcome.value,
        batch,
        _reason(record),
    )


def _when(record: RecurringRecord) -> str | None:
    """When it creates batches; None if its definition cannot be used."""
    return None if record.problem else record.when


def _state(record: RecurringRecord) -> str:
    if record.problem:
        return "unusable"
    return "paused" if record.paused_at else "active"


def _reason(record: RecurringRecord) -> str | None:
    """What needs attention: the definition's problem, or the newest occurrence's reason."""
    if record.problem:
        return f"cannot be used: {record.problem}"
    return record.newest_reason or (f"held: {record.held_reason}" if record.held_reason else None)


def _next(record: RecurringRecord) -> str | None:
    """When the next batch is created, in words; None if it is paused or unusable."""
    if record.problem is not None or record.paused_at is not None:
        return None
    if record.recurrence is None:
        return "when documents arrive"
    if record.due_at is not None:
        if record.now - record.due_at < TIME_TO_MAKE:
            return "due now"
        return f"due since {_at(record.due_at, record)}; start doceval up to create it"
    return _at(record.next_at, record) or "never"


def _at(moment: datetime | None, record: RecurringRecord) -> str | None:
    return None if moment is None else in_zone(moment, record.definition.timezone)


def _show_occurrences(record: RecurringRecord, occurrences: Sequence[Occurrence], count: int) -> None:
    from doceval_pipeline.doc_eval.batches import partition_key

    print_table(
        ("time", "outcome", "batch", "new", "changed", "unchanged", "gone", "reason"),
        [
            (
                f"{_at(occurrence.due_at, record)}{', by hand' if record.is_by_hand(occurrence) else ''}",
                occurrence.outcome.value,
                None if occurrence.batch_id is None else partition_key(occurrence.batch_id),
                # Files are not compared if a folder is missing.
                *(
                    4 * [None]
                    if occurrence.outcome is OccurrenceOutcome.FAILED
                    else astuple(occurrence.files)
                ),
                occurrence.reason,
            )
            for occurrence in occurrences
        ],
        title=f"{record.name}: {_about(record)}",
        optional=("reason",),
    )
    if count > len(occurrences):
        console.print(
            f"the newest {len(occurrences):,} of {counted(count, 'occurrence', 'occurrences')}; "
            "--json has more"
        )
    elif not occurrences:
        console.print("no occurrences yet")


def _about(record: RecurringRecord) -> str:
    """When it creates batches, and the next occurrence; or why it cannot be used."""
    if record.problem:
        return f"cannot be used: {record.problem}"
    return f"{record.when}, {'paused' if record.paused_at else f'next {_next(record)}'}"


def _as_json(record: RecurringRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "definition": None if record.problem else record.definition.model_dump(exclude={"name"}),
        "paused_at": record.paused_at,
        "next_at": record.next_at,
        "due_at": record.due_at,
        "problem": record.problem,
        "newest": None
        if record.newest_due_at is None
        else {
            "due_at": record.newest_due_at,
            "outcome": record.newest_outcome,
            "reason": record.newest_reason,
            "batch": record.newest_batch_id,
            "batch_status": record.newest_batch_status,
            "held_reason": record.held_reason,
        },
    }


def _print_occurrence(name: str, made: Mapping[str, Any]) -> None:
    from doceval_pipeline.doc_eval.batches import batch_by_id
    from doceval_pipeline.doc_eval.recurring.occurrences import occurrence_at
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring

    opened, due_at = databases(), datetime.fromisoformat(made["due_at"])
    with opened.doc_eval.connect() as connection:
        occurrence = occurrence_at(connection, find_recurring(connection, name).id, due_at)
        batch_id = made.get("batch")
        batch = None if batch_id is None else batch_by_id(connection, batch_id)
    counts = "" if occurrence is None else f" ({occurrence.files.sentence})"
    if batch is None:
        console.print(printable(f"no batch: {made['reason']}{counts}"), markup=False)
        return
    line = f"{batch.key} {batch.name} is created{counts}; doceval up stages it within seconds"
    console.print(printable(line), markup=False)
    warn_of_waiting(opened)


def _remaining_batches(summary: OccurrenceSummary) -> str:
    from doceval_pipeline.doc_eval.batches import partition_key

    if not summary.batches:
        return "it created no batches"
    stay = f"{counted(summary.batches, 'batch that it created is kept', 'batches that it created are kept')}"
    if not summary.open_batches:
        return stay
    named = ", ".join(partition_key(batch_id) for batch_id in summary.open_batches[:MOST_NAMED])
    more = len(summary.open_batches) - MOST_NAMED
    others = f" and {more:,} more" if more > 0 else ""
    return f"{stay}; still open: {named}{others} (doceval cancel closes one)"


def _print(name: str, what: str) -> None:
    console.print(f"{printable(name)} {what}", markup=False)


def _run(job: str, op: str, name: str) -> Any:
    """Run a job for an existing recurring evaluation, and return its result."""
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring

    with importing():
        from doceval_pipeline.cli.runs import open_job

    with databases().doc_eval.connect() as connection:
        find_recurring(connection, name)
    with open_job(job, [], quiet=True, ops={op: {"config": {"name": name}}}) as act:
        return act().output_for_node(op)
