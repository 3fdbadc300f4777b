"""The completion report as one self-contained HTML page that runs and loads nothing.

The page has no script; its policy allows one style sheet, by its digest, and nothing else. Every
text goes through two nets: the template engine escapes it, and before that invisible and reordering
characters are made visible, whether the template thinks of it or not.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from markupsafe import Markup

from doceval_pipeline.reports.cells import cell_details, cut_block, matrix_rows
from doceval_pipeline.reports.drawings import histogram, outcome_bar
from doceval_pipeline.reports.figures import all_columns
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, SYMBOLS, lay_out
from doceval_pipeline.reports.model import FailureGroup, ReportFigures, ReportInput
from doceval_pipeline.reports.numbers import (
    amount,
    duration,
    elapsed,
    points_text,
    probability_text,
    score_text,
    size_text,
)
from doceval_pipeline.reports.untrusted import visible, visible_name

TEMPLATE = "report.html.j2"
STYLE = "report.css"
CONFIGURATION_CHARACTERS = 200_000
PROMPT_CHARACTERS = 20_000
# How many groups, and how many names in each, are listed before "and n more".
GROUPS_SHOWN = 50
NAMES_SHOWN = 50
CHANGES_SHOWN = 500
# Larger documents, in bytes, come back failed from the known processor, which cuts their base64.
KNOWN_PROCESSOR_LIMIT_BYTES = 1_048_575
_BASE64_ERROR = re.compile(r"base.?64|incorrect padding|multiple of 4", re.IGNORECASE)


def render_html(data: ReportInput, figures: ReportFigures, compiled: Path | None = None) -> str:
    """Write the page of a report.

    Parameters
    ----------
    data
        What the report is made from; names, messages and responses may be hostile.
    figures
        The figures of the same data.
    compiled
        A folder of ours that keeps the compiled template, which takes as long as all the rest of a
        small page; it must exist.

    Returns
    -------
    str
        A whole HTML document that can be written as UTF-8; the same for the same input. It says how
        much of long texts and lists is left out.
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
        columns={(column.connection_id, column.prompt_id): column for column in columns},
        prompts=_prompts(data.config),
        configuration=_cut(_pretty(data.config), CONFIGURATION_CHARACTERS),
        elapsed=_elapsed(data),
        policy=_policy(environment.get_template(STYLE).render()),
    )


def render_page(template: str, compiled: Path | None, **values: Any) -> str:
    """Write another page in the look of the report, under the same policy; it has no script.

    Parameters
    ----------
    template
        The name of its template, which prints `policy` and includes `STYLE`.
    values
        What the template shows; texts in it may be hostile.
    """
    environment = _environment(compiled)
    policy = _policy(environment.get_template(STYLE).render())
    return environment.get_template(template).render(policy=policy, **values)


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
    }
    environment.globals |= {
        "SYMBOLS": SYMBOLS,
        "DETAILS_SHOWN": DETAILS_SHOWN,
        "NAMES_SHOWN": NAMES_SHOWN,
        "block": cut_block,
        "bar": outcome_bar,
        "histogram": histogram,
        "is_cut_base64": _is_cut_base64,
    }
    return environment


def _inert(value: Any) -> Any:
    """Runs on every value that the template prints, before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _pretty(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def _is_cut_base64(group: FailureGroup) -> bool:
    """Whether the limit of the known processor explains these failures."""
    return bool(group.too_large and group.message and _BASE64_ERROR.search(group.message))


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters are left out."""
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


def _elapsed(data: ReportInput) -> str | None:
    if data.started_at is None or data.completed_at is None:
        return None
    return elapsed(_utc(data.completed_at) - _utc(data.started_at))
