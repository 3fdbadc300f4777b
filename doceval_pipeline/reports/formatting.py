"""Formats numbers for people: scores, amounts, durations, sizes."""

import math
from datetime import timedelta
from decimal import Decimal

from doceval_pipeline.domain.findings import Estimate


def score_text(score: float) -> str:
    """A score with one decimal, without a trailing zero; only exact values give 0 or 100."""
    rounded = round(score, 1)
    if rounded == score or rounded not in (0, 100):
        return f"{rounded:g}"
    return f"{score:.3g}" if rounded == 0 else f"{score:.6g}"


def interval_text(scores: Estimate | None) -> str:
    """The interval of a mean score; a dash without one."""
    if scores is None or scores.low is None or scores.high is None:
        return "–"
    return f"{score_text(scores.low)} to {score_text(scores.high)}"


def amount(value: float) -> str:
    """A count with thousands separators."""
    return f"{value:,.0f}"


def counted(number: int, one: str, many: str) -> str:
    """A count with its noun: 1 batch, 1,200 batches."""
    return f"1 {one}" if number == 1 else f"{number:,} {many}"


def duration(seconds: float) -> str:
    """A duration in seconds, as text: 840 ms, 12.4 s, 3 min 20 s, 2 h 05 min."""
    # Values that would round to 1,000 ms or 60.0 s take the next unit.
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def rough_duration(seconds: float) -> str:
    """An estimated duration in seconds, as text without false precision: 40 s, 12 min, 5 h, 3 days."""
    if not math.isfinite(seconds):
        return "unknown"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def elapsed(time: timedelta) -> str:
    """A time span as `duration` writes it; negative spans (clocks disagree) are 0."""
    return duration(max(0.0, time.total_seconds()))


def size_text(size: int) -> str:
    """A size in bytes, as text: 812 B, 20.4 KiB, 1.5 MiB."""
    if size < 1024:
        return f"{size} B"
    value, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1024:
            value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def points_text(points: float) -> str:
    """A difference of scores with one decimal, or two digits if it is small; 0 below 0.0001."""
    if abs(points) >= 0.095:
        return f"{points:.1f}"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(points, 4) + 0.0:.2g}"


def short_points(points: float) -> str:
    """A difference of scores as `points_text` writes it, without a needless ".0"."""
    return points_text(points).removesuffix(".0")


def probability_text(p: float) -> str:
    """A probability with its relation, to follow "p": "= 0.43", "= 0.004", "< 0.001"."""
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.2g}" if p >= 0.1 else f"= {p:.3f}"


def signed(difference: float) -> str:
    """A difference of scores with its sign: +3.2, −0.5; only an exact 0 gives 0."""
    if difference == 0:
        return "0"
    size = score_text(abs(difference))
    return f"{'+' if difference > 0 else '−'}{size}"


def money(value: float) -> str:
    """An amount of money with two decimals, or with two significant digits below 0.1."""
    # As a decimal, because a small amount would get an exponent.
    return f"{Decimal(f'{value:.2g}'):f}" if 0 < value < 0.1 else f"{value:,.2f}"


def rough_amount(value: float) -> str:
    """A count with two significant digits and thousands separators: 4,200."""
    return f"{_two_digits(value):,.0f}"


def rough_money(value: float) -> str:
    """An amount of money with two significant digits."""
    return money(_two_digits(value))


def _two_digits(value: float) -> float:
    """A finite value that is not negative, rounded to two significant digits."""
    return float(f"{value:.2g}")


def percent(part: int, whole: int) -> str:
    """A share in whole percent; only exact shares give 0 % or 100 %."""
    rounded = round(part * 100 / whole)
    if rounded == 0 and part:
        return "under 1 %"
    return "over 99 %" if rounded == 100 and part < whole else f"{rounded} %"
