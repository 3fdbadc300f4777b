"""`doceval export`: writes the results of a batch to a file for other programs."""

import os
from pathlib import Path
from typing import Any

import click

from doceval_pipeline.atomic_file import STANDARD_OUTPUT
from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console_beside, errors, output_path, print_json
from doceval_pipeline.errors import ExportError
from doceval_pipeline.names import printable
from doceval_pipeline.reports.exports.value_types import VERSION
from doceval_pipeline.reports.exports.writing import Format
from doceval_pipeline.reports.formatting import size_text

HTML = "html"
FORMATS = (*(format.value for format in Format), HTML)


@command(
    epilog=examples(
        "doceval export 1 --output results.xlsx", "doceval export 1 --format csv --output - | less"
    )
)
@click.argument("batch")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: the extension of FILE.")
@click.option(
    "--output",
    required=True,
    metavar="FILE",
    type=output_path,
    help="Replaced if it exists; - is standard output (jsonl, csv and html only).",
)
@click.option(
    "--attempts",
    type=click.Choice(["current", "all"]),
    default="current",
    show_default=True,
    help="Current results only, or every attempt.",
)
@as_json_option
def export(*, batch: str, format_: str | None, output: Path, attempts: str, as_json: bool) -> None:
    """Write the results of a batch to a file.

    Writes the current results of BATCH to FILE; `doceval docs exports` describes the columns. html is
    the completion report, xlsx is for Excel. The file is written completely or not at all.
    """
    from doceval_pipeline.batches.results.exporting import export_page, export_records
    from doceval_pipeline.doc_eval.batches import find_batch

    console = console_beside(output, as_json=as_json)
    opened = databases()
    record = find_batch(opened.doc_eval, batch)
    format = _format(format_, output, attempts)
    path = str(output) if output == STANDARD_OUTPUT else os.path.realpath(output)
    facts: dict[str, Any] = {"batch": record.id, "format": format, "path": path}
    if format == HTML:
        facts["size"] = export_page(opened, record.id, output)
        content = "report"
    else:
        with bars(visible=not as_json) as draw:
            done = export_records(
                opened,
                record.id,
                Format(format),
                output,
                draw("exporting"),
                every_attempt=attempts == "all",
            )
        facts |= {
            "version": VERSION,
            "attempts": attempts,
            "read_at": done.read_at,
            "records": done.records,
            "cut_texts": done.cut,
            "size": done.size,
        }
        content = f"{done.records:,} records"
        if done.cut and not as_json:
            errors.print(f"{done.cut:,} texts were cut to the limit of a workbook cell", style="yellow")
    if as_json:
        print_json(facts)
    else:
        size = "" if facts["size"] is None else f" in {size_text(facts['size'])}"
        console.print(f"[bold]{record.key}[/] {content}{size}")
        if output != STANDARD_OUTPUT:
            console.print(printable(path), markup=False)
        if format == Format.CSV:
            console.print(
                "for Excel, use --format xlsx: Excel misreads the characters of a CSV file in UTF-8"
            )


def _format(given: str | None, output: Path, attempts: str) -> str:
    """The given format, or the one of the file name's extension.

    Raises
    ------
    ExportError
    """
    format = given or output.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        reason = (
            "standard output has no file name"
            if output == STANDARD_OUTPUT
            else f"the extension of {output} is not a format"
        )
        possible = [f for f in FORMATS if output != STANDARD_OUTPUT or f == HTML or Format(f).is_stream]
        raise ExportError(f"{reason}: add --format {'|'.join(possible)}")
    if output == STANDARD_OUTPUT and format != HTML and not Format(format).is_stream:
        raise ExportError(f"{format} cannot be written to standard output: choose a file")
    if format == HTML and attempts == "all":
        raise ExportError(
            "a report shows only current results: remove --attempts all, or choose another format"
        )
    return format
