"""Draws the small pictures of the page as SVG. Of numbers alone: no text of others gets in."""

from markupsafe import Markup

from doceval_pipeline.reports.model import CellCounts, ScoreFigures
from doceval_pipeline.reports.numbers import amount

KINDS = ("succeeded", "failed", "waiting", "running", "paused", "unknown", "missing")


def outcome_bar(cells: CellCounts, css: str) -> Markup:
    """The shares of each kind of cell in one bar; nothing where there are no cells."""
    if not cells.total:
        return Markup()
    parts, left = [], 0.0
    for kind in KINDS:
        width = round(getattr(cells, kind) * 1000 / cells.total, 2)
        if width:
            parts.append(f'<rect class="f-{kind}" x="{left:g}" width="{width:g}" height="10"/>')
        left += width
    return Markup(  # noqa: S704
        f'<svg class="{css}" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def histogram(scores: ScoreFigures) -> Markup:
    """The scores from 0 to 100 in ten bins."""
    most = max(scores.histogram)
    bars = []
    for place, count in enumerate(scores.histogram):
        height = round(count * 24 / most, 1)
        if count:
            bars.append(
                f'<rect class="f-succeeded" x="{place * 10}.5" y="{25 - height:.1f}" width="9" '
                f'height="{height}" rx="1"/>'
            )
    told = ", ".join(str(count) for count in scores.histogram)
    return Markup(  # noqa: S704
        '<svg class="histogram" viewBox="0 0 100 26" role="img">'
        f"<title>{amount(scores.n)} scores from 0 to 100 in ten bins: {told}</title>"
        f'{"".join(bars)}<path class="axis" d="M0 25.5h100"/></svg>'
    )
