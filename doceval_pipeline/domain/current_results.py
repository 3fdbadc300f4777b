"""The current results of a batch, and what a report counts of them.

PostgreSQL reads its rows once and returns them in parts that are alike; everything here is made from those.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.evaluations import CellCounts, Outcome
from doceval_pipeline.domain.results import ResultSums, ScoreSummary, Total
from doceval_pipeline.domain.scores import Scores, ScoreState
from doceval_pipeline.domain.usage import ProcessingTime, TokenUsage

# Bins of equal width from 0 to 100; 100 itself is in the last. Scores are compared with their edges: a
# division fails on the smallest scores.
HISTOGRAM_BINS = 10
_EDGES = np.arange(1, HISTOGRAM_BINS) * 100 / HISTOGRAM_BINS
# Decimals that `decimal_sum` adds up exactly.
_DECIMALS = 6
_FINISHED = (Outcome.SUCCEEDED, Outcome.FAILED)
_STATES = {Outcome.SUCCEEDED: ScoreState.WITHOUT_SCORE, Outcome.FAILED: ScoreState.FAILED}

Values = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ResultPart:
    """Results of one column that are alike in outcome, in reuse, and in which tokens they report."""

    column: Column
    outcome: str
    """A word of `Outcome`."""
    is_reused: bool
    has_input: bool
    has_output: bool
    simulated: int
    reprocessed: int
    """Results that have an earlier attempt."""
    input_tokens: int
    output_tokens: int
    documents: Ids
    """`docs.id` of each result; the arrays below are in the same order."""
    scores: Values
    """NaN without a score. Those of other outcomes than succeeded mean nothing."""
    origins: Ids
    """As in `Scores`."""
    seconds: Values
    """NaN where the processor reports none."""

    @property
    def cells(self) -> int:
        """The number of results."""
        return self.documents.size

    @property
    def is_asked(self) -> bool:
        """Whether they are finished and not reused."""
        return self.outcome in _FINISHED and not self.is_reused

    @property
    def known_scores(self) -> Values:
        """The scores of succeeded results that have one."""
        return _known(self.scores) if self.outcome == Outcome.SUCCEEDED else np.empty(0)


@dataclass(frozen=True, slots=True)
class CurrentResults:
    """The scores of a batch, the sums of all results and of each column, and what they used."""

    scores: Scores
    total: ResultSums
    columns: dict[Column, ResultSums]
    tokens: list[TokenUsage]
    """Of finished evaluations, by column and reported tokens; reused results used nothing."""
    times: dict[Column | None, ProcessingTime]
    """Of successful evaluations by column, because a model that fails fast is not fast; under None, of all
    finished ones. A column without reported durations is left out."""

    @classmethod
    def of(cls, parts: Sequence[ResultPart]) -> "CurrentResults":
        """From all parts of a batch, ordered by column."""
        return cls(
            scores=score_table(parts),
            total=_sums(parts),
            columns={column: _sums(own) for column, own in _by_column(parts).items()},
            tokens=_token_usage(parts),
            times=_processing_times(parts),
        )


def score_table(parts: Sequence[ResultPart]) -> Scores:
    """The table of the results of a batch, from all parts, ordered by column."""
    by_column = _by_column(parts)
    ids = [part.documents for part in parts]
    documents = np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)
    shape = (documents.size, len(by_column))
    values, states = np.full(shape, np.nan), np.full(shape, ScoreState.ABSENT, np.uint8)
    origins = np.zeros(shape, np.int64)
    for place, own in enumerate(by_column.values()):
        for part in own:
            rows = np.searchsorted(documents, part.documents)
            states[rows, place] = _STATES.get(Outcome(part.outcome), ScoreState.OPEN)
            origins[rows, place] = part.origins
            if part.outcome == Outcome.SUCCEEDED:
                values[rows, place] = part.scores
    states[~np.isnan(values)] = ScoreState.SCORED
    simulated = tuple(sum(part.simulated for part in own) for own in by_column.values())
    return Scores(documents, tuple(by_column), values, states, origins, simulated)


def decimal_sum(values: Values) -> float:
    """The sum of decimals such as 0.1, as if their text were added up; none of them is negative."""
    scaled = values * 10.0**_DECIMALS
    whole = np.rint(scaled)
    is_decimal = bool((np.abs(scaled - whole) <= 1e-15 * whole).all())
    if is_decimal and np.abs(whole).sum() < 2**62:
        return float(int(whole.astype(np.int64).sum()) / 10**_DECIMALS)
    return math.fsum(values)


def _by_column(parts: Iterable[ResultPart]) -> dict[Column, list[ResultPart]]:
    found: defaultdict[Column, list[ResultPart]] = defaultdict(list)
    for part in parts:
        found[part.column].append(part)
    return dict(found)


def _sums(parts: Sequence[ResultPart]) -> ResultSums:
    cells = {str(outcome): 0 for outcome in Outcome}
    for part in parts:
        cells[part.outcome] += part.cells
    # A reused result used nothing in its batch, whatever its row says.
    own = [part for part in parts if not part.is_reused]
    seconds = _together([_known(part.seconds) for part in own])
    return ResultSums(
        cells=CellCounts(reused=sum(part.cells for part in parts if part.is_reused), **cells),
        scores=_summary(_together([part.known_scores for part in parts])),
        input_tokens=_total([(part.input_tokens, part.cells) for part in own if part.has_input]),
        output_tokens=_total([(part.output_tokens, part.cells) for part in own if part.has_output]),
        seconds=Total(decimal_sum(seconds), seconds.size) if seconds.size else None,
        simulated=sum(part.simulated for part in parts),
        reprocessed=sum(part.reprocessed for part in parts),
    )


def _summary(scores: Values) -> ScoreSummary | None:
    if not scores.size:
        return None
    bins = np.bincount(np.searchsorted(_EDGES, scores, side="right"), minlength=HISTOGRAM_BINS)
    return ScoreSummary(
        n=scores.size,
        mean=decimal_sum(scores) / scores.size,
        median=float(np.median(scores)),
        minimum=float(scores.min()),
        maximum=float(scores.max()),
        histogram=tuple(bins.tolist()),
    )


def _total(parts: Sequence[tuple[int, int]]) -> Total | None:
    return Total(sum(tokens for tokens, _ in parts), sum(cells for _, cells in parts)) if parts else None


def _token_usage(parts: Iterable[ResultPart]) -> list[TokenUsage]:
    found: defaultdict[tuple[Column, bool, bool], list[ResultPart]] = defaultdict(list)
    for part in parts:
        if part.is_asked:
            found[part.column, part.has_input, part.has_output].append(part)
    return [
        TokenUsage(
            connection_id=column[0],
            prompt_id=column[1],
            has_input=has_input,
            has_output=has_output,
            cells=sum(part.cells for part in own),
            input_tokens=sum(part.input_tokens for part in own),
            output_tokens=sum(part.output_tokens for part in own),
        )
        for (column, has_input, has_output), own in sorted(found.items(), key=lambda item: item[0])
    ]


def _processing_times(parts: Sequence[ResultPart]) -> dict[Column | None, ProcessingTime]:
    asked = [part for part in parts if part.is_asked]
    succeeded = [part for part in asked if part.outcome == Outcome.SUCCEEDED]
    samples: list[tuple[Column | None, list[ResultPart]]] = [(None, asked), *_by_column(succeeded).items()]
    seconds = {column: _together([_known(part.seconds) for part in own]) for column, own in samples}
    return {
        column: ProcessingTime(own.size, *_quantiles(own, (0.5, 0.95)))
        for column, own in seconds.items()
        if own.size
    }


def _quantiles(values: Values, shares: Sequence[float]) -> list[float]:
    """Quantiles between neighbours, as PostgreSQL's percentile_cont computes them."""
    places = [share * (values.size - 1) for share in shares]
    ends = [(math.floor(place), math.ceil(place)) for place in places]
    ordered = np.partition(values, sorted({end for pair in ends for end in pair}))
    return [
        float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
        for place, (low, high) in zip(places, ends, strict=True)
    ]


def _known(values: Values) -> Values:
    known: Values = values[~np.isnan(values)]
    return known


def _together(arrays: Sequence[Values]) -> Values:
    return np.concatenate(arrays) if arrays else np.empty(0)
