"""Draws the small charts of the page as SVG, from numbers and times only: no foreign text gets in.

A chart beside its numbers is hidden from screen readers; a chart without them has a title.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.insights import Distribution
from doceval_pipeline.domain.throughput import Throughput
from doceval_pipeline.reports.formatting import amount, counted, duration, score_text

KINDS = ("succeeded", "failed", "waiting", "running", "paused", "unknown", "missing")
# Width of a chart on an axis, in units, and the margin at both ends for marks at its limits.
WIDTH, MARGIN = 200, 6
SERIES_WIDTH, SERIES_HEIGHT, _FAILED_HEIGHT, _DATES_HEIGHT = 1000, 200, 40, 24
# Room for the labels of the scores, and for the last value.
SERIES_LEFT, SERIES_RIGHT = 56, 56
_REACHES = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values that charts share, so that they can be compared."""

    low: float
    high: float

    @property
    def ticks(self) -> tuple[float, float, float]:
        """The labelled values: both ends and the middle."""
        return self.low, (self.low + self.high) / 2, self.high

    def place(self, value: float) -> float:
        """The horizontal position of a value, in units; values outside the range are placed at its end."""
        inside = min(max(value, self.low), self.high)
        return round((inside - self.low) * WIDTH / (self.high - self.low), 1)


SCORES = Axis(0, 100)


def score_axis(estimates: Iterable[Estimate | None]) -> Axis:
    """The smallest range of whole tens that contains the given means and their intervals."""
    values = [v for e in estimates if e is not None for v in (e.low, e.mean, e.high) if v is not None]
    low = max(0, math.floor(min(values, default=0) / 10) * 10)
    high = min(100, math.ceil(max(values, default=100) / 10) * 10)
    return Axis(low, high) if low < high else Axis(max(0, low - 10), min(100, high + 10))


def difference_axis(differences: Iterable[Difference]) -> Axis:
    """A range around 0 that contains the given differences and their intervals."""
    values = [abs(v) for d in differences for v in (d.low, d.mean, d.high) if v is not None]
    reach = next((r for r in _REACHES if r >= max(values, default=0)), _REACHES[-1])
    return Axis(-reach, reach)


def outcome_bar(cells: CellCounts, css: str) -> Markup:
    """The share of each outcome in one bar; empty without evaluations."""
    if not cells.total:
        return Markup()
    parts, left = [], 0.0
    for kind in KINDS:
        width = round(getattr(cells, kind) * 1000 / cells.total, 2)
        if width:
            parts.append(f'<rect class="f-{kind}" x="{left:g}" width="{width:g}" height="10"/>')
        left += width
    return _stretched(css, 10, parts)


def share_bar(part: int, whole: int) -> Markup:
    """A part's share of the whole, in one bar."""
    width = round(part * 1000 / whole, 1)
    return _stretched("bar small", 10, [f'<rect class="f-succeeded" width="{width:g}" height="10"/>'])


def interval(estimate: Estimate, axis: Axis, leader: float | None) -> Markup:
    """A mean with its interval; a fine line marks the mean of the leader."""
    parts = [] if leader is None else [_upright("leader", axis.place(leader), 0, 18)]
    return _on_axis(
        "interval", axis, 18, [*parts, *_whisker(axis, estimate.low, estimate.mean, estimate.high)]
    )


def change(difference: Difference, axis: Axis) -> Markup:
    """A difference with its interval; a fine line marks 0."""
    zero = _upright("leader", axis.place(0), 0, 18)
    parts = _whisker(axis, difference.low, difference.mean, difference.high)
    return _on_axis("interval", axis, 18, [zero, *parts])


def distribution(scores: Distribution) -> Markup:
    """A histogram of scores over a box from quartile to quartile with the median."""
    most = max(scores.bins, default=0) or 1
    step = WIDTH / max(1, len(scores.bins))
    parts = []
    for position, count in enumerate(scores.bins):
        if count:
            # Small counts remain visible.
            height = max(1.0, round(count * 20 / most, 1))
            parts.append(
                f'<rect class="f-succeeded" x="{position * step + 0.5:g}" y="{21 - height:g}" '
                f'width="{step - 1:g}" height="{height:g}"/>'
            )
    left, right = SCORES.place(scores.lower_quartile), SCORES.place(scores.upper_quartile)
    parts += [
        _level("whisker", SCORES.place(scores.minimum), SCORES.place(scores.maximum), 28.5),
        f'<rect class="box" x="{left:g}" y="24.5" width="{max(1.0, right - left):g}" height="8"/>',
        _upright("median", SCORES.place(scores.median), 23.5, 33.5),
    ]
    return _on_axis("distribution", SCORES, 35, parts)


