"""Throughput and remaining time of a batch, from samples of its progress. Pure: no database, no clock."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from doceval_pipeline.doc_eval.progress import ProgressSample
from doceval_pipeline.domain.findings import Interval
from doceval_pipeline.statistics.estimation import predict_time

# The recent rate covers this much time, unless fewer than FEW_CELLS evaluations were done in it.
RECENT_SECONDS = 1_800
FEW_CELLS = 10
# A prediction that reaches further shows only that nothing was processed for long.
LONGEST_PREDICTION_SECONDS = 366 * 86_400


@dataclass(frozen=True)
class BatchThroughput:
    """How fast a batch progresses, from its samples."""

    recent_rate: float | None
    """Evaluations per hour in the recent past."""
    rate_since_start: float | None
    """Evaluations per hour since work began after the batch was staged, reprocessed or resumed."""
    seconds_left: Interval | None
    """None if it cannot be predicted."""
    seconds_unchanged: float
    """Seconds since any count of the batch last changed."""

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval status --json` prints; an infinite bound is null."""
        left = (
            None
            if self.seconds_left is None
            else [_finite(self.seconds_left.low), _finite(self.seconds_left.high)]
        )
        return {
            "cells_per_hour": _rounded(self.recent_rate),
            "cells_per_hour_since_begin": _rounded(self.rate_since_start),
            "seconds_left": left,
            "seconds_unchanged": round(self.seconds_unchanged),
        }

    def as_metadata(self) -> dict[str, float]:
        """Metadata for Dagster, under stable names; unknown values are absent."""
        values = {"cells_per_hour": self.recent_rate, "cells_per_hour_since_begin": self.rate_since_start}
        if self.seconds_left is not None:
            bounds = asdict(self.seconds_left)
            values |= {f"seconds_left_{name}": _finite(value) for name, value in bounds.items()}
        return {name: round(value, 1) for name, value in values.items() if value is not None}


def measure_throughput(
    samples: Sequence[ProgressSample], expected: int, *, cancelled: bool = False
) -> BatchThroughput | None:
    """The throughput that samples, oldest first, show; None without samples.

    Parameters
    ----------
    expected
        How many evaluations the batch must have.
    cancelled
        Whether a cancellation closed rows. No processor worked on them, so no rate can be computed.
    """
    if not samples:
        return None
    if cancelled:
        return BatchThroughput(None, None, None, samples[-1].seconds_ago)
    work = _since_work_began(samples)
    recent = [sample for sample in work if sample.seconds_ago <= RECENT_SECONDS]
    if not recent or recent[-1].processed - recent[0].processed < FEW_CELLS:
        recent = work
    left = expected - samples[-1].cells.done
    is_held = samples[-1].cells.paused > 0 or left <= 0
    return BatchThroughput(
        recent_rate=_rate(recent),
        rate_since_start=_rate(work),
        seconds_left=None if is_held else _time_left(recent, left),
        seconds_unchanged=samples[-1].seconds_ago,
    )


def _since_work_began(samples: Sequence[ProgressSample]) -> list[ProgressSample]:
    """The newest samples without a hold or a restart, from the first one that shows progress."""
    begin = len(samples) - 1
    while begin:
        before, after = samples[begin - 1], samples[begin]
        if before.cells.paused or before.processed > after.processed:
            break
        begin -= 1
    stretch = list(samples[begin:])
    for position, (sample, following) in enumerate(pairwise(stretch)):
        if sample.cells.running or following.processed > sample.processed:
            return stretch[position:]
    return stretch[-1:]


def _rate(samples: Sequence[ProgressSample]) -> float | None:
    done, seconds = samples[-1].processed - samples[0].processed, samples[0].seconds_ago
    return done / seconds * 3_600 if done > 0 and seconds > 0 else None


def _time_left(samples: Sequence[ProgressSample], left: int) -> Interval | None:
    done, seconds = samples[-1].processed - samples[0].processed, samples[0].seconds_ago
    dispersion = _dispersion(samples, done / seconds if seconds else 0)
    # Bursts and pauses this uneven are worth less than half an independent event.
    if done < dispersion / 2:
        return None
    predicted = predict_time(done, seconds, left, dispersion)
    return predicted if predicted is not None and predicted.high <= LONGEST_PREDICTION_SECONDS else None


def _dispersion(samples: Sequence[ProgressSample], rate: float) -> float:
    """The variance of the counts between samples, in units of that of independent events.

    Pearson's statistic by its degrees of freedom (McCullagh and Nelder, Generalized Linear Models,
    section 6.2); never below 1.
    """
    stretches = [(b.processed - a.processed, a.seconds_ago - b.seconds_ago) for a, b in pairwise(samples)]
    stretches.append((0, samples[-1].seconds_ago))
    terms = [(done - rate * s) ** 2 / (rate * s) for done, s in stretches if s > 0 and rate > 0]
    return max(1.0, sum(terms) / (len(terms) - 1)) if len(terms) > 1 else 1.0


def _finite(value: float) -> float | None:
    return None if value == float("inf") else round(value, 1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
