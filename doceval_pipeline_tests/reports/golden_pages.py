"""Golden pages of reports, reviewed by a person and kept in `golden/`.

They leave out the style sheet and the script, which change for other reasons, and all but the first
leaderboards, rows of long tables and details, of which they have a digest. After a wanted change,
`python -m doceval_pipeline_tests.reports.golden_pages` writes them again; review the diff.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline_tests.reports.sample_reports import REPORTS

FOLDER = Path(__file__).with_name("golden")
NAMES = (
    *("empty", "1-cell", "8-cells", "1000-cells", "10000-cells", "all-failed", "all-skipped", "all-equal"),
    *("one-document", "one-model", "one-model-one-prompt", "one-prompt", "five-prompts", "many-prompts"),
    *("unknown-prices", "two-currencies", "below-thresholds", "margin", "overall"),
    *("unicode", "incomplete", "simulated"),
)
# What stands in a row on a page, and how many of it a golden file has.
REPEATED = (
    ("rows", re.compile(r'(?:^<tr><th scope="row"><bdi class="file" title=.*\n)+', re.MULTILINE), "<tr>", 10),
    ("leaderboards", re.compile(r'(?:<tbody>\n<tr class="board">.*?</tbody>\n)+', re.DOTALL), "<tbody>", 10),
    ("rows", re.compile(r"(?:<tr>\n<th.*?</tr>\n)+", re.DOTALL), "<tr>", 12),
)
DETAILS_KEPT = 4
_DETAILS = '<div popover class="result"'


def body_of(name: str) -> str:
    """The part of a page that its golden file has."""
    data = REPORTS[name]()
    (body,) = re.findall("<body>\n(.*)<script>", render_html(data, figures(data)), re.DOTALL)
    assert isinstance(body, str)
    for kind, pattern, start, kept in REPEATED:
        body = pattern.sub(partial(_cut, kind=kind, start=start, kept=kept), body)
    return _without_most_details(body)


def _cut(found: re.Match[str], kind: str, start: str, kept: int) -> str:
    """The first of equal parts, which all begin with `start`, and a digest of the others."""
    parts = [start + part for part in found[0].split(start)[1:]]
    if len(parts) <= kept:
        return found[0]
    return "".join(parts[:kept]) + _digest(parts[kept:], kind)


def _without_most_details(body: str) -> str:
    first, *details = body.split(_DETAILS)
    if len(details) <= DETAILS_KEPT:
        return body
    last, _, rest = details[-1].partition("\n</section>")
    left_out = [*details[DETAILS_KEPT:-1], last]
    return f"{_DETAILS.join([first, *details[:DETAILS_KEPT]])}{_digest(left_out, 'details')}</section>{rest}"


def _digest(parts: Sequence[str], kind: str) -> str:
    digest = hashlib.sha256("".join(parts).encode()).hexdigest()
    return f"<!-- {len(parts):,} more {kind} with the sha256 {digest} -->\n"


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.html"


def write_all() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        file_of(name).write_text(body_of(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
