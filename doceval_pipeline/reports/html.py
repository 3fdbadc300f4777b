"""The completion report as one self-contained HTML page that runs and loads nothing.

The page has no script; its policy allows one style sheet, by its digest, and nothing else. Every
text goes through two nets: the template engine escapes it, and before that invisible and reordering
characters are made visible, whether the template thinks of it or not.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from doceval_pipeline.reports.matrix import MESSAGE_CHARACTERS, SYMBOLS, CutText, cut_text, lay_out
from doceval_pipeline.reports.model import ReportFigures, ReportInput
from doceval_pipeline.reports.numbers import amount, duration, elapsed, score_text, size_text
from doceval_pipeline.reports.untrusted import visible, visible_name

TEMPLATE = "report.html.j2"
STYLE = "report.css"
CONFIGURATION_CHARACTERS = 200_000
PROMPT_CHARACTERS = 20_000
# How many groups, and how many names in each, are listed before "and n more".
GROUPS_SHOWN = 50
NAMES_SHOWN = 50
CHANGES_SHOWN = 500


def render_html(data: ReportInput, figures: ReportFigures) -> str:
    """Write the page of a report.

    Parameters
    ----------
    data
        What the report is made from; names, messages and responses may be hostile.
    figures
        The figures of the same data.

    Returns
    -------
    str
        A whole HTML document that can be written as UTF-8; the same for the same input. Of responses
        it shows the beginnings, and of many documents the first `matrix.ROWS_SHOWN`; it says how much
        is left out.
    """
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            data=data,
            figures=figures,
            matrix=lay_out(data),
            prompts=_prompts(data.config),
            configuration=cut_text(_pretty(data.config), CONFIGURATION_CHARACTERS),
            elapsed=_elapsed(data),
            folders=list(dict.fromkeys(document.folder for document in data.documents)),
            policy=_policy(_environment().get_template(STYLE).render()),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("doceval_pipeline.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters |= {
        "name": visible_name,
        "message": lambda message: cut_text(message, MESSAGE_CHARACTERS),
        "amount": amount,
        "score": score_text,
        "duration": duration,
        "size": size_text,
        "time": _time,
    }
    environment.globals |= {
        "SYMBOLS": SYMBOLS,
        "GROUPS_SHOWN": GROUPS_SHOWN,
        "NAMES_SHOWN": NAMES_SHOWN,
        "CHANGES_SHOWN": CHANGES_SHOWN,
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


def _prompts(config: Mapping[str, Any]) -> list[tuple[str, CutText]]:
    """Names and texts of the sealed prompts."""
    prompts = [prompt for prompt in config.get("prompts") or () if isinstance(prompt, Mapping)]
    return [
        (str(prompt.get("name", "")), cut_text(str(prompt.get("text", "")), PROMPT_CHARACTERS))
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
