"""Output of the command line: consoles, tables, JSON, and text without control characters."""

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from doceval_pipeline.atomic_file import STANDARD_OUTPUT
from doceval_pipeline.errors import FileError
from doceval_pipeline.names import printable
from doceval_pipeline.paths import file_path

WIDTH_WITHOUT_TERMINAL = 160
# Minimum widths of a folding column and of a terminal, in characters.
NARROWEST_COLUMN = 12
NARROWEST_TERMINAL = 20
WIDEST_TERMINAL = 10_000
# A sentence about more batches than this is printed once, with the names of as many.
NAMES_SHOWN = 3
# Numbers, and the beginning of a run's id.
_FIGURES = re.compile(r"\b[0-9a-f]{8}\b|\d[\d.,:]*")


def _environment() -> dict[str, str]:
    """The environment, without impossible values of COLUMNS and LINES; a tiny COLUMNS is raised."""
    environment = dict(os.environ)
    for name in ("COLUMNS", "LINES"):
        value = environment.pop(name, "")
        # Python refuses to parse thousands of digits, even leading zeros.
        if value.isascii() and value.isdigit() and len(value) <= 5 and 0 < int(value) <= WIDEST_TERMINAL:
            environment[name] = str(max(int(value), NARROWEST_TERMINAL) if name == "COLUMNS" else int(value))
    return environment


console = Console(highlight=False, soft_wrap=True, _environ=_environment())
errors = Console(stderr=True, highlight=False, soft_wrap=True, _environ=_environment())

NO_BATCHES = (
    "no batches yet: create one with doceval apply evaluation.yaml, or see upcoming ones with "
    "doceval recurring list"
)
STATUS_STYLES = {
    "COMPLETED": "green",
    "STAGED": "green",
    "ANALYZING": "cyan",
    "STAGING": "cyan",
    "FAILED": "bold red",
    "FAILED_STAGING": "bold red",
    "PAUSED": "yellow",
    "passed": "green",
    "failed": "bold red",
    "absent": "dim",
}

FOLDING_COLUMNS = (
    "name",
    "status",
    "file",
    "content type",
    "invariant",
    "problem",
    "what to do",
    "check",
    "observation",
    "connection",
    "model",
    "in common",
    "prompt",
    "when",
    "next",
    "reason",
)


def warn(text: str) -> None:
    """Print a warning in one line on standard error."""
    errors.print(printable(text), style="yellow", markup=False)


def fail(text: str) -> None:
    """Print an error in one line on standard error."""
    errors.print(printable(text), style="red", markup=False)


def grouped(sentences: Iterable[tuple[str, str]], plural: str = "batches") -> Iterator[str]:
    """A line for each name and sentence about it; one for a sentence about more than three names.

    Sentences that differ only in numbers are grouped too; the line then has the numbers of the first name.
    `plural` is what the names stand for.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, sentence in sentences:
        groups.setdefault(_FIGURES.sub("0", sentence), []).append((name, sentence))
    for group in groups.values():
        if len(group) <= NAMES_SHOWN:
            yield from (f"{name}: {sentence}" for name, sentence in group)
            continue
        names = ", ".join(name for name, _ in group[:NAMES_SHOWN])
        first = group[0][1]
        of_first = "" if all(sentence == first for _, sentence in group) else " the first:"
        more = len(group) - NAMES_SHOWN
        yield f"{len(group):,} {plural} ({names} and {more:,} more):{of_first} {first}"


def output_path(path: str) -> Path:
    """The path of a file to write, or `-` for standard output; `./-` is a file named `-`.

    Raises
    ------
    PathError
        As `file_path`.
    """
    output = file_path(path)
    # pathlib turns ./- into -.
    return output.absolute() if output == STANDARD_OUTPUT and path != "-" else output


def console_beside(output: Path | None, *, as_json: bool) -> Console:
    """The console for messages of a command that writes a file; standard error if that is standard output.

    Raises
    ------
    FileError
        JSON would go to standard output too, or standard output is a terminal, which results could control.
    """
    if output != STANDARD_OUTPUT:
        return console
    if as_json:
        raise FileError("- and --json both write to standard output: name a file, or omit --json")
    if sys.stdout.isatty():
        raise FileError(
            "standard output is a terminal, which control characters in results could manipulate: name a "
            "file, or append | less"
        )
    return errors


def in_words(counts: Mapping[str, int]) -> str:
    """Counts by name in one line, for example `3 rows added, 57 new attempts`.

    Names are keys of JSON, some of which call evaluations cells.
    """
    words = {name: name.replace("_", " ").replace("cells", "evaluations") for name in counts}
    return ", ".join(f"{count:,} {words[name]}" for name, count in counts.items())


def print_json(value: Any) -> None:
    """Print data as JSON, for other programs."""
    print(json.dumps(value, indent=2, ensure_ascii=True, default=str))


def print_json_list(items: Iterable[Any]) -> None:
    """Print a list as `print_json` does, one element at a time."""
    separator = "["
    for item in items:
        text = json.dumps(item, indent=2, ensure_ascii=True, default=str)
        print(f"{separator}\n{textwrap.indent(text, '  ')}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    title: str | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Print a table: numbers right-aligned, states coloured, None as a dash.

    `optional` columns are omitted if they are empty in every row. In a terminal that is too narrow for the
    table, each row becomes a paragraph with one line per column. Nothing is cut.
    """
    cells = [list(row) for row in rows]
    shown = [
        position
        for position, column in enumerate(columns)
        if column not in optional or any(row[position] for row in cells)
    ]
    needed = sum(_width(columns[at], [row[at] for row in cells]) for at in shown) + 2 * (len(shown) - 1)
    # As Text, because a name may look like markup.
    heading = None if title is None else Text(printable(title))
    if console.is_terminal and needed > console.width:
        _print_paragraphs(
            heading, [columns[at] for at in shown], [[row[at] for at in shown] for row in cells]
        )
        return
    table = Table(title=heading, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for position in shown:
        column = columns[position]
        numeric = any(isinstance(row[position], int | float) for row in cells)
        # Names may be long and fold; numbers and single words are not broken.
        folds = column in FOLDING_COLUMNS
        table.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=not folds,
            min_width=NARROWEST_COLUMN if folds else None,
        )
    for row in cells:
        table.add_row(*(_cell(row[position]) for position in shown))
    if not console.is_terminal:
        # A file or another program has no width limit.
        console.width = max(console.width, needed, WIDTH_WITHOUT_TERMINAL)
    console.print(table)


def _width(column: str, values: Sequence[Any]) -> int:
    """Minimum width of a column, in characters of a terminal."""
    widest = max((_cell(value).cell_len for value in values), default=0)
    return max(cell_len(column), NARROWEST_COLUMN if column in FOLDING_COLUMNS else widest)


def _print_paragraphs(heading: Text | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if heading is not None:
        console.print(heading)
    for row in rows:
        for position, (column, value) in enumerate(zip(columns, row, strict=True)):
            if value is not None:
                # The first column is the heading of the paragraph.
                label = Text(f"  {column}: ") if position else Text(f"{column}: " if column else "", "bold")
                console.print(label + _cell(value))


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    shown = f"{value:,}" if isinstance(value, int) else printable(str(value))
    return Text(shown, style=STATUS_STYLES.get(shown, ""))
