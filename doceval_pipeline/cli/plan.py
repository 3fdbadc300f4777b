"""`doceval plan`: what staging or reprocessing would do and cost. Writes nothing."""

from typing import TYPE_CHECKING

import click

from doceval_pipeline.batches.staging.rough_estimates import Range, RoughBasis
from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option, reprocess_options
from doceval_pipeline.cli.output import console, print_json, warn
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.domain.findings import Interval
from doceval_pipeline.domain.recurring import OccurrenceOutcome
from doceval_pipeline.errors import UnknownBatch, UnknownRecurring
from doceval_pipeline.names import printable
from doceval_pipeline.recurrence import in_zone
from doceval_pipeline.reports.formatting import (
    amount,
    counted,
    money,
    rough_amount,
    rough_duration,
    rough_money,
    size_text,
)

if TYPE_CHECKING:
    from doceval_pipeline.batches.databases import Databases
    from doceval_pipeline.batches.staging.estimates import WorkEstimate
    from doceval_pipeline.batches.staging.planning import Plan, PlannedOccurrence


@command("plan", epilog=examples("doceval plan 1", "doceval plan 1 --failed"))
@click.argument("batch")
@reprocess_options
@as_json_option
def plan_command(*, batch: str, mode: str | None, rescan: bool, as_json: bool) -> None:
    """Show what staging a batch would do and cost.

    Writes nothing. With --failed, --all or --rescan, shows what doceval reprocess would do with these
    options. BATCH is a number or a name, or the name of a recurring evaluation: then the plan is what its
    next occurrence would do now.
    """
    from doceval_pipeline.batches.staging.planning import Plan, plan, plan_occurrence
    from doceval_pipeline.batches.staging.reprocessing import Mode
    from doceval_pipeline.doc_eval.batches import find_batch

    opened = databases()
    planned: Plan | PlannedOccurrence
    with bars(visible=not as_json) as new_bar:
        reading = new_bar("reading documents")
        try:
            number = find_batch(opened.doc_eval, batch).id
        except UnknownBatch as unknown:
            record = _recurring(opened, batch, unknown)
            if mode is not None or rescan:
                raise click.UsageError(
                    f"{batch!r} is a recurring evaluation: leave out --failed, --all and --rescan"
                ) from None
            planned = plan_occurrence(opened, record, reading)
        else:
            planned = plan(opened, number, Mode(mode or "missing"), reading, rescan=rescan)
    if as_json:
        print_json(planned.as_json())
    elif isinstance(planned, Plan):
        _print_plan(planned)
    else:
        _print_occurrence(planned)


def _recurring(opened: "Databases", name: str, unknown: UnknownBatch) -> RecurringRecord:
    """The recurring evaluation of a name that no batch has.

    Raises
    ------
    UnknownBatch
        No recurring evaluation has it either.
    """
    from doceval_pipeline.doc_eval.recurring.stored import find_recurring

    with opened.doc_eval.connect() as connection:
        try:
            return find_recurring(connection, name)
        except UnknownRecurring:
            raise unknown from None


def _print_plan(batch_plan: "Plan") -> None:
    console.print(
        f"{batch_plan.batch.key} {printable(batch_plan.batch.name)}, now {batch_plan.batch.status}",
        markup=False,
    )
    _print_work(batch_plan)
    for note in batch_plan.notes:
        warn(note)


def _print_occurrence(occurrence: "PlannedOccurrence") -> None:
    due = "" if occurrence.due_at is None else f", due {in_zone(occurrence.due_at, occurrence.timezone)}"
    console.print(f"{printable(occurrence.name)}: the next occurrence{due}", markup=False)
    if occurrence.outcome is not OccurrenceOutcome.FAILED:
        console.print(f"  files      {occurrence.files.sentence}")
    if occurrence.reason is None:
        _print_work(occurrence)
    else:
        console.print(f"  no batch   {printable(occurrence.reason)}", markup=False)


