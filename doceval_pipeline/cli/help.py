"""Commands whose help ends with examples, and that watch the database servers while they run."""

from collections.abc import Callable
from typing import Any

import click

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.command_table import PATIENCE, Patience


class Command(click.Command):
    """A command whose help ends with examples, lines of its epilog; servers are watched while it runs."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; meanwhile the database servers are watched, unless it supervises them itself.

        Its help and its completion need no server, and do not import what watches them.
        """
        patience = _patience(ctx)
        if patience is not Patience.SUPERVISES and not isinstance(self, click.Group):
            with importing():
                from doceval_pipeline.cli.waiting import watching
            ctx.with_resource(watching(only_reads=patience is Patience.ENDS))
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the section of examples; their lines are not wrapped."""
        lines = (self.epilog or "").splitlines()
        if lines:
            with formatter.section("Example" if len(lines) == 1 else "Examples"):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _patience(ctx: click.Context) -> Patience:
    """The patience of the command of `doceval` that a context belongs to."""
    return PATIENCE.get(ctx.find_root().invoked_subcommand or "", Patience.PATIENT)


def command(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator for a command with examples; see `click.command`."""
    return click.command(name, cls=Command, **attributes)


def examples(*lines: str) -> str:
    """The epilog of a command: complete command lines."""
    return "\n".join(lines)