def dots(scores: Sequence[float]) -> Markup:
    """Scores as points on the axis, connected from the lowest to the highest."""
    places = [SCORES.place(score) for score in scores]
    parts = [_level("spread", min(places), max(places), 9)]
    parts += [f'<circle class="dot" cx="{place:g}" cy="9" r="3.5"/>' for place in places]
    return _on_axis("interval", SCORES, 18, parts)


def throughput(over_time: Throughput) -> Markup:
    """Finished evaluations over time as bars, and stalls as framed spans."""
    # All may have finished in the same moment.
    span = over_time.bin_seconds * len(over_time.bins) or 1.0
    most = max(over_time.bins, default=0) or 1
    parts = []
    for stall in over_time.stalls:
        start = (stall.start - over_time.start).total_seconds() * 1000 / span
        width = max(2.0, stall.seconds * 1000 / span)
        parts.append(f'<rect class="stall" x="{start:.1f}" width="{width:.1f}" height="60"/>')
    step = 1000 / len(over_time.bins)
    for position, count in enumerate(over_time.bins):
        if count:
            height = max(1.0, round(count * 58 / most, 1))
            parts.append(
                f'<rect class="f-succeeded" x="{position * step:.1f}" y="{60 - height:g}" '
                f'width="{step * 0.86:.1f}" height="{height:g}"/>'
            )
    title = (
        f"{amount(sum(over_time.bins))} evaluations finished in {duration(span)}, at most {amount(most)} in "
        f"{duration(over_time.bin_seconds)}"
    )
    return Markup(  # noqa: S704
        '<svg class="throughput" viewBox="0 0 1000 60" preserveAspectRatio="none" role="img">'
        f"<title>{title}</title>{''.join(parts)}</svg>"
    )


@dataclass(frozen=True, slots=True)
class SeriesPlace:
    """An occurrence as a series draws it."""

    day: str
    """For people, as `time`."""
    time: str
    mean: float | None
    """Mean of `scored` scores."""
    scored: int
    failed: int
    cells: int
    is_marked: bool
    """Scores drift here."""
    is_other_question: bool
    is_missing: bool
    """It has no results."""


def series(places: Sequence[SeriesPlace]) -> Markup:
    """Mean scores by occurrence, 0 to 100, over bars of the share of failures; drift is marked by triangles.

    The line breaks only where another question begins, at a dashed line; occurrences without a mean are
    skipped.
    """
    parts = [*_series_axis(places), *_series_marks(places)]
    scored = [place.mean for place in places if place.mean is not None]
    marked = sum(place.is_marked for place in places)
    title = (
        f"Mean scores of {amount(len(scored))} of {amount(len(places))} occurrences, drift marked in "
        f"{amount(marked)}"
    )
    description = "No occurrence has a score."
    if scored:
        description = (
            f"From {scored[0]:.1f} to {scored[-1]:.1f}, lowest {min(scored):.1f}, highest {max(scored):.1f}"
        )
    return Markup(  # noqa: S704
        f'<svg class="series" viewBox="0 0 {SERIES_WIDTH} {SERIES_HEIGHT + _DATES_HEIGHT}" role="img">'
        f"<title>{title}</title><desc>{description}</desc>{''.join(parts)}{_series_line(places)}</svg>"
    )


def _series_axis(places: Sequence[SeriesPlace]) -> list[str]:
    """The scores at the left, and the days of the first and last occurrence below."""
    left, right = SERIES_LEFT, SERIES_WIDTH - SERIES_RIGHT
    parts = []
    for tick in SCORES.ticks:
        parts.append(_level("grid", left, right, _height(tick)))
        parts.append(_text(left - 8, _height(tick) + 5, f"{tick:g}", "end"))
    parts.append(_level("grid", left, right, SERIES_HEIGHT))
    parts.append(_text(left - 8, SERIES_HEIGHT - 2, "failed", "end"))
    below = SERIES_HEIGHT + _DATES_HEIGHT - 6
    if places:
        parts.append(_text(left, below, places[0].day, "start"))
    if len(places) > 1:
        parts.append(_text(right, below, places[-1].day, "end"))
    return parts


