"""How numbers are written for people: scores, amounts, durations, sizes. No text of others."""

import math
from datetime import timedelta


def score_text(score: float) -> str:
    """A score with one decimal, without a trailing zero; never 0 or 100 for what is only near it."""
    rounded = round(score, 1)
    if rounded == score or rounded not in (0, 100):
        return f"{rounded:g}"
    return f"{score:.3g}" if rounded == 0 else f"{score:.6g}"


def amount(value: float) -> str:
    """A count with thousands separators."""
    return f"{value:,.0f}"


def counted(number: int, one: str, many: str) -> str:
    """A count with its noun: 1 batch, 1,200 batches."""
    return f"1 {one}" if number == 1 else f"{number:,} {many}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 840 ms, 12.4 s, 3 min 20 s, 2 h 05 min."""
    # What would be rounded to 1,000 ms or 60.0 s is said in the next unit.
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def rough_duration(seconds: float) -> str:
    """Seconds of the future as people say them, without false precision: 40 s, 12 min, 5 h, 3 days."""
    if not math.isfinite(seconds):
        return "unknown"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def elapsed(time: timedelta) -> str:
    """A time span as `duration` says it; a negative one, of clocks that disagree, as 0."""
    return duration(max(0.0, time.total_seconds()))


def size_text(size: int) -> str:
    """Bytes as people say them: 812 B, 20.4 KiB, 1.5 MiB."""
    if size < 1024:
        return f"{size} B"
    value, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1024:
            value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def points_text(points: float) -> str:
    """A difference of scores: one decimal, or two digits of a small one; 0 for next to nothing."""
    if abs(points) >= 0.095:
        return f"{points:.1f}"
    # Added to 0.0, which has no sign.
    return f"{round(points, 4) + 0.0:.2g}"


def probability_text(p: float) -> str:
    """What follows a p in a sentence: "= 0.43", "= 0.004", "< 0.001"."""
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.2g}" if p >= 0.1 else f"= {p:.3f}"


def signed(difference: float) -> str:
    """A difference of scores with its sign: +3.2, −0.5, 0. What is only near 0 is not 0."""
    if difference == 0:
        return "0"
    said = score_text(abs(difference))
    return f"{'+' if difference > 0 else '−'}{said}"


def money(value: float) -> str:
    """An amount of a currency with two decimals, or with two digits where it is less than a hundredth."""
    return f"{value:.2g}" if 0 < value < 0.01 else f"{value:,.2f}"


def percent(part: int, whole: int) -> str:
    """A share in whole percents; never 0 % or 100 % for what is only near it."""
    rounded = round(part * 100 / whole)
    if rounded == 0 and part:
        return "under 1 %"
    return "over 99 %" if rounded == 100 and part < whole else f"{rounded} %"
