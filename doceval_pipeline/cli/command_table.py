"""The table of all commands: section, one-line summary, and the function that is imported when it is called.

`doceval --help`, suggestions and shell completion read this table alone. The first line of each command's own
help is its summary here; a test compares them.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module

import click

from doceval_pipeline.cli.collector import importing


class HelpSection(Enum):
    """A section of `doceval --help`; the value is its heading."""

    EVALUATE = "Evaluate"
    RESULTS = "Results"
    OPERATE = "Operate"
    CONTRIBUTE = "Contribute"


class Patience(Enum):
    """What a command does while a database server does not answer."""

    # It keeps waiting: the write that it has begun may still succeed.
    PATIENT = "patient"
    # It ends after half a minute: it only reads.
    ENDS = "ends"
    # It ends its own processes at Ctrl-C, and waits for the servers itself.
    SUPERVISES = "supervises"


@dataclass(frozen=True)
class CommandEntry:
    """A command of the table.

    Parameters
    ----------
    summary
        At most 50 characters, without a full stop.
    target
        Module below `doceval_pipeline.cli` and name in it, as in `plan:plan_command`.
    """

    name: str
    section: HelpSection
    summary: str
    target: str
    patience: Patience = Patience.PATIENT

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        with importing():
            command: click.Command = getattr(import_module(f"doceval_pipeline.cli.{module}"), attribute)
        return command


# In the order of `doceval --help`.
ENTRIES = (
    CommandEntry(
        "demo",
        HelpSection.EVALUATE,
        "Run a sample evaluation with a simulated processor",
        "demo:demo",
        Patience.SUPERVISES,
    ),
    CommandEntry(
        "apply", HelpSection.EVALUATE, "Create or update what an evaluation file defines", "apply:apply"
    ),
    CommandEntry(
        "plan",
        HelpSection.EVALUATE,
        "Show what staging a batch would do and cost",
        "plan:plan_command",
        Patience.ENDS,
    ),
    CommandEntry(
        "try", HelpSection.EVALUATE, "Evaluate a small random sample of a batch", "trying:try_command"
    ),
    CommandEntry("stage", HelpSection.EVALUATE, "Stage batches, or complete their staging", "batches:stage"),
    CommandEntry(
        "status", HelpSection.EVALUATE, "Show the progress of batches", "status:status", Patience.ENDS
    ),
    CommandEntry(
        "documents", HelpSection.EVALUATE, "List the files of a batch", "documents:documents", Patience.ENDS
    ),
    CommandEntry(
        "list",
        HelpSection.EVALUATE,
        "List batches, filtered by status, name or date",
        "listing:list_command",
        Patience.ENDS,
    ),
    CommandEntry(
        "reprocess", HelpSection.EVALUATE, "Repair batches and queue new attempts", "batches:reprocess"
    ),
    CommandEntry("pause", HelpSection.EVALUATE, "Hold the waiting evaluations of batches", "batches:pause"),
    CommandEntry(
        "resume", HelpSection.EVALUATE, "Release the evaluations of paused batches", "batches:resume"
    ),
    CommandEntry(
        "cancel", HelpSection.EVALUATE, "Close the waiting evaluations of batches", "batches:cancel"
    ),
    CommandEntry("recurring", HelpSection.EVALUATE, "Manage recurring evaluations", "recurring:recurring"),
    CommandEntry("report", HelpSection.RESULTS, "Write the completion report of batches", "reports:report"),
    CommandEntry(
        "open",
        HelpSection.RESULTS,
        "Open the newest report of a batch",
        "reports:open_command",
        Patience.ENDS,
    ),
    CommandEntry(
        "failures",
        HelpSection.RESULTS,
        "Show why evaluations failed, and how to retry",
        "failures:failures",
        Patience.ENDS,
    ),
    CommandEntry(
        "leaderboard",
        HelpSection.RESULTS,
        "Rank models by prompt",
        "leaderboard:leaderboard",
        Patience.ENDS,
    ),
    CommandEntry(
        "compare",
        HelpSection.RESULTS,
        "Compare two batches, connections or prompts",
        "compare:compare",
        Patience.ENDS,
    ),
    CommandEntry(
        "export",
        HelpSection.RESULTS,
        "Write the results of a batch to a file",
        "export:export",
        Patience.ENDS,
    ),
    CommandEntry(
        "up",
        HelpSection.OPERATE,
        "Run the database server and Dagster until Ctrl-C",
        "server:up",
        Patience.SUPERVISES,
    ),
    CommandEntry(
        "down", HelpSection.OPERATE, "Stop what up or demo started", "server:down", Patience.SUPERVISES
    ),
    CommandEntry("init", HelpSection.OPERATE, "Create or upgrade the databases", "server:init"),
    CommandEntry(
        "env",
        HelpSection.OPERATE,
        "Print the variables for plain Dagster commands",
        "server:env",
        Patience.ENDS,
    ),
    CommandEntry(
        "check", HelpSection.OPERATE, "Check both databases for consistency", "check:check", Patience.ENDS
    ),
    CommandEntry(
        "archive", HelpSection.OPERATE, "Move closed batches into archive files", "archives:archive"
    ),
    CommandEntry("restore", HelpSection.OPERATE, "Restore a batch from its archive file", "archives:restore"),
    CommandEntry(
        "docs",
        HelpSection.OPERATE,
        "List pages of documentation, or show one",
        "docs:docs",
        Patience.ENDS,
    ),
    CommandEntry(
        "conformance",
        HelpSection.CONTRIBUTE,
        "Test whether a processor keeps its contract",
        "conformance:conformance",
        Patience.SUPERVISES,
    ),
    CommandEntry(
        "simulate-processor",
        HelpSection.CONTRIBUTE,
        "Answer queued rows with made-up results",
        "processor:simulate_processor",
    ),
)
PATIENCE = {entry.name: entry.patience for entry in ENTRIES}


class LazyCommands(MutableMapping[str, click.Command]):
    """The commands of the table by name; each is imported when it is first asked for."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in ENTRIES}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            self._loaded[name] = self._entries[name].load()
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        raise TypeError(f"add {name} to ENTRIES")

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"remove {name} from ENTRIES")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
