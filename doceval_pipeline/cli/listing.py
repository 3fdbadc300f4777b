"""`doceval list`: batches by status, name, date, recurring evaluation and failures."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import NO_BATCHES, console, print_json, print_table

if TYPE_CHECKING:
    from doceval_pipeline.batches.monitoring.listing import ListedBatch

LIMIT, HIGHEST_LIMIT = 50, 100_000
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
COLUMNS = ("batch", "name", "status", "created (UTC)", "documents", "evaluations", "failed", "report")


class _State(click.ParamType):  # type: ignore[type-arg] # not generic before click 8.5
    """A word for the state of batches. The words are read when one is given, not for the help."""

    name = "state"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word in its own case."""
        return str(self._words().convert(value, param, ctx))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete words."""
        return self._words().shell_complete(ctx, param, incomplete)

    def _words(self) -> "click.Choice[str]":
        from doceval_pipeline.doc_eval.batch_listing import STATE_WORDS

        return click.Choice(STATE_WORDS, case_sensitive=False)


def _moment(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """The time that an option gives: a date, which is its midnight in UTC, or a time with its zone."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a date such as 2026-03-31 or 2026-03-31T14:00Z") from None
    if _DATE.fullmatch(value):
        return moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone: append Z, or an offset such as +02:00")
    return moment


@command(
    "list",
    epilog=examples(
        "doceval list",
        "doceval list --status completed --failed",
        "doceval list --name 'contracts-*' --since 2026-01-01 --limit 200",
    ),
)
@click.option(
    "--status",
    "states",
    multiple=True,
    type=_State(),
    metavar="STATE",
    help="Only this state, such as completed, or: archived, held, open, closed. May be repeated.",
)
@click.option("--name", metavar="PATTERN", help="Only this name, or a quoted pattern such as 'contracts-*'.")
@click.option(
    "--since",
    metavar="DATE",
    callback=_moment,
    help="Only created at or after DATE; 2026-03-31 is midnight UTC.",
)
@click.option(
    "--until",
    metavar="DATE",
    callback=_moment,
    help="Only created before DATE, such as 2026-03-31T14:00+02:00.",
)
@click.option("--recurring", metavar="NAME", help="Only made by this recurring evaluation.")
@click.option("--failed", is_flag=True, help="Only with failed evaluations; without archived batches.")
@click.option(
    "--limit",
    type=click.IntRange(1, HIGHEST_LIMIT),
    default=LIMIT,
    show_default=True,
    help="How many are shown, the newest ones.",
)
@as_json_option
def list_command(
    *,
    states: tuple[str, ...],
    name: str | None,
    since: datetime | None,
    until: datetime | None,
    recurring: str | None,
    failed: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List batches, filtered by status, name or date.

    Shows the newest first. doceval status shows the progress and the problems of batches; doceval recurring
    list shows what creates batches on a schedule.
    """
    from doceval_pipeline.batches.monitoring.listing import find_listed
    from doceval_pipeline.doc_eval.batch_listing import BatchFilter

    wanted = BatchFilter(states, name, since, until)
    batches, matching = find_listed(databases(), wanted, limit, recurring=recurring, failed=failed)
    if as_json:
        print_json([batch.as_json() for batch in batches])
    elif batches:
        print_table(COLUMNS, map(_row, batches), optional=("report",))
        if matching > len(batches):
            console.print(
                f"the newest {len(batches):,} of {matching:,} batches: --limit shows more", markup=False
            )
    else:
        is_filtered = not wanted.is_empty or recurring is not None or failed
        console.print("no batch matches: doceval list shows all" if is_filtered else NO_BATCHES, markup=False)


def _row(listed: "ListedBatch") -> tuple[str | int | None, ...]:
    batch, files = listed.batch, listed.documents
    return (
        batch.key,
        batch.name,
        f"{batch.state}, held" if batch.held_reason is not None else batch.state,
        f"{batch.created_at.astimezone(UTC):%Y-%m-%d %H:%M}",
        None if listed.is_archived else files.distinct,
        batch.expected_cells,
        None if listed.is_archived else listed.cells.failed,
        None if listed.report is None else "yes",
    )
