"""The command line: everything that Dagster's UI does, through the same functions and instance.

Each module holds the commands of one subject and is imported when one of them is called (see
`command_table`). This module has the entry point, and turns errors into one line and an exit code. Slow
imports are in functions, so that `doceval --help` answers at once.
"""

import os
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from doceval_pipeline.cli.collector import end_without_collecting
from doceval_pipeline.cli.command_table import ENTRIES, HelpSection, LazyCommands
from doceval_pipeline.cli.streams import BROKEN_PIPE, exit_code, lasting_streams
from doceval_pipeline.cli.suggestions import SuggestingGroup


class _RootGroup(SuggestingGroup):
    """The group of all commands; its help and completion come from the table, without importing commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C ends it with 130, and a broken pipe without a message."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted")
            raise SystemExit(130) from None
        except BrokenPipeError:
            # The reader of an export to standard output has read enough.
            raise SystemExit(BROKEN_PIPE) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of commands, with their summaries in one column."""
        width = max(len(entry.name) for entry in ENTRIES)
        for section in HelpSection:
            with formatter.section(section.value):
                formatter.write_dl(
                    [
                        (entry.name.ljust(width), entry.summary)
                        for entry in ENTRIES
                        if entry.section is section
                    ]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands, and the options of `doceval` itself."""
        names = [
            CompletionItem(entry.name, help=entry.summary)
            for entry in ENTRIES
            if entry.name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=_RootGroup,
    commands=LazyCommands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="doceval-pipeline")
def cli() -> None:
    """Stage batches of documents for evaluation by LLMs, and report the results.

    `doceval COMMAND --help` explains a command and shows an example.
    """


def main() -> None:
    """Run a command; exit code 0 only if it did what was asked and its output was written."""
    # All files, also those of processes that are started, are for this user alone.
    os.umask(0o077)
    end_without_collecting()
    output = lasting_streams()
    sys.exit(exit_code(output, _run()))


def _run() -> int:
    """Run a command; return its exit code."""
    try:
        cli()
    except Exception as error:  # noqa: BLE001 # none of them becomes a traceback
        for line in _describe(error).splitlines():
            _fail(line)
        return 1
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _describe(error: Exception) -> str:
    """An error in one line, or several for an evaluation file; without the rows that a driver quotes."""
    from doceval_pipeline.batches.databases import database_errors
    from doceval_pipeline.errors import in_one_line

    try:
        with database_errors():
            raise error
    except Exception as described:  # noqa: BLE001 # the error itself, or the translated error of a driver
        return in_one_line(described)


def _fail(text: str) -> None:
    from doceval_pipeline.cli.output import fail

    fail(text)
