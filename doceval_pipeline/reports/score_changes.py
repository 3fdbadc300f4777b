"""How scores moved from one column to another: which documents rose and fell, and who moved most."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.reports.insights import Flip, Movement
from doceval_pipeline.statistics.inference import difference

THRESHOLD = 50.0
"""The score from which on a document counts as good, unless somebody says another."""
FLIPS_SHOWN = 20

Values = NDArray[np.float64]


def movement(
    name_of: Callable[[int], str],
    documents: NDArray[np.int64],
    first: Values,
    second: Values,
    threshold: float = THRESHOLD,
    resample: bool = True,
) -> Movement | None:
    """How the scores of documents moved from `first` to `second`.

    Parameters
    ----------
    name_of
        Gives a document's name; called only for `most_moved` of them.
    documents, first, second
        Ids of documents, and their scores on both sides by position; NaN where there is none.
    threshold
        A score of it or more is good; a document that is good on one side alone has flipped.
    resample
        As of `difference`.

    Returns
    -------
    Movement | None
        None where no document has both scores. Its difference's p is not corrected.
    """
    has_first, has_second = ~np.isnan(first), ~np.isnan(second)
    both = has_first & has_second
    before, after = first[both], second[both]
    found = difference(before, after, resample)
    if found is None:
        return None
    # Of what is written alike, nothing moved: 70.1 and 70.10000000000001 are the same score.
    moves = np.round(after - before, 9)
    was_good, is_good = before >= threshold, after >= threshold
    shown = _largest(documents[both], moves)
    return Movement(
        difference=found,
        rose=int(np.count_nonzero(moves > 0)),
        fell=int(np.count_nonzero(moves < 0)),
        same=int(np.count_nonzero(moves == 0)),
        net=found.mean,
        gross=float(np.abs(moves).mean()),
        threshold=threshold,
        flipped_up=int(np.count_nonzero(~was_good & is_good)),
        flipped_down=int(np.count_nonzero(was_good & ~is_good)),
        flips=tuple(
            Flip(name_of(int(documents[both][place])), float(before[place]), float(after[place]))
            for place in shown
        ),
        only_first=int(np.count_nonzero(has_first & ~has_second)),
        only_second=int(np.count_nonzero(~has_first & has_second)),
    )


def most_moved(documents: NDArray[np.int64], first: Values, second: Values) -> list[int]:
    """The documents that `movement` names, so that their names can be read before, all at once."""
    both = ~(np.isnan(first) | np.isnan(second))
    ids = documents[both]
    return [int(ids[place]) for place in _largest(ids, np.round((second - first)[both], 9))]


def _largest(documents: NDArray[np.int64], moves: Values) -> list[int]:
    """Where the largest moves are, at most `FLIPS_SHOWN`; of equal ones those of the first documents."""
    order = np.lexsort((documents, -np.abs(moves)))[:FLIPS_SHOWN]
    return [int(place) for place in order if moves[place] != 0]
