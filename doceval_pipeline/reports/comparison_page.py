"""A comparison as one self-contained HTML page in the look of the report, which runs and loads nothing."""

from pathlib import Path

from doceval_pipeline.reports.comparison import Comparison
from doceval_pipeline.reports.html import render_page

TEMPLATE = "comparison.html.j2"


def render_comparison(comparison: Comparison, compiled: Path | None = None) -> str:
    """Write the page of a comparison.

    Parameters
    ----------
    comparison
        What it shows; the names in it may be hostile.
    compiled
        A folder of ours that keeps compiled templates; it must exist.

    Returns
    -------
    str
        A whole HTML document that can be written as UTF-8; the same for the same comparison.
    """
    return render_page(TEMPLATE, compiled, comparison=comparison)
