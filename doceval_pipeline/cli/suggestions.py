"""Suggests commands for a word that is not a command."""

from collections.abc import Mapping
from typing import Any

import click
from click.exceptions import NoSuchCommand

from doceval_pipeline.cli.help import Command

# Similarity of a word with one or two mistyped letters. A lower limit would match `retry` with `restore`.
MIN_SIMILARITY = 0.75
# Words of other tools, and the command that does the same here.
WORDS = {
    "again": "reprocess BATCH --failed",
    "rerun": "reprocess BATCH --failed",
    "repeat": "reprocess BATCH --failed",
    "retry": "reprocess BATCH --failed",
    "rescan": "reprocess --rescan",
    "repair": "stage",
    "enqueue": "stage",
    "run": "stage",
    "submit": "stage",
    "serve": "up",
    "start": "up",
    "kill": "down",
    "quit": "down",
    "shutdown": "down",
    "stop": "down",
    "abort": "cancel",
    "hold": "pause",
    "suspend": "pause",
    "continue": "resume",
    "release": "resume",
    "unpause": "resume",
    "schedule": "recurring list",
    "schedules": "recurring list",
    "cron": "recurring list",
    "info": "status",
    "batches": "list",
    "find": "list",
    "ls": "list",
    "search": "list",
    "ps": "status",
    "errors": "failures BATCH",
    "failed": "failures BATCH",
    "why": "failures BATCH",
    "show": "status",
    "watch": "status --watch",
    "create": "apply",
    "import": "apply",
    "load": "apply",
    "new": "apply",
    "update": "apply",
    "files": "documents",
    "delete": "archive",
    "remove": "archive",
    "rm": "archive",
    "unarchive": "restore",
    "audit": "check",
    "verify": "check",
    "diff": "compare",
    "dry-run": "plan",
    "estimate": "plan",
    "download": "export",
    "results": "export",
    "view": "open",
    "migrate": "init",
    "setup": "init",
    "upgrade": "init",
    "worker": "simulate-processor",
}


class SuggestingGroup(Command, click.Group):
    """A group that answers an unknown command with the commands that may have been meant.

    Parameters
    ----------
    words
        Words of other tools, and the command that does the same here.
    typed
        How the group itself is typed.
    """

    command_class = Command

    def __init__(
        self, *args: Any, words: Mapping[str, str] = WORDS, typed: str = "doceval", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.words = words
        self.typed = typed

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command.

        Raises
        ------
        UsageError
            It does not exist; suggests others.
        """
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            suggestion = self._suggestion(error.command_name)
            raise click.UsageError(f"No such command {error.command_name!r}{suggestion}", ctx) from None

    def _suggestion(self, word: str) -> str:
        from difflib import get_close_matches

        spelling = word.casefold().replace("_", "-")
        if spelling in self.words:
            meant = [self.words[spelling]]
        else:
            meant = get_close_matches(spelling, [*self.commands, *self.words], 3, MIN_SIMILARITY)
            meant = list(dict.fromkeys(self.words.get(name, name) for name in meant))
        if not meant:
            return f": {self.typed} --help lists all commands."
        return f". Did you mean {' or '.join(f'{self.typed} {name}' for name in meant)}?"
