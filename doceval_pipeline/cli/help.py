"""Commands whose help ends with examples."""

from collections.abc import Callable
from typing import Any

import click


class HelpWithExamples(click.Command):
    """A command whose epilog is a list of examples, one per line."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the section of examples; their lines are not wrapped."""
        lines = (self.epilog or "").splitlines()
        if lines:
            with formatter.section("Example" if len(lines) == 1 else "Examples"):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def command(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator for a command with examples; see `click.command`."""
    return click.command(name, cls=HelpWithExamples, **attributes)


def examples(*lines: str) -> str:
    """The epilog of a command: complete command lines."""
    return "\n".join(lines)
