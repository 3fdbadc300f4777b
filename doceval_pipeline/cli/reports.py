"""Where the report of a batch is, and opening it in a browser."""

import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import click

from doceval_pipeline.batches.reporting import newest_report
from doceval_pipeline.cli.batches import databases
from doceval_pipeline.cli.output import console
from doceval_pipeline.cli.supervisor import Supervisor
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


def open_report(report: Path) -> None:
    """Open a report in a browser, and print its address.

    Raises
    ------
    FileError
        No browser could be started.
    """
    address = report_url(report) or report.as_uri()
    console.print(address, markup=False)
    if not webbrowser.open(address):
        raise FileError(f"no browser could be started: open {address} yourself")


def report_url(report: Path) -> str | None:
    """The address under which the webserver of `doceval up` serves a report; None where none serves it."""
    webserver = Supervisor(Settings.from_environment()).webserver_url()
    if webserver is None:
        return None
    address = f"{webserver}/reports/{report.name}"
    # A proxy of the environment must not be asked for an address of this machine.
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with ask(urllib.request.Request(address, method="HEAD"), timeout=SECONDS_TO_ANSWER):  # noqa: S310 - loopback
            return address
    except (urllib.error.URLError, OSError):
        return None
