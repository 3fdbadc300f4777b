"""The completion report of a batch: `doceval report` writes it, `doceval open` opens it in a browser."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option, several_batches
from doceval_pipeline.cli.output import console
from doceval_pipeline.cli.selection import ActionResult, act_on_each, select
from doceval_pipeline.cli.supervision.home_lock import holder_of
from doceval_pipeline.cli.supervision.loopback import answers
from doceval_pipeline.errors import FileError
from doceval_pipeline.settings import Settings

if TYPE_CHECKING:
    from doceval_pipeline.doc_eval.batches import BatchRecord

SECONDS_TO_ANSWER = 5


@command(epilog=examples("doceval report 1 --open", "doceval report 'contracts-*'"))
@several_batches
@click.option("--open", "opens", is_flag=True, help="Also open the report in a browser; for one BATCH only.")
@as_json_option
def report(*, batches: tuple[str, ...], opens: bool, as_json: bool) -> None:
    """Write the completion report of batches.

    The report shows each BATCH as it is now; its path is printed. BATCH is a number, a name, or a quoted
    pattern such as 'contracts-*'.
    """
    from doceval_pipeline.batches.results.report_files import newest_report
    from doceval_pipeline.doc_eval.batches import find_batch

    with importing():
        from doceval_pipeline.cli.runs import open_job

    selection = select(databases().doc_eval, batches)
    if opens and not selection.is_one:
        raise click.UsageError("--open opens the report of one batch: name one batch, without a pattern")

    def report_one(batch: "BatchRecord") -> ActionResult:
        (materialized,) = run(batch.id).get_asset_materialization_events()
        metadata = materialized.materialization.metadata
        path, verdict = str(metadata["report"].value), metadata["verdict"].value
        line = escape(path) if selection.is_one else f"[bold]{batch.key}[/] {escape(path)}"
        return ActionResult(line, {"batch": batch.id, "path": path, "verdict": verdict})

    with open_job("report_batch", [batch.id for batch in selection.batches], quiet=True) as run:
        act_on_each(selection, report_one, as_json=as_json)
    if opens:
        open_report(newest_report(databases(), find_batch(databases().doc_eval, batches[0])), quiet=as_json)


@command("open", epilog=examples("doceval open 1"))
@click.argument("batch")
def open_command(batch: str) -> None:
    """Open the newest report of a batch.

    Opens it in a browser and prints its address: on the webserver of doceval up if that runs, as a file
    otherwise. BATCH is a number or a name.
    """
    from doceval_pipeline.batches.results.report_files import newest_report
    from doceval_pipeline.doc_eval.batches import find_batch

    opened = databases()
    open_report(newest_report(opened, find_batch(opened.doc_eval, batch)))


def open_report(report: Path, *, quiet: bool = False) -> None:
    """Open a report in a browser, and print its address unless `quiet`.

    Raises
    ------
    FileError
        No browser could be started.
    """
    address = _served_at(report) or report.as_uri()
    if not quiet:
        console.print(address, markup=False)
    if not webbrowser.open(address):
        raise FileError(f"cannot start a browser: open {address} yourself")


def report_url(webserver: str | None, report: Path | None) -> str | None:
    """The address of a report on the webserver; None without a webserver or a report."""
    return None if webserver is None or report is None else f"{webserver}/reports/{report.name}"


def running_webserver() -> str | None:
    """The address of the webserver of `doceval up`; None if it does not run."""
    holder = holder_of(Settings.from_environment().home)
    return None if holder is None else holder.url


def _served_at(report: Path) -> str | None:
    """The address of a report on the webserver; None unless a request for it succeeds."""
    address = report_url(running_webserver(), report)
    return address if address and answers(address, SECONDS_TO_ANSWER) else None
