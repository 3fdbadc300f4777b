"""Draws means with intervals as an image for Dagster's markdown: a name beside every line."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.reports.formatting import score_text
from doceval_pipeline.reports.sanitize import cut, visible_name

# Dagster draws an image only in markdown that is shorter than this, in characters.
PLOT_LIMIT = 1_000
MOST_LINES = 12
NAME_CHARACTERS = 15
_LINE, _MEAN, _TEXT = "#2a78b5", "#d1602a", "#808890"
_NAMES_WIDTH, _PIXELS_PER_POINT, _ROW_HEIGHT = 120, 2, 12
_NOT_IN_XML = re.compile("[\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class PlotLine:
    """A name with its scores; without scores, the heading of the lines after it."""

    name: str
    scores: Estimate | None = None


def draw_intervals(lines: Sequence[PlotLine], caption: str, alt: str) -> str:
    """Draw as many lines as fit into the characters that Dagster draws, on one axis from 0 to 100.

    Parameters
    ----------
    caption
        Text below the lines, which is not escaped; the number of lines left out is added.
    alt
        Text that stands for the image, in letters and blanks.
    """
    return first_that_fits(
        image_of(lines[:drawn], f"{caption}{_left_out(lines[drawn:])}", alt)
        for drawn in range(min(len(lines), MOST_LINES), -1, -1)
    )


def first_that_fits(images: Iterable[str]) -> str:
    """The first of ever smaller images that Dagster draws."""
    return next(image for image in images if len(image) < PLOT_LIMIT)


def as_image(svg: str, alt: str) -> str:
    """An image in markdown."""
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def image_of(lines: Sequence[PlotLine], caption: str, alt: str) -> str:
    """An image of lines on one axis from 0 to 100, above a caption; as for `draw_intervals`."""
    while lines and lines[-1].scores is None:
        lines = lines[:-1]
    names, intervals, means = [], [], []
    for place, line in enumerate(lines):
        middle, scores = place * _ROW_HEIGHT + 7, line.scores
        names.append(f'<text y="{middle + 3}">{_label(line)}</text>')
        if scores is None:
            continue
        if scores.low is not None and scores.high is not None:
            intervals.append(f"M{_across(scores.low)} {middle}H{_across(scores.high)}")
        means.append(f"M{_across(scores.mean) - 2} {middle}h4")
    bottom = len(lines) * _ROW_HEIGHT + 12
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_across(100) + 3}" height="{bottom + 3}" '
        f'font-family="sans-serif" font-size="9" fill="{_TEXT}">'
        f'<path stroke="{_LINE}" d="{"".join(intervals)}"/>'
        f'<path stroke="{_MEAN}" stroke-width="5" d="{"".join(means)}"/>{"".join(names)}'
        f'<text y="{bottom}">{caption}</text></svg>'
    )
    return as_image(svg, alt)


def _left_out(lines: Sequence[PlotLine]) -> str:
    left = sum(line.scores is not None for line in lines)
    return f", {left:,} more in the report" if left else ""


def _across(score: float) -> int:
    """Where a score is on the axis, in pixels from the left."""
    return _NAMES_WIDTH + round(score * _PIXELS_PER_POINT)


def _label(line: PlotLine) -> str:
    """The name and mean of a line as text of an image, without markup or characters that XML forbids."""
    name = cut(visible_name(line.name), NAME_CHARACTERS) or "(no name)"
    text = f"{name}:" if line.scores is None else f"{name} {score_text(line.scores.mean)}"
    return escape(_NOT_IN_XML.sub("�", text), quote=False)
