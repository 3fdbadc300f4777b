"""A plain model of what a report says beyond counts, one cell at a time; see `plain`.

Which scores go into which figure is told here; what is computed of them is tested with `statistics`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise

from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.insights import (
    NOTHING,
    Agreement,
    Disagreement,
    Distribution,
    Insights,
    Standing,
)
from doceval_pipeline.domain.throughput import Stall, Throughput
from doceval_pipeline.domain.usage import Cost, ProcessingTime
from doceval_pipeline.reports.model import ReportColumn
from doceval_pipeline.statistics.inference import (
    clustered_estimate,
    corrected,
    difference,
    estimate,
    rank_correlation,
)
from doceval_pipeline_tests.reports import plain
from doceval_pipeline_tests.reports.plain import File, Row

DAY = timedelta(days=1)


def insights(
    files: Sequence[File],
    columns: Sequence[ReportColumn],
    rows: Sequence[Row],
    prices: Mapping[int, Prices] | None = None,
    stored_before: Sequence[int] = (),
) -> Insights:
    """Everything but what needs another batch, or Dagster.

    Parameters
    ----------
    prices
        By connection.
    stored_before
        Documents that were stored before the batch was staged.
    """
    now = plain.current(rows)
    staged = {f.document_id: f.size or 0 for f in files if f.state == "STAGED" and f.document_id is not None}
    scored = [row for row in now if row.outcome == "succeeded" and row.score is not None]
    finished = [row for row in now if row.outcome in ("succeeded", "failed")]
    standings = leaderboard(columns, now, len(staged))
    return replace(
        NOTHING,
        scores=clustered_estimate([row.score for row in scored], [row.document_id for row in scored]),
        leaderboard=standings,
        distributions=distributions(scored),
        disagreements=disagreements(files, scored),
        agreements=agreements(standings, scored),
        throughput=throughput(finished),
        costs=costs(finished, prices or {}),
        seconds=seconds(finished),
        reused=len(staged.keys() & {*stored_before}),
        content_bytes=sum(staged.values()),
        attempts=sorted(Counter(row.attempt for row in now).items()),
    )


def leaderboard(columns: Sequence[ReportColumn], now: Sequence[Row], contents: int) -> list[Standing]:
    listed = [(column.connection_id, column.prompt_id) for column in columns]
    keys = listed + sorted({row.key[1:] for row in now} - {*listed})
    scores = {key: _scores_of(key, now) for key in keys}

    def rank(key: Column) -> tuple[bool, float]:
        values = scores[key].values()
        return not values, -round(math.fsum(values) / len(values), 9) if values else 0.0

    keys.sort(key=rank)
    apart = {}
    for key in keys[1:]:
        shared = sorted(scores[keys[0]].keys() & scores[key].keys())
        if shared:
            pairs = ([scores[k][document] for document in shared] for k in (keys[0], key))
            apart[key] = difference(*pairs, resample=len(keys) <= 20)
    tested = dict(zip(apart, corrected([d for d in apart.values() if d is not None]), strict=True))
    return [
        Standing(
            column=key,
            scores=estimate(list(scores[key].values())),
            behind=tested.get(key),
            tied=key != keys[0] and bool(scores[key]) and not (key in tested and tested[key].told_apart),
            failed=failed,
            without_score=succeeded - len(scores[key]),
            without_result=max(contents, len(of)) - succeeded - failed,
        )
        for key in keys
        for of in ([row for row in now if row.key[1:] == key],)
        for succeeded in (sum(row.outcome == "succeeded" for row in of),)
        for failed in (sum(row.outcome == "failed" for row in of),)
    ]


def distributions(scored: Sequence[Row]) -> list[Distribution]:
    found = []
    for key in sorted({row.key[1:] for row in scored}):
        values = sorted(_scores_of(key, scored).values())
        bins = Counter(min(19, int(value // 5)) for value in values)
        quartiles = [percentile(values, share) for share in (0.25, 0.5, 0.75)]
        counts = tuple(bins[n] for n in range(20))
        found.append(Distribution(key, len(values), values[0], *quartiles, values[-1], counts))
    return found


def disagreements(files: Sequence[File], scored: Sequence[Row]) -> list[Disagreement]:
    worst: dict[int, Disagreement] = {}
    for document, prompt in sorted({(row.document_id, row.prompt_id) for row in scored}):
        scores = tuple(
            sorted(
                (row.connection_id, row.score)
                for row in scored
                if (row.document_id, row.prompt_id) == (document, prompt) and row.score is not None
            )
        )
        found = Disagreement(plain.document_name(files, document), document, prompt, scores)
        if _spread(found) > (_spread(worst[document]) if document in worst else 0):
            worst[document] = found
    return sorted(worst.values(), key=lambda d: (-_spread(d), d.document_id))[:20]


def agreements(standings: Sequence[Standing], scored: Sequence[Row]) -> list[Agreement]:
    best = list(dict.fromkeys(s.column[0] for s in standings if s.scores))[:12]
    found = []
    for first, second in combinations(sorted(best), 2):
        one, other = (
            {(row.document_id, row.prompt_id): row.score for row in scored if row.connection_id == connection}
            for connection in (first, second)
        )
        pairs = [
            (a, b)
            for key in sorted(one.keys() & other.keys())
            if (a := one[key]) is not None and (b := other[key]) is not None
        ]
        if pairs:
            distances = [round(abs(a - b), 9) for a, b in pairs]
            correlation = rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
            close = sum(distance <= 10 for distance in distances)
            mean = math.fsum(distances) / len(pairs)
            found.append(Agreement(first, second, len(pairs), correlation, mean, close))
    return found


def throughput(finished: Sequence[Row]) -> Throughput | None:
    latest = datetime.now(UTC) + DAY
    timed = [
        (math.floor(row.finished_at.timestamp()), math.floor(row.queued_at.timestamp()))
        for row in finished
        if row.finished_at is not None and row.queued_at - DAY <= row.finished_at <= latest
    ]
    if not timed:
        return None
    busy = sorted({second for second, _ in timed})
    length = busy[-1] - busy[0] + 1
    number = min(60, length)
    spans = Counter((second - busy[0]) * number // length for second, _ in timed)
    gaps = [later - earlier for earlier, later in pairwise(busy)]
    usual = sorted(gaps)[math.ceil(0.9 * len(gaps)) - 1] if gaps else 0
    stalls = []
    for later, gap in zip(busy[1:], gaps, strict=True):
        waited = later - min(queued for second, queued in timed if second >= later)
        if min(gap, waited) > max(60, 10 * usual):
            stalls.append(Stall(_time(later - min(gap, waited)), float(min(gap, waited))))
    shown = sorted(stalls, key=lambda stall: (-stall.seconds, stall.start))[:20]
    return Throughput(
        start=_time(busy[0]),
        bin_seconds=length / number,
        bins=tuple(spans[n] for n in range(number)),
        stalls=tuple(sorted(shown, key=lambda stall: stall.start)),
        without_time=len(finished) - len(timed),
        all_stalls=len(stalls),
    )


def costs(finished: Sequence[Row], prices: Mapping[int, Prices]) -> list[Cost]:
    found = []
    unpriced = sum(_cost(row, prices) is None for row in finished)
    for currency in sorted({price.currency for price in prices.values()}):
        of = [row for row in finished if _currency(row, prices) == currency]
        amounts = [cost for row in of if (cost := _cost(row, prices)) is not None]
        if amounts:
            found.append(Cost(math.fsum(amounts), currency, len(amounts), unpriced))
    return found


def seconds(finished: Sequence[Row]) -> ProcessingTime | None:
    values = sorted(row.seconds for row in finished if row.seconds is not None and row.seconds >= 0)
    return ProcessingTime(len(values), percentile(values, 0.5), percentile(values, 0.95)) if values else None


def percentile(values: Sequence[float], share: float) -> float:
    """Between the two nearest of sorted values, in proportion."""
    place = (len(values) - 1) * share
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _scores_of(key: Column, rows: Sequence[Row]) -> dict[int, float]:
    return {
        row.document_id: row.score
        for row in rows
        if row.key[1:] == key and row.outcome == "succeeded" and row.score is not None
    }


def _spread(disagreement: Disagreement) -> float:
    return round(disagreement.spread, 9)


def _time(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def _currency(row: Row, prices: Mapping[int, Prices]) -> str | None:
    price = prices.get(row.connection_id)
    return None if price is None else price.currency


def _cost(row: Row, prices: Mapping[int, Prices]) -> float | None:
    price = prices.get(row.connection_id)
    if price is None:
        return None
    cost = 0.0
    for tokens, per_million in (
        (row.input_tokens, price.input_per_million),
        (row.output_tokens, price.output_per_million),
    ):
        if per_million is None or (per_million and tokens is None):
            return None
        if per_million and tokens is not None:
            cost += tokens * per_million / 1e6
    return cost
