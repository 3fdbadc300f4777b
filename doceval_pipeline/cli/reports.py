"""Where the report of a batch is, and opening it in a browser."""

import webbrowser
from pathlib import Path

import click

from doceval_pipeline.batches.results.report_files import newest_report
from doceval_pipeline.cli.batches import databases
from doceval_pipeline.cli.home_lock import holder_of
from doceval_pipeline.cli.loopback import answers
from doceval_pipeline.cli.output import console
from doceval_pipeline.doc_eval.batches import find_batch
from doceval_pipeline.errors import FileError
from doceval_pipeline.settings import Settings

SECONDS_TO_ANSWER = 5


@click.command("open")
@click.argument("batch")
def open_command(batch: str) -> None:
    """Open the newest report of BATCH in a browser, and print where it is.

    Through the webserver of `doceval up` where it runs, as a file otherwise.
    """
    opened = databases()
    open_report(newest_report(opened, find_batch(opened.doc_eval, batch)))


COMMANDS = (open_command,)


def open_report(report: Path, quiet: bool = False) -> None:
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
        raise FileError(f"no browser could be started: open {address} yourself")


def report_url(webserver: str | None, report: Path | None) -> str | None:
    """The address under which the webserver serves a report; None without a webserver or a report."""
    return None if webserver is None or report is None else f"{webserver}/reports/{report.name}"


def running_webserver() -> str | None:
    """Where the webserver of `doceval up` is; None where it does not run."""
    holder = holder_of(Settings.from_environment().home)
    return None if holder is None else holder.url


def _served_at(report: Path) -> str | None:
    """The address of a report that the webserver does serve, which it is asked."""
    address = report_url(running_webserver(), report)
    return address if address and answers(address, SECONDS_TO_ANSWER) else None
