"""Golden pages of small reports, reviewed by a person and kept in `golden/`.

They leave out the style sheet and the script, which change for other reasons. After a wanted change,
`python -m doceval_pipeline_tests.reports.golden_pages` writes them again; review the diff.
"""

import re
from pathlib import Path

from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline_tests.reports.sample_reports import REPORTS

FOLDER = Path(__file__).with_name("golden")
NAMES = ("empty", "1-cell", "8-cells", "all-failed", "all-skipped", "one-document", "unicode", "incomplete")


def body_of(name: str) -> str:
    """The part of a page that its golden file has."""
    data = REPORTS[name]()
    (body,) = re.findall("<body>\n(.*)<script>", render_html(data, figures(data)), re.DOTALL)
    assert isinstance(body, str)
    return body


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.html"


def write_all() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        file_of(name).write_text(body_of(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
