"""Warns of a batch with too few documents to tell its models apart."""

import math

from doceval_pipeline.domain.findings import SIGNIFICANT, least_for_difference
from doceval_pipeline.reports.formatting import counted

# Without a margin, a batch should show differences of this many points. About 75 documents do.
POINTS_TO_SHOW = 5.0
# As `statistics.inference.TYPICAL_SPREAD`, without loading numpy.
TYPICAL_SPREAD = 15.0
# Standard errors that a difference must have to be found at 5 % with a power of 80 %.
_NORMAL = 2.8016
# JSON numbers are exact up to this one.
LARGEST_SEED = 2**53 - 1
# No search goes beyond this many documents.
_MOST_DOCUMENTS = 1_000_000


def note_on_sample(documents: int, connections: int, margin: float | None) -> str | None:
    """A sentence on the differences that a batch is too small to show; None if it shows small ones.

    Parameters
    ----------
    documents
        How many documents its models score.
    connections
        How many connections it has; with one, there is nothing to tell apart.
    margin
        The margin of the batch, in points.
    """
    if connections < 2 or not documents:
        return None
    many = f"with {counted(documents, 'document', 'documents')}"
    if margin is not None:
        least = least_for_margin(connections - 1, margin)
        if documents >= least:
            return None
        return (
            f"{many} no model can be shown to be no worse within the margin of {_counted_points(margin)}: "
            f"that takes at least {least:,}, and more if scores differ"
        )
    smallest = detectable_points(documents) if documents >= least_for_difference(connections - 1) else None
    if smallest is not None and smallest <= POINTS_TO_SHOW:
        return None
    shown = (
        f"{many} no difference between models will show"
        if smallest is None
        else f"{many} only differences between models above about {_points(smallest)} will show"
    )
    needed = _documents_to_show(POINTS_TO_SHOW)
    points = _counted_points(POINTS_TO_SHOW)
    return shown if needed is None else f"{shown}; {points} take about {_rounded(needed):,} documents"


def least_for_margin(candidates: int, margin: float) -> int:
    """The fewest documents on which equal scores show a model to be no worse; see `statistics.margins`.

    So many documents without a difference say that a collapse to 0 affects less of all documents than the
    margin allows.
    """
    if margin >= 100:
        return 1
    return math.floor(math.log(SIGNIFICANT / candidates) / math.log(1 - margin / 100)) + 1


def detectable_points(documents: int) -> float | None:
    """The smallest difference between models that so many documents usually show, in points.

    None if they show no possible difference.

    Notes
    -----
    Within 4 % of `statistics.inference.detectable_difference` for the typical spread, and within 1 % from
    five documents on: the normal approximation with a correction for few pairs that was fitted to it. A
    test compares them. That function needs scipy, which takes a fifth of a second to load, and an apply is
    often repeated.
    """
    if documents < 3:
        return None
    return _NORMAL * TYPICAL_SPREAD / math.sqrt(documents) * (1 + 0.98 / (documents - 2.1))


def _documents_to_show(points: float) -> int | None:
    """The fewest documents that show a difference; None if even `_MOST_DOCUMENTS` do not."""
    low, high = 2, _MOST_DOCUMENTS
    smallest = detectable_points(high)
    if smallest is None or smallest > points:
        return None
    while low < high:
        middle = (low + high) // 2
        smallest = detectable_points(middle)
        if smallest is not None and smallest <= points:
            high = middle
        else:
            low = middle + 1
    return low


def _points(points: float) -> str:
    return _counted_points(round(points) if points >= 10 else round(points, 1))


def _counted_points(points: float) -> str:
    """A number of points with its noun."""
    return "1 point" if points == 1 else f"{points:g} points"


def _rounded(documents: int) -> int:
    """A number of documents with two significant digits."""
    return int(float(f"{documents:.2g}"))