def _series_marks(places: Sequence[SeriesPlace]) -> list[str]:
    """Marks for a new question, the share of failures, and occurrences without results."""
    step, parts = _series_step(places), []
    for position, place in enumerate(places):
        across = _across(position, step)
        if place.is_other_question:
            parts.append(_upright("leader", round(across - step / 2, 1), 0, SERIES_HEIGHT))
        if place.failed:
            height = max(1.0, round(place.failed / place.cells * _FAILED_HEIGHT, 1))
            failed = _title(f"{place.time}: {amount(place.failed)} of {amount(place.cells)} failed")
            parts.append(
                f'<rect class="f-failed" x="{across - step * 0.35:.1f}" y="{SERIES_HEIGHT - height:g}" '
                f'width="{step * 0.7:.1f}" height="{height:g}">{failed}</rect>'
            )
        if place.is_missing:
            parts.append(
                f'<path class="missing" d="M{across - 4:g} {SERIES_HEIGHT - 12}l8 8m0 -8l-8 8">'
                f"{_title(f'{place.time}: no results')}</path>"
            )
    return parts


def _series_line(places: Sequence[SeriesPlace]) -> str:
    """The line with its points, and the last value beside the last point."""
    step, line, dots, last, breaks = _series_step(places), "", [], "", True
    for position, place in enumerate(places):
        breaks = breaks or place.is_other_question
        if place.mean is None:
            continue
        across, up = _across(position, step), _height(place.mean)
        line += f"{'M' if breaks else 'L'}{across:g} {up:g}"
        breaks = False
        scores = counted(place.scored, "score", "scores")
        label = f"{place.time}: mean {score_text(place.mean)}, {scores}"
        dots.append(
            f'<path class="drift" d="M{across:g} {up - 9:g}l8 15h-16z">{_title(f"{label}, DRIFT")}</path>'
            if place.is_marked
            else f'<circle class="dot" cx="{across:g}" cy="{up:g}" r="4">{_title(label)}</circle>'
        )
        last = _text(across + 11, up + 5, score_text(place.mean), "start", "last")
    return f'<path class="line" d="{line or "M0 0"}"/>{"".join(dots)}{last}'


def _series_step(places: Sequence[SeriesPlace]) -> float:
    """The horizontal distance between two occurrences of a series."""
    return (SERIES_WIDTH - SERIES_LEFT - SERIES_RIGHT) / max(1, len(places))


def _across(position: int, step: float) -> float:
    """The horizontal position of an occurrence in a series."""
    return round(SERIES_LEFT + (position + 0.5) * step, 1)


def _height(score: float) -> float:
    """The vertical position of a score in a series, from the top; above the bars of failures."""
    room = SERIES_HEIGHT - _FAILED_HEIGHT - 24
    return round(12 + (100 - score) * room / 100, 1)


def _text(across: float, up: float, content: str, anchor: str, css: str = "label") -> str:
    return f'<text class="{css}" x="{across:g}" y="{up:g}" text-anchor="{anchor}">{escape(content)}</text>'


def _title(content: str) -> str:
    return f"<title>{escape(content)}</title>"


def _whisker(axis: Axis, low: float | None, mean: float, high: float | None) -> list[str]:
    parts = []
    if low is not None and high is not None:
        left, right = axis.place(low), axis.place(high)
        parts = [
            _level("whisker", left, right, 9),
            _upright("whisker", left, 5, 13),
            _upright("whisker", right, 5, 13),
        ]
    return [*parts, f'<circle class="dot" cx="{axis.place(mean):g}" cy="9" r="3.5"/>']


def _on_axis(css: str, axis: Axis, height: int, parts: Sequence[str]) -> Markup:
    grid = "".join(_upright("grid", axis.place(tick), 0, height) for tick in axis.ticks)
    return Markup(  # noqa: S704
        f'<svg class="on-axis {css}" viewBox="{-MARGIN} 0 {WIDTH + 2 * MARGIN} {height}" aria-hidden="true">'
        f"{grid}{''.join(parts)}</svg>"
    )


def _stretched(css: str, height: int, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704
        f'<svg class="{css}" viewBox="0 0 1000 {height}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def _upright(css: str, place: float, top: float, bottom: float) -> str:
    return f'<path class="{css}" d="M{place:g} {top:g}V{bottom:g}"/>'


def _level(css: str, left: float, right: float, height: float) -> str:
    return f'<path class="{css}" d="M{left:g} {height:g}H{right:g}"/>'
