"""Warns of a batch with too few documents to tell its models apart."""

from doceval_pipeline.reports.formatting import counted

# Without a margin, a batch should show differences of this many points. About 75 documents do.
POINTS_TO_SHOW = 5.0
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
    wanted = POINTS_TO_SHOW if margin is None else margin
    if connections < 2 or not documents or _is_plenty(documents, wanted):
        return None
    smallest = detectable_points(documents)
    if smallest is not None and smallest <= wanted:
        return None
    many = f"with {counted(documents, 'document', 'documents')}"
    shown = (
        f"{many} no difference between models will show"
        if smallest is None
        else f"{many} only differences between models above about {_points(smallest)} will show"
    )
    needed = _documents_to_show(wanted)
    reason = _counted_points(wanted) + ("" if margin is None else ", the margin,")
    return shown if needed is None else f"{shown}; {reason} take about {_rounded(needed):,} documents"


def detectable_points(documents: int) -> float | None:
    """The smallest difference between models that so many documents usually show, in points.

    None if they show no possible difference.
    """
    # numpy and scipy take a fifth of a second to load.
    from doceval_pipeline.statistics.inference import TYPICAL_SPREAD, detectable_difference

    return detectable_difference(documents, TYPICAL_SPREAD)


def _is_plenty(documents: int, points: float) -> bool:
    """Whether so many documents surely show a difference, by a bound that needs no library.

    A t test of 20 or more pairs finds a difference of 3 standard errors with more than 80 % power; 20 points
    is above every plausible spread of differences.
    """
    return documents >= 20 and 3 * 20.0 / documents**0.5 <= points


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
