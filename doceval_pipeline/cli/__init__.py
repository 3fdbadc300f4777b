"""The command line: everything that Dagster's UI does, through the same functions and instance.

Each module holds the commands of one noun. Here is what they share: the entry point, and how an
error becomes one line and an exit code.
"""

import os
import sys

import click

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.cli import (
    archives,
    batches,
    compare,
    conformance,
    demo,
    export,
    plan,
    processor,
    reports,
    server,
    status,
)
from doceval_pipeline.cli.output import errors, prepare_streams
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.names import printable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="doceval-pipeline")
def cli() -> None:
    """Stage batches of documents for evaluation by LLMs, and report what came back."""


for module in (
    server,
    batches,
    status,
    reports,
    plan,
    compare,
    export,
    archives,
    processor,
    conformance,
    demo,
):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run a command; exit code 0 only if what was asked was done."""
    # Whatever is written, by the processes that are started too, is for this user alone.
    os.umask(0o077)
    prepare_streams()
    try:
        with database_errors():
            cli()
    except DocEvalError as error:
        for line in str(error).splitlines():
            errors.print(printable(line), style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted", style="red")
        sys.exit(130)
