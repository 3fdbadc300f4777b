"""`doceval failures`: which evaluations of a batch failed, why, and how to retry them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, print_json
from doceval_pipeline.names import printable
from doceval_pipeline.reports.formatting import counted

if TYPE_CHECKING:
    from doceval_pipeline.batches.results.failures import BatchFailures, NamedGroup

# Shown without --all: groups, and of each group names of documents and characters of the message.
GROUPS, NAMES, CHARACTERS = 10, 5, 300
# Shown with --all, and in JSON.
ALL_GROUPS, ALL_NAMES_OF_A_GROUP = 1_000, 10_000
# Names of models or prompts in a line.
MOST_NAMED = 8


@command(epilog=examples("doceval failures 1", "doceval failures 1 --all | less"))
@click.argument("batch")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Show up to 1,000 groups and 10,000 document names, and longer messages.",
)
@as_json_option
def failures(*, batch: str, every: bool, as_json: bool) -> None:
    """Show why evaluations failed, and how to retry.

    Groups the failed evaluations of BATCH by message, the most frequent first; messages that differ only in
    numbers, ids or names are one group. BATCH is a number or a name.
    """
    from doceval_pipeline.batches.results.failures import read_failures
    from doceval_pipeline.doc_eval.batches import find_batch

    opened = databases()
    record = find_batch(opened.doc_eval, batch)
    whole = every or as_json
    found = read_failures(
        opened,
        record,
        groups=ALL_GROUPS if whole else GROUPS,
        names=ALL_NAMES_OF_A_GROUP if whole else NAMES,
    )
    if as_json:
        print_json(found.as_json())
    else:
        _show(found, every=every)


def _show(found: "BatchFailures", *, every: bool) -> None:
    heading = f"{found.batch.key} {found.batch.name}"
    failed, total = found.failures.cells, found.cells.total
    if not failed:
        undone = f", {found.cells.open:,} are not done yet" if found.cells.open else ""
        _print(f"{heading}: none of {counted(total, 'evaluation', 'evaluations')} failed{undone}")
        return
    _print(
        f"{heading}: {failed:,} of {counted(total, 'evaluation', 'evaluations')} failed"
        f"{_simulated(found.failures.simulated, failed)}, with {'over ' if found.failures.ungrouped else ''}"
        f"{counted(found.failures.kinds, 'kind of message', 'kinds of messages')}"
    )
    for group in found.groups:
        _show_group(group, found.word, every=every)
    _print("")
    if rest := found.failures.kinds - len(found.groups):
        more = "" if every else ": --all shows more"
        _print(f"{counted(rest, 'more kind of message is', 'more kinds of messages are')} not shown{more}")
    if found.failures.ungrouped:
        _print(
            f"{found.failures.ungrouped:,} more failed evaluations have rarer messages, which are not grouped"
        )
    for note in found.notes:
        _print(note)
    _print(f"retry exactly these: {', then '.join(found.retry)}")


def _show_group(named: "NamedGroup", word: str, *, every: bool) -> None:
    group = named.group
    _print("")
    _print(
        f"{counted(group.cells, 'evaluation', 'evaluations')} of "
        f"{counted(group.documents, 'document', 'documents')}{_simulated(group.simulated, group.cells)}; "
        f"{_listed(word, named.connections)}; {_listed('prompt', named.prompts)}"
    )
    _print(f"  {_message(named, len(named.message or '') if every else CHARACTERS)}")
    if group.variants > 1:
        others = counted(group.variants - 1, "other message differs", "other messages differ")
        _print(f"  {others} only in numbers, ids or names")
    if named.hint:
        _print(f"  {named.hint}")
    if named.documents:
        left = group.documents - len(named.documents)
        more = f" and {left:,} more" if left else ""
        _print(f"  documents: {', '.join(named.documents)}{more}")


def _message(named: "NamedGroup", characters: int) -> str:
    """The message in one line, cut to `characters`."""
    if named.message is None:
        return "(no message)"
    left_out = named.group.message_characters - min(characters, len(named.message))
    shown = " ".join(named.message[:characters].split())
    return f"{shown}… ({left_out:,} more characters)" if left_out > 0 else shown


def _listed(word: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    left = len(names) - MOST_NAMED
    return f"{word if len(names) == 1 else f'{word}s'} {shown}{f' and {left:,} more' if left > 0 else ''}"


def _simulated(simulated: int, cells: int) -> str:
    if not simulated:
        return ""
    return " (simulated)" if simulated == cells else f" ({simulated:,} of them simulated)"


def _print(line: str) -> None:
    console.print(printable(line), markup=False)
