"""Pages of small reports as they were when somebody looked at them, kept in `golden/`.

What a page says is kept, without its style sheet and script, which change for other reasons. After a wanted
change, `python -m doceval_pipeline_tests.reports.golden_pages` writes them anew; the difference is for people
to read.
"""

import re
from pathlib import Path

from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline_tests.reports.sample_reports import REPORTS

FOLDER = Path(__file__).with_name("golden")
NAMES = ("empty", "1-cell", "8-cells", "all-failed", "all-skipped", "one-document", "unicode", "incomplete")


def kept(name: str) -> str:
    """The part of a page that is kept."""
    data = REPORTS[name]()
    (body,) = re.findall("<body>\n(.*)<script>", render_html(data, figures(data)), re.DOTALL)
    assert isinstance(body, str)
    return body


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.html"


def write_anew() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        file_of(name).write_text(kept(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_anew()
