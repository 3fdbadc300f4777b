"""Makes inputs of reports by hand, small ones and hostile ones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from doceval_pipeline.domain.insights import NOTHING
from doceval_pipeline.reports.html import GROUPS_SHOWN
from doceval_pipeline.reports.model import ReportColumn, ReportInput
from doceval_pipeline_tests.reports import plain, plain_insights
from doceval_pipeline_tests.reports.plain import File, Row

STARTED = plain.QUEUED
# Each would run, load, link or reorder something if it were taken for more than text.
HOSTILE = (
    "<script>window.ran = 1; document.title = 'ran'</script>",
    '"><img src="http://evil.invalid/a.png" onerror="window.ran = 1">',
    "' onmouseover='window.ran = 1' x='",
    "</style></title></pre></details><iframe src='http://evil.invalid/'></iframe>",
    "<svg onload=window.ran=1><a xlink:href='javascript:window.ran=1'>x</a></svg>",
    "![x](http://evil.invalid/b.png) [y](javascript:window.ran=1) <http://evil.invalid>",
    "www.evil.invalid https://evil.invalid/c mailto:a@evil.invalid `code` | cell | **bold**",
    "{{ 7 * 7 }} {% raw %} {# gone #} &lt;b&gt; &#60;",
    "invoice\u202efdp.exe \u2066x\u2069 zero\u200bwidth \ufeff",
    "nul\x00 \x1b[31mred\x1b[0m \x07 \x9b31m \x7f lone \udc80",
    "line one\nline two\ttabbed\rreturned",
    "-->]]><!-- <meta http-equiv=refresh content='0;url=http://evil.invalid/'><base href='http://evil.invalid/'>",
)


def document(number: int = 1, **changes: Any) -> File:
    """A staged file of 2,000 bytes."""
    values: dict[str, Any] = {
        "name": f"file-{number}.pdf",
        "folder": "/data/contracts",
        "state": "STAGED",
        "reason": None,
        "size": 2_000,
        "document_id": number,
    }
    return File(**(values | changes))


def skipped(name: str, reason: str | None = "hidden", state: str = "SKIPPED") -> File:
    """A file that is not evaluated."""
    return document(name=name, state=state, reason=reason, document_id=None)


def column(connection: int = 1, prompt: int = 1) -> ReportColumn:
    """A column with names after its numbers."""
    return ReportColumn(connection, f"model-{connection}", prompt, f"prompt-{prompt}")


def cell(document_id: int = 1, connection: int = 1, prompt: int = 1, **changes: Any) -> Row:
    """A succeeded cell with a score of 80, 100 tokens in, 10 out, and one second."""
    values: dict[str, Any] = {
        "document_id": document_id,
        "connection_id": connection,
        "prompt_id": prompt,
        "attempt": 1,
        "outcome": "succeeded",
        "status": "S",
        "score": 80.0,
        "error": None,
        "response_text": "Clear and complete.",
        "input_tokens": 100,
        "output_tokens": 10,
        "seconds": 1.0,
        "simulated": False,
    }
    return Row(**(values | changes))


def failed(document_id: int = 1, error: str | None = "overloaded", **changes: Any) -> Row:
    """A failed cell, which reports nothing but its message."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("score", "response_text", "input_tokens", "output_tokens", "seconds")
    )
    return cell(document_id, **(nothing | {"outcome": "failed", "status": "F", "error": error} | changes))


def report_input(
    files: Sequence[File] = (), columns: Sequence[ReportColumn] = (), rows: Sequence[Row] = (), **changes: Any
) -> ReportInput:
    """A batch that expects a cell for each of its contents in each column.

    Its `insights` are empty; `with_insights` makes them of the same files and cells.
    """
    now = plain.current(rows)
    failures = plain.failures(files, now, plain.sizes_of(files))
    contents = len({f.document_id for f in files if f.state == "STAGED" and f.document_id is not None})
    column_sums = plain.column_sums(now)
    all_columns = column_sums.keys() | {(c.connection_id, c.prompt_id) for c in columns}
    shown, rows_total = plain.matrix_rows(files, now, len(all_columns))
    values: dict[str, Any] = {
        "version": 4,
        "partition_key": "batch-000070",
        "batch_id": 70,
        "name": "contracts-q4",
        "status": "COMPLETED",
        "description": None,
        "created_at": STARTED,
        "started_at": STARTED,
        "completed_at": STARTED + timedelta(minutes=12, seconds=30),
        "expected_cells": contents * len(columns),
        "files": dict(Counter(file.state for file in files)),
        "contents": contents,
        "folders": sorted({file.folder for file in files}),
        "not_evaluated": plain.not_evaluated(files),
        "columns": columns,
        "total": plain.sums(now),
        "column_sums": column_sums,
        "failure_messages": len(failures),
        "failures": failures[:GROUPS_SHOWN],
        "changes": plain.shown_changes(files, rows),
        "rows_total": rows_total,
        "rows": shown,
        "cells": plain.cells(shown, now),
        "config": {"prompts": [{"id": 1, "name": "prompt-1", "text": "Score the clarity."}]},
        "config_sha256": "c0ffee" * 10 + "0000",
        "digest": "0123456789abcdef",
        "versions": {"doceval_pipeline": "0.1.0"},
        "insights": NOTHING,
    }
    return ReportInput(**(values | changes))


def with_insights(
    files: Sequence[File] = (), columns: Sequence[ReportColumn] = (), rows: Sequence[Row] = (), **changes: Any
) -> ReportInput:
    """A batch with all that its cells say; `changes` are of its insights, such as `previous`."""
    found = plain_insights.insights(files, columns, rows)
    return report_input(files, columns, rows, insights=replace(found, **changes))


def hostile_input() -> ReportInput:
    """Every text that others write is hostile, everywhere that a text can stand."""
    count = len(HOSTILE)
    documents = [document(n, name=text, folder=text) for n, text in enumerate(HOSTILE)]
    documents += [document(0, name="twin " + HOSTILE[0])]
    documents += [skipped(text, reason=text) for text in HOSTILE]
    columns = [ReportColumn(n, text, n, text) for n, text in enumerate(HOSTILE)]
    cells = [cell(n, 0, 0, response_text=text, status=text) for n, text in enumerate(HOSTILE)]
    cells += [failed(n, text, connection=1, prompt=1, status=text) for n, text in enumerate(HOSTILE)]
    cells += [cell(n, 2, 2, outcome=text, status=text, error=text) for n, text in enumerate(HOSTILE)]
    return report_input(
        documents,
        columns,
        cells,
        name=" ".join(HOSTILE),
        description="\n".join(HOSTILE),
        status=HOSTILE[0],
        partition_key="batch-000070" + HOSTILE[1],
        expected_cells=count * count,
        config={"prompts": [{"name": t, "text": t} for t in HOSTILE], "batch": {t: t for t in HOSTILE}},
        config_sha256=HOSTILE[0],
        digest=HOSTILE[1],
        versions={HOSTILE[0]: HOSTILE[1]},
    )
