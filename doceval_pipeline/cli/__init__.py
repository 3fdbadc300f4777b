"""The command line: everything that Dagster's UI does, through the same functions and instance.

Each module holds the commands of one noun. Here is what they share: the entry point, and how an
error becomes one line and an exit code.
"""

import os
import sys
from typing import Any

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
    recurring,
    reports,
    server,
    status,
)
from doceval_pipeline.cli.output import fail
from doceval_pipeline.cli.streams import BROKEN_PIPE, exit_code, lasting_streams
from doceval_pipeline.cli.suggestions import Commands
from doceval_pipeline.cli.waiting import watching
from doceval_pipeline.errors import in_one_line

# What ends where a database server does not answer for half a minute.
ONLY_READING = frozenset({"check", "compare", "documents", "env", "export", "open", "plan", "status"})
# What has processes of its own to end at Ctrl-C, and itself looks after the servers that it waits for.
SUPERVISING = frozenset({"conformance", "demo", "down", "up"})


class _Commands(Commands):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what click would call aborted is interrupted, and a broken pipe ends quietly."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted")
            raise SystemExit(130) from None
        except BrokenPipeError:
            # The reader of what is exported to standard output has enough.
            raise SystemExit(BROKEN_PIPE) from None


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="doceval-pipeline")
@click.pass_context
def cli(context: click.Context) -> None:
    """Stage batches of documents for evaluation by LLMs, and report what came back."""
    name = context.invoked_subcommand
    if name not in SUPERVISING:
        context.with_resource(watching(only_reads=name in ONLY_READING))


for module in (
    server,
    batches,
    status,
    reports,
    plan,
    compare,
    export,
    archives,
    recurring,
    processor,
    conformance,
    demo,
):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run a command; exit code 0 only if what was asked was done, and its output written."""
    # Whatever is written, by the processes that are started too, is for this user alone.
    os.umask(0o077)
    output = lasting_streams()
    sys.exit(exit_code(output, _run()))


def _run() -> int:
    """Run a command; its exit code."""
    try:
        with database_errors():
            cli()
    except Exception as error:  # noqa: BLE001 # none of them becomes a traceback
        for line in in_one_line(error).splitlines():
            fail(line)
        return 1
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
