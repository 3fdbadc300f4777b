"""`doceval plan`: what staging or reprocessing would do and take, before anything is written."""

import click

from doceval_pipeline.batches.estimates import Estimate
from doceval_pipeline.batches.planning import Plan, plan
from doceval_pipeline.batches.reprocessing import Mode
from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.batches import as_json_option, databases, reprocess_options
from doceval_pipeline.cli.output import console, print_json, warn
from doceval_pipeline.doc_eval.batches import find_batch
from doceval_pipeline.estimation import Interval
from doceval_pipeline.names import printable
from doceval_pipeline.reports.numbers import amount, counted, rough_duration, size_text


@click.command("plan")
@click.argument("batch")
@reprocess_options
@as_json_option
def plan_command(batch: str, mode: str | None, rescan: bool, as_json: bool) -> None:
    """Show what staging BATCH, or reprocessing it with the same options, would do. Writes nothing."""
    opened = databases()
    record = find_batch(opened.doc_eval, batch)
    with bars(visible=not as_json) as draw:
        found = plan(opened, record.id, Mode(mode or "missing"), rescan, draw("reading documents"))
    if as_json:
        print_json(found.as_json())
    else:
        _print_plan(found)


COMMANDS = (plan_command,)


def _print_plan(found: Plan) -> None:
    documents, cells = found.documents, found.cells
    console.print(f"{found.batch.key} {printable(found.batch.name)}, now {found.batch.status}", markup=False)
    console.print(
        f"  documents  {documents.added:,} to store ({size_text(documents.added_bytes)}), "
        f"{documents.reused:,} stored already ({size_text(documents.reused_bytes)}), "
        f"{documents.leaving:,} leave the batch"
    )
    if documents.unusable:
        reasons = ", ".join(f"{files:,} {reason}" for reason, files in documents.unusable.items())
        console.print(f"  left out   {reasons}")
    console.print(f"  new cells  {_by_reason(cells.added)}")
    if cells.from_earlier:
        asked = cells.from_earlier + sum(cells.added.values())
        batches = counted(cells.earlier_batches, "batch", "batches")
        console.print(f"  reused     {cells.from_earlier:,} of {asked:,} reused from {batches}")
    console.print(f"  again      {_by_reason(cells.superseded)}")
    console.print(
        f"  untouched  {cells.reused:,} keep their result, {cells.left_alone:,} wait or run; "
        f"{cells.set_aside:,} are set aside"
    )
    for estimate in found.estimates:
        _print_estimate(estimate)
    for note in found.notes:
        warn(note)


def _by_reason(cells: dict[str, int]) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in cells.items() if number)
    return f"{sum(cells.values()):,}" + (f" ({reasons})" if reasons else "")


def _print_estimate(estimate: Estimate) -> None:
    console.print(
        f"  {printable(estimate.connection)}: {estimate.cells:,} cells to come, learnt from "
        f"{estimate.experience:,} that were finished",
        markup=False,
    )
    if estimate.cells:
        processing = "unknown" if estimate.seconds is None else _time(estimate.seconds)
        console.print(
            f"    tokens      {_tokens(estimate.input_tokens)} in; {_tokens(estimate.output_tokens)} out\n"
            f"    processing  {processing}, added up over cells\n"
            f"    cost        {_cost(estimate)}"
        )


def _tokens(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{amount(interval.low)} to {amount(interval.high)}"


def _time(interval: Interval) -> str:
    return f"{rough_duration(interval.low)} to {rough_duration(interval.high)}"


def _cost(estimate: Estimate) -> str:
    if estimate.currency is None:
        return "no prices"
    if estimate.cost is None:
        return "unknown"
    return f"{estimate.cost.low:,.2f} to {estimate.cost.high:,.2f} {estimate.currency}"