def _print_work(planned: "Plan | PlannedOccurrence") -> None:
    documents, cells = planned.documents, planned.cells
    console.print(
        f"  documents  {documents.added:,} to store ({size_text(documents.added_bytes)}), "
        f"{documents.reused:,} already stored ({size_text(documents.reused_bytes)}), "
        f"{documents.leaving:,} leave the batch"
    )
    if documents.unusable:
        reasons = ", ".join(f"{files:,} {reason}" for reason, files in documents.unusable.items())
        console.print(f"  left out   {reasons}")
    console.print(f"  new        {_by_reason(cells.added)}")
    if cells.from_earlier:
        total = cells.from_earlier + sum(cells.added.values())
        batches = counted(cells.earlier_batches, "batch", "batches")
        console.print(f"  reused     {cells.from_earlier:,} of {total:,} evaluations reused from {batches}")
    console.print(f"  again      {_by_reason(cells.superseded)}")
    console.print(
        f"  untouched  {cells.kept:,} keep their result, {cells.left_alone:,} wait or run, "
        f"{cells.set_aside:,} are set aside"
    )
    for estimate in planned.estimates:
        print_estimate(estimate)
    vague = max((each.rough.vague for each in planned.estimates if each.rough is not None), default=0)
    if vague:
        documents_are = counted(vague, "document is", "documents are")
        console.print(
            f"  very rough: {documents_are} not plain text, and its size says little about its tokens; "
            "doceval try measures them"
        )
    if planned.held is not None:
        console.print(printable(f"  held       will be held: {planned.held}"), markup=False)


def _by_reason(cells: dict[str, int]) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in cells.items() if number)
    return f"{sum(cells.values()):,}" + (f" ({reasons})" if reasons else "")


def print_estimate(estimate: "WorkEstimate") -> None:
    """Print what future evaluations on a connection are expected to use and cost."""
    to_run = counted(estimate.cells, "evaluation", "evaluations")
    console.print(f"  {printable(estimate.connection)}: {to_run} to run, {_basis(estimate)}", markup=False)
    if not estimate.cells:
        return
    rough = estimate.rough
    processing = "unknown" if estimate.seconds is None else _time(estimate.seconds)
    tokens_in = _tokens(estimate.input_tokens, None if rough is None else rough.input_tokens)
    tokens_out = _tokens(estimate.output_tokens, None if rough is None else rough.output_tokens)
    console.print(
        f"    tokens      {tokens_in} in; {tokens_out} out\n"
        f"    processing  {processing}, summed over evaluations\n"
        f"    cost        {_cost(estimate)}"
    )


def _basis(estimate: "WorkEstimate") -> str:
    """What the figures of an estimate are based on, as the end of a sentence."""
    finished = counted(estimate.experience, "finished one", "finished ones")
    if estimate.rough is None:
        return f"estimated from {finished}" if estimate.experience else "none finished yet to estimate from"
    known = {
        RoughBasis.SIZES: "rough figures from the sizes of documents",
        RoughBasis.OTHER_CONNECTIONS: "rough figures from what other connections used",
    }
    tokens = f"too few tokens known of {finished}" if estimate.experience else "none finished yet"
    return f"{tokens}: {known[estimate.rough.basis]}"


def _tokens(interval: Interval | None, rough: Range | None) -> str:
    if interval is not None:
        return f"{amount(interval.low)} to {amount(interval.high)}"
    return "unknown" if rough is None else f"roughly {rough_amount(rough.low)} to {rough_amount(rough.high)}"


def _time(interval: Interval) -> str:
    return f"{rough_duration(interval.low)} to {rough_duration(interval.high)}"


def _cost(estimate: "WorkEstimate") -> str:
    if estimate.currency is None:
        return "no prices"
    if estimate.cost is not None:
        return f"{money(estimate.cost.low)} to {money(estimate.cost.high)} {estimate.currency}"
    rough = estimate.rough_cost
    if rough is None:
        return "unknown"
    return f"roughly {rough_money(rough.low)} to {rough_money(rough.high)} {estimate.currency}"
