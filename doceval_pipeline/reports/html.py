"""Renders the completion report as one self-contained HTML page that loads nothing.

Its content security policy allows only our own style sheet and script, by digest. The script filters and
sorts; without it the page is complete. Every text the template prints is made safe twice: `_inert` makes
invisible and reordering characters visible, then the template engine escapes the text.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from markupsafe import Markup

from doceval_pipeline.domain.throughput import Throughput
from doceval_pipeline.reports import cli_hints, svg
from doceval_pipeline.reports.cells import anchor, cell_details, cut_block, matrix_rows
from doceval_pipeline.reports.decision import GENEROUS, decisions
from doceval_pipeline.reports.figures import all_columns
from doceval_pipeline.reports.formatting import (
    amount,
    duration,
    elapsed,
    money,
    percent,
    points_text,
    probability_text,
    score_text,
    signed,
    size_text,
)
from doceval_pipeline.reports.labels import ELSEWHERE, ColumnLabels, origins_text
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, SYMBOLS, lay_out
from doceval_pipeline.reports.model import NOTHING_ASKED, ReportFigures, ReportInput
from doceval_pipeline.reports.sanitize import visible, visible_name

TEMPLATE = "report.html.j2"
STYLE = "report.css"
SCRIPT = "report.js"
SECTIONS = (
    ("failures", "Failures"),
    ("leaderboard", "Leaderboard"),
    ("distributions", "Distribution"),
    ("disagreements", "Disagreement"),
    ("agreement", "Agreement"),
    ("columns", "Connections and prompts"),
    ("matrix", "Results"),
    ("previous", "Change"),
    ("throughput", "Throughput"),
    ("reprocessed", "Reprocessed"),
    ("left-out", "Files left out"),
    ("integrity", "Integrity"),
    ("configuration", "Configuration"),
    ("provenance", "Provenance"),
)
CONFIGURATION_CHARACTERS = 200_000
PROMPT_CHARACTERS = 20_000
# The highest number of groups, and of names in each, before "and n more".
GROUPS_SHOWN = 50
NAMES_SHOWN = 50
CHANGES_SHOWN = 500


def render_html(data: ReportInput, figures: ReportFigures, compiled: Path | None = None) -> str:
    """Render the page of a report.

    Parameters
    ----------
    data
        The input of the report; names, messages and responses may be hostile.
    figures
        The figures of the same data.
    compiled
        An existing private folder for compiled templates; compiling takes as long as the rest of a small
        page.

    Returns
    -------
    str
        A complete HTML document that can be encoded as UTF-8; equal for equal input. It states how much of
        long texts and lists is left out.
    """
    columns = all_columns(data)
    matrix = lay_out(data, columns)
    environment = _environment(compiled)
    return environment.get_template(TEMPLATE).render(
        data=data,
        figures=figures,
        matrix=matrix,
        matrix_rows=matrix_rows(matrix),
        cell_details=cell_details(matrix),
        targets={
            anchor(cell.document_id, cell.connection_id, cell.prompt_id)
            for cell in data.cells
            if cell.details is not None
        },
        names=ColumnLabels(columns),
        labels=data.labels,
        column_names={(c.connection_id, c.prompt_id): (c.connection, c.prompt) for c in columns},
        prompts=_prompts(data.config),
        configuration=_cut(_pretty(data.config), CONFIGURATION_CHARACTERS),
        decisions=decisions(figures),
        GENEROUS=GENEROUS,
        elapsed=_elapsed(data),
        policy=_policy(environment, STYLE, SCRIPT),
        **_rankings(data),
        **_commands(data),
    )


def render_page(template: str, compiled: Path | None, **values: Any) -> str:
    """Render another page with the style and policy of the report, without a script.

    Parameters
    ----------
    template
        The name of its template, which prints `policy` and includes `STYLE`.
    values
        The variables of the template; their texts may be hostile.
    """
    environment = _environment(compiled)
    return environment.get_template(template).render(policy=_policy(environment, STYLE), **values)


def _rankings(data: ReportInput) -> dict[str, Any]:
    """The shared axes of the leaderboards and of the changes, and the connections without a pair."""
    insights = data.insights
    ranked = [standing for board in insights.leaderboards for standing in board.ranked]
    connections = {standing.connection_id for standing in ranked}
    paired = {connection for pair in insights.agreements for connection in (pair.first, pair.second)}
    moved = insights.previous.columns if insights.previous else ()
    return {
        "unpaired": len(connections - paired),
        "leaderboard_axis": svg.score_axis(standing.scores for standing in ranked),
        "previous_axis": svg.difference_axis(entry.changes.difference for entry in moved),
    }


def _commands(data: ReportInput) -> dict[str, str]:
    return {
        "retry_command": cli_hints.retry_command(data),
        "export_command": cli_hints.export_command(data),
        "documents_command": cli_hints.documents_command(data),
    }


@cache
def _environment(compiled: Path | None) -> Environment:
    environment = Environment(
        loader=PackageLoader("doceval_pipeline.reports"),
        bytecode_cache=None if compiled is None else FileSystemBytecodeCache(str(compiled)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters |= {
        "name": visible_name,
        "amount": amount,
        "score": score_text,
        "points": points_text,
        "probability": probability_text,
        "duration": duration,
        "size": size_text,
        "time": _time,
        "moment": _moment,
        "end_of": _end_of,
        "signed": signed,
        "money": money,
        "short_time": _short_time,
    }
    environment.globals |= {
        "SECTIONS": SECTIONS,
        "SYMBOLS": SYMBOLS,
        "KINDS": svg.KINDS,
        "NOTHING_ASKED": NOTHING_ASKED,
        "SCORES": svg.SCORES,
        "DETAILS_SHOWN": DETAILS_SHOWN,
        "NAMES_SHOWN": NAMES_SHOWN,
        "block": cut_block,
        "anchor": anchor,
        "bar": svg.outcome_bar,
        "share_bar": svg.share_bar,
        "interval": svg.interval,
        "change": svg.change,
        "distribution": svg.distribution,
        "dots": svg.dots,
        "throughput": svg.throughput,
        "ELSEWHERE": ELSEWHERE,
        "origins_text": origins_text,
        "score_text": score_text,
        "signed": signed,
        "percent": percent,
    }
    return environment


def _inert(value: Any) -> Any:
    """Make the invisible characters of a printed value visible; the template engine escapes it later."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _policy(environment: Environment, style: str, script: str | None = None) -> str:
    """A content security policy that allows only the page's own style sheet and script, by digest."""
    allowed = [] if script is None else [f"script-src '{_digest(environment.get_template(script).render())}'"]
    allowed.append(f"style-src '{_digest(environment.get_template(style).render())}'")
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _pretty(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and the number of characters left out."""
    return text[:limit], max(0, len(text) - limit)


def _prompts(config: Mapping[str, Any]) -> list[tuple[str, tuple[str, int]]]:
    """Names and texts of the sealed prompts."""
    prompts = [prompt for prompt in config.get("prompts") or () if isinstance(prompt, Mapping)]
    return [
        (str(prompt.get("name", "")), _cut(str(prompt.get("text", "")), PROMPT_CHARACTERS))
        for prompt in prompts
    ]


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _time(time: datetime) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M} UTC"


def _short_time(time: datetime) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M}"


def _moment(time: datetime) -> str:
    return f"{_utc(time):%Y-%m-%d %H:%M:%S} UTC"


def _end_of(over_time: Throughput) -> datetime:
    return over_time.start + timedelta(seconds=over_time.bin_seconds * len(over_time.bins))


def _elapsed(data: ReportInput) -> str | None:
    if data.started_at is None or data.completed_at is None:
        return None
    return elapsed(_utc(data.completed_at) - _utc(data.started_at))
