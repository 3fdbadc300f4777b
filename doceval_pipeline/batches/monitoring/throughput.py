"""How fast a batch is and when it will be done, from samples of its progress. Pure: no database, no clock."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from doceval_pipeline.doc_eval.progress import Sample
from doceval_pipeline.domain.findings import Interval
from doceval_pipeline.statistics.estimation import predict_time

# The rate of now is taken over this long, unless hardly anything was done in it.
RECENT_SECONDS = 1_800
FEW_CELLS = 10


@dataclass(frozen=True)
class Pace:
    """What the samples of a batch say.

    Rates are in cells an hour: over the recent past, and since work began after the batch was staged,
    reprocessed or resumed. `left` is in seconds, None where nothing is known. `still_for` says for how
    many seconds no number has changed.
    """

    recent_rate: float | None
    whole_rate: float | None
    left: Interval | None
    still_for: float

    def as_json(self) -> dict[str, Any]:
        """For `doceval status --json`; what is unbounded is null."""
        left = None if self.left is None else [_finite(self.left.low), _finite(self.left.high)]
        return {
            "cells_per_hour": _rounded(self.recent_rate),
            "cells_per_hour_since_begin": _rounded(self.whole_rate),
            "seconds_left": left,
            "seconds_unchanged": round(self.still_for),
        }

    def as_metadata(self) -> dict[str, float]:
        """Numbers under stable names, for Dagster; what is not known is absent."""
        found = {"cells_per_hour": self.recent_rate, "cells_per_hour_since_begin": self.whole_rate}
        if self.left is not None:
            bounds = asdict(self.left)
            found |= {f"seconds_left_{name}": _finite(value) for name, value in bounds.items()}
        return {name: round(value, 1) for name, value in found.items() if value is not None}


def pace_of(samples: Sequence[Sample], expected: int, *, cancelled: bool = False) -> Pace | None:
    """Read rates and the time left from samples, oldest first; None without any.

    Parameters
    ----------
    expected
        How many cells the batch must have.
    cancelled
        Whether a cancel closed rows: they were not worked on, and say nothing of a rate.
    """
    if not samples:
        return None
    if cancelled:
        return Pace(None, None, None, samples[-1].seconds_ago)
    work = _since_work_began(samples)
    recent = [sample for sample in work if sample.seconds_ago <= RECENT_SECONDS]
    if not recent or recent[-1].done - recent[0].done < FEW_CELLS:
        recent = work
    left = expected - samples[-1].done - samples[-1].reused
    held = samples[-1].paused > 0 or left <= 0
    return Pace(
        recent_rate=_rate(recent),
        whole_rate=_rate(work),
        left=None if held else _time_left(recent, left),
        still_for=samples[-1].seconds_ago,
    )


def _since_work_began(samples: Sequence[Sample]) -> list[Sample]:
    """The newest stretch in which nothing was held or begun anew, from its first movement on."""
    begin = len(samples) - 1
    while begin and not samples[begin - 1].paused and samples[begin - 1].done <= samples[begin].done:
        begin -= 1
    stretch = list(samples[begin:])
    for position, (sample, following) in enumerate(pairwise(stretch)):
        if sample.running or following.done > sample.done:
            return stretch[position:]
    return stretch[-1:]


def _rate(samples: Sequence[Sample]) -> float | None:
    done, seconds = samples[-1].done - samples[0].done, samples[0].seconds_ago
    return done / seconds * 3_600 if done > 0 and seconds > 0 else None


def _time_left(samples: Sequence[Sample], left: int) -> Interval | None:
    done, seconds = samples[-1].done - samples[0].done, samples[0].seconds_ago
    return predict_time(done, seconds, left, _dispersion(samples, done / seconds if seconds else 0))


def _dispersion(samples: Sequence[Sample], rate: float) -> float:
    """The variance of the counts between samples, in units of that of independent events.

    Pearson's statistic by its degrees of freedom (McCullagh and Nelder, Generalized Linear Models,
    section 6.2); never below 1.
    """
    stretches = [(b.done - a.done, a.seconds_ago - b.seconds_ago) for a, b in pairwise(samples)]
    stretches.append((0, samples[-1].seconds_ago))
    terms = [(done - rate * s) ** 2 / (rate * s) for done, s in stretches if s > 0 and rate > 0]
    return max(1.0, sum(terms) / (len(terms) - 1)) if len(terms) > 1 else 1.0


def _finite(value: float) -> float | None:
    return None if value == float("inf") else round(value, 1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
