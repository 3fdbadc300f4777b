"""Sample reports, made by hand and by plain formulas: small ones, full ones and hostile ones.

Their figures are plausible and consistent; `batches/results` tests that those of a real batch are right.
"""

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import numpy as np

from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import Conclusion, Difference, Estimate, MarginTest
from doceval_pipeline.domain.insights import (
    NOTHING,
    Agreement,
    BatchCounts,
    BelowThreshold,
    ColumnChanges,
    Disagreement,
    Distribution,
    Insights,
    LowDocument,
    NearScore,
    PromptLeaderboard,
    Provenance,
    SincePrevious,
    Standing,
)
from doceval_pipeline.domain.results import Total
from doceval_pipeline.domain.score_changes import ScoreChanges, ScoreShift
from doceval_pipeline.domain.throughput import Stall, Throughput
from doceval_pipeline.domain.usage import ColumnUsage, Cost, ProcessingTime
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import GROUPS_SHOWN
from doceval_pipeline.reports.model import ReportColumn, ReportInput
from doceval_pipeline.reports.standings import RankingInput, rank_models
from doceval_pipeline_tests.reports import reference_model
from doceval_pipeline_tests.reports.reference_model import File, Row

STARTED = reference_model.QUEUED
# As many as a report compares with another batch.
COLUMNS_COMPARED = 20
# Taken for more than text, each would run, load, link or reorder something.
HOSTILE = (
    "<script>window.ran = 1; document.title = 'ran'</script>",
    '"><img src="http://evil.invalid/a.png" onerror="window.ran = 1">',
    "' onmouseover='window.ran = 1' x='",
    "</style></title></pre></details><iframe src='http://evil.invalid/'></iframe>",
    "<svg onload=window.ran=1><a xlink:href='javascript:window.ran=1'>x</a></svg>",
    "![x](http://evil.invalid/b.png) [y](javascript:window.ran=1) <http://evil.invalid>",
    "www.evil.invalid https://evil.invalid/c mailto:a@evil.invalid `code` | cell | **bold**",
    "{{ 7 * 7 }} {% raw %} {# gone #} &lt;b&gt; &#60;",
    "invoice\u202efdp.exe \u2066x\u2069 zero\u200bwidth \ufeff",
    "nul\x00 \x1b[31mred\x1b[0m \x07 \x9b31m \x7f lone \udc80",
    "line one\nline two\ttabbed\rreturned",
    "-->]]><!-- <meta http-equiv=refresh content='0;url=http://evil.invalid/'><base href='http://evil.invalid/'>",
)


def document(number: int = 1, **changes: Any) -> File:
    """A staged file of 2,000 bytes."""
    values: dict[str, Any] = {
        "name": f"file-{number}.pdf",
        "folder": "/data/contracts",
        "state": "STAGED",
        "reason": None,
        "size": 2_000,
        "document_id": number,
    }
    return File(**(values | changes))


def skipped(name: str, reason: str | None = "hidden", state: str = "SKIPPED") -> File:
    """A file that is left out."""
    return document(name=name, state=state, reason=reason, document_id=None)


def column(connection: int = 1, prompt: int = 1) -> ReportColumn:
    """A column, named after its ids."""
    return ReportColumn(connection, f"model-{connection}", prompt, f"prompt-{prompt}")


def cell(document_id: int = 1, connection: int = 1, prompt: int = 1, **changes: Any) -> Row:
    """A succeeded cell with a score of 80, 100 tokens in, 10 out, and one second."""
    values: dict[str, Any] = {
        "document_id": document_id,
        "connection_id": connection,
        "prompt_id": prompt,
        "attempt": 1,
        "outcome": "succeeded",
        "status": "S",
        "score": 80.0,
        "error": None,
        "response_text": "Clear and complete.",
        "input_tokens": 100,
        "output_tokens": 10,
        "seconds": 1.0,
        "simulated": False,
    }
    return Row(**(values | changes))


def failed(document_id: int = 1, error: str | None = "overloaded", **changes: Any) -> Row:
    """A failed cell that reports only its message."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("score", "response_text", "input_tokens", "output_tokens", "seconds")
    )
    return cell(document_id, **(nothing | {"outcome": "failed", "status": "F", "error": error} | changes))


def report_input(
    files: Sequence[File] = (), columns: Sequence[ReportColumn] = (), rows: Sequence[Row] = (), **changes: Any
) -> ReportInput:
    """A report that expects a cell for each document in each column.

    Its `insights` are empty; `with_insights` computes them from the same files and cells.
    """
    now = reference_model.current(rows)
    failures = reference_model.failures(now, reference_model.sizes_of(files))
    contents = len({f.document_id for f in files if f.state == "STAGED" and f.document_id is not None})
    column_sums = reference_model.column_sums(now)
    all_columns = column_sums.keys() | {(c.connection_id, c.prompt_id) for c in columns}
    shown, rows_total = reference_model.matrix_rows(files, now, len(all_columns))
    values: dict[str, Any] = {
        "version": 4,
        "partition_key": "batch-000070",
        "batch_id": 70,
        "name": "contracts-q4",
        "status": "COMPLETED",
        "description": None,
        "created_at": STARTED,
        "started_at": STARTED,
        "completed_at": STARTED + timedelta(minutes=12, seconds=30),
        "expected_cells": contents * len(columns),
        "files": dict(Counter(file.state for file in files)),
        "contents": contents,
        "labels": reference_model.labels(files),
        "not_evaluated": reference_model.not_evaluated(files),
        "columns": columns,
        "total": reference_model.sums(now),
        "column_sums": column_sums,
        "failure_messages": len(failures),
        "failures": failures[:GROUPS_SHOWN],
        "changes": reference_model.shown_changes(rows),
        "rows_total": rows_total,
        "rows": shown,
        "cells": reference_model.cells(shown, now),
        "config": {"prompts": [{"id": 1, "name": "prompt-1", "text": "Score the clarity."}]},
        "config_sha256": "c0ffee" * 10 + "0000",
        "digest": "0123456789abcdef",
        "versions": {"doceval_pipeline": "0.1.0"},
        "insights": NOTHING,
    }
    return ReportInput(**(values | changes))


def with_insights(
    files: Sequence[File] = (), columns: Sequence[ReportColumn] = (), rows: Sequence[Row] = (), **changes: Any
) -> ReportInput:
    """A report with computed insights; `changes` replace parts of them, such as `previous`."""
    found = reference_model.insights(files, columns, rows)
    return report_input(files, columns, rows, insights=replace(found, **changes))


def hostile_input() -> ReportInput:
    """Every foreign text is hostile, wherever a text may be."""
    count = len(HOSTILE)
    documents = [document(n, name=text, folder=text) for n, text in enumerate(HOSTILE)]
    documents += [document(0, name="twin " + HOSTILE[0])]
    documents += [skipped(text, reason=text) for text in HOSTILE]
    columns = [ReportColumn(n, text, n, text) for n, text in enumerate(HOSTILE)]
    cells = [cell(n, 0, 0, response_text=text, status=text) for n, text in enumerate(HOSTILE)]
    cells += [failed(n, text, connection=1, prompt=1, status=text) for n, text in enumerate(HOSTILE)]
    cells += [cell(n, 2, 2, outcome=text, status=text, error=text) for n, text in enumerate(HOSTILE)]
    return report_input(
        documents,
        columns,
        cells,
        name=" ".join(HOSTILE),
        description="\n".join(HOSTILE),
        status=HOSTILE[0],
        partition_key="batch-000070" + HOSTILE[1],
        expected_cells=count * count,
        config={"prompts": [{"name": t, "text": t} for t in HOSTILE], "batch": {t: t for t in HOSTILE}},
        config_sha256=HOSTILE[0],
        digest=HOSTILE[1],
        versions={HOSTILE[0]: HOSTILE[1]},
    )


MODELS = ("gpt-4o", "claude-sonnet", "llama-70b", "mistral-large", "qwen-72b")
PROMPTS = ("clarity", "completeness", "tone", "risk", "summary")
RESPONSES = (
    "The document states its purpose in the first paragraph and keeps to it. Terms are defined where they "
    "are first used, and every obligation names who owes it and by when.",
    "Clear on the whole. Section 4 contradicts section 2 about the notice period, which a reader has to "
    "notice by themselves.",
    '{"score": 61, "reasons": ["long sentences", "two undefined terms"], "confidence": "medium"}',
    "Hard to follow: the annex carries the essential conditions, and the main text does not point to it.",
)
# Names that run from right to left, join, combine, or are long.
NAMES = (
    "عقد الإيجار ٢٠٢٦.pdf",
    "חוזה שכירות – סופי.docx",
    "合同审查_第三季度.pdf",
    "契約書（最終版）.pdf",
    "отчёт за год.txt",
    "résumé à vérifier.odt",
    "👩‍👩‍👧‍👦 family 🧾.png",
    "हिन्दी दस्तावेज़.pdf",
    "a-very-long-name-" + "x" * 180 + ".pdf",
)


def scores(rows: Sequence[Row], key: Column | None = None) -> dict[int, float]:
    """The scores of a column by document, or of all cells by position."""
    now = reference_model.current(rows)
    found = [row for row in now if row.known_outcome == "succeeded" and row.score is not None]
    if key is None:
        return {place: row.score for place, row in enumerate(found) if row.score is not None}
    return {row.document_id: row.score for row in found if row.key[1:] == key and row.score is not None}


def estimate(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    mean = statistics.fmean(values)
    half = _half(values)
    return Estimate(len(values), mean, *((None, None) if half is None else (mean - half, mean + half)))


def difference(first: dict[int, float], second: dict[int, float]) -> Difference | None:
    """Second minus first, of the documents that both have."""
    values = [second[id_] - first[id_] for id_ in first.keys() & second.keys()]
    if not values:
        return None
    mean, half = statistics.fmean(values), _half(values)
    if half is None:
        return Difference(len(values), mean, None, None, None, None)
    p = math.erfc(abs(mean) / (half / 1.96) / math.sqrt(2))
    return Difference(len(values), mean, mean - half, mean + half, p, half / 1.96 * 2.8)


def _half(values: Sequence[float]) -> float | None:
    """Half of the interval; equal values have none."""
    return None if len(set(values)) < 2 else 1.96 * statistics.stdev(values) / math.sqrt(len(values))


Price = tuple[float, float, str]
"""Per million tokens in and out, and the currency."""
PRICES: dict[int, Price] = {1: (2.5, 10.0, "USD"), 2: (3.0, 15.0, "USD"), 3: (0.1, 0.4, "USD")}


@dataclass(frozen=True)
class Wanted:
    """What a batch was asked for: prices by connection, thresholds and weights by prompt, and a margin."""

    prices: Mapping[int, Price]
    thresholds: Mapping[int, float]
    weights: Mapping[int, float]
    margin: float | None


USUAL = Wanted(PRICES, {}, {}, None)


def insights_of(
    files: Sequence[File], columns: Sequence[ReportColumn], rows: Sequence[Row], wanted: Wanted = USUAL
) -> Insights:
    """Insights by plain formulas: the previous batch scored 4 points less, and the work stalled once."""
    now = reference_model.current(rows)
    keys = [(c.connection_id, c.prompt_id) for c in columns]
    names = {file.document_id: file.name for file in reversed(files) if file.document_id is not None}
    by_column = {key: scores(rows, key) for key in keys}
    prompts = dict.fromkeys(prompt for _, prompt in keys)
    boards = [_leaderboard(prompt, by_column, now, len(names), wanted) for prompt in prompts]
    return Insights(
        scores=estimate([*scores(rows).values()]),
        leaderboards=boards,
        distributions=[_distribution(key, values) for key, values in by_column.items() if values],
        disagreements=_disagreements(names, by_column),
        agreements=_agreements(by_column),
        previous=_previous(names, by_column),
        costs=_costs(now, wanted.prices),
        seconds=_seconds(now),
        counts=BatchCounts(
            throughput=_throughput(now),
            reused=len(names) // 3,
            content_bytes=sum({f.document_id: f.size or 0 for f in files}.values()),
            attempts=sorted(Counter(row.attempt for row in now).items()),
        ),
        provenance=Provenance(_RUNS),
        overall=_overall(by_column, boards, wanted) if len(wanted.weights) > 1 else None,
        below_thresholds=[
            _below(prompt, threshold, names, by_column) for prompt, threshold in wanted.thresholds.items()
        ],
        margin=wanted.margin,
    )


_RUNS = (
    *(
        (asset, "0badcafe-1f2e-4d3c-8b9a-0123456789ab")
        for asset in ("batch_config_snapshot", "document_assignment", "encoded_documents", "queue_rows")
    ),
    ("completion_report", "0badf00d-1f2e-4d3c-8b9a-0123456789ab"),
)


def leaderboards_of(
    files: Sequence[File],
    columns: Sequence[ReportColumn],
    rows: Sequence[Row],
    prices: Mapping[int, Prices] | None = None,
) -> Sequence[PromptLeaderboard]:
    """The leaderboards of files and cells, as a report of them has them."""
    keys = [(c.connection_id, c.prompt_id) for c in columns]
    documents = sorted({row.document_id for row in rows})
    by_column = {key: scores(rows, key) for key in keys}
    values = [[by_column[key].get(id_, math.nan) for key in keys] for id_ in documents]
    given = RankingInput(
        columns=keys,
        values=np.array(values).reshape(len(documents), len(keys)),
        usage=reference_model.column_usage(reference_model.current(rows), prices or {}),
    )
    return rank_models(figures(report_input(files, columns, rows)).columns, given).by_prompt


def _leaderboard(
    prompt: int, by_column: dict[Column, dict[int, float]], now: Sequence[Row], contents: int, wanted: Wanted
) -> PromptLeaderboard:
    """The models under one prompt, compared on the documents that both scored."""
    of_prompt = {connection: found for (connection, p), found in by_column.items() if p == prompt}
    ranked = sorted(of_prompt, key=lambda c: -statistics.fmean([*of_prompt[c].values()] or [-1.0]))
    found: list[Standing] = []
    for connection in ranked:
        rows = [row for row in now if row.key[1:] == (connection, prompt)]
        outcomes = Counter(row.known_outcome for row in rows)
        standing = replace(
            _standing(connection, ranked, of_prompt),
            failed=outcomes["failed"],
            without_score=outcomes["succeeded"] - len(of_prompt[connection]),
            without_result=max(contents, len(rows)) - outcomes["failed"] - outcomes["succeeded"],
            simulated=sum(row.simulated for row in rows),
            usage=_usage(rows, wanted.prices.get(connection)),
        )
        found.append(replace(standing, margin_test=_margin_test(standing, found, wanted.margin)))
    scored = [found.keys() for found in of_prompt.values() if found]
    return PromptLeaderboard(prompt, found, is_same_documents=all(keys == scored[0] for keys in scored))


def _standing(connection: int, ranked: Sequence[int], scored: Mapping[int, dict[int, float]]) -> Standing:
    leads = connection == ranked[0]
    against = next((c for c in ranked[leads : leads + 1] if scored[c] and scored[connection]), None)
    found = None if against is None else difference(scored[against], scored[connection])
    tied = not leads and bool(scored[connection]) and not (found is not None and found.told_apart)
    return Standing(connection, estimate([*scored[connection].values()]), against, found, tied, 0, 0, 0)


def _usage(rows: Sequence[Row], price: Price | None) -> ColumnUsage:
    """What finished evaluations used, as they report it."""
    finished = [row for row in rows if row.known_outcome in ("succeeded", "failed")]
    cost = None
    priced = [row for row in finished if row.input_tokens is not None and row.output_tokens is not None]
    if price is not None and priced:
        amount = sum(
            ((row.input_tokens or 0) * price[0] + (row.output_tokens or 0) * price[1]) / 1e6 for row in priced
        )
        cost = Cost(amount, price[2], len(priced), len(finished) - len(priced))
    tokens = [
        Total(sum(values), len(values)) if values else None
        for values in (
            [row.input_tokens for row in finished if row.input_tokens is not None],
            [row.output_tokens for row in finished if row.output_tokens is not None],
        )
    ]
    return ColumnUsage(len(finished), *tokens, _seconds(finished), cost)


def _margin_test(standing: Standing, better: Sequence[Standing], margin: float | None) -> MarginTest | None:
    """Of a cheaper or faster model, by its interval."""
    found = standing.difference
    if margin is None or not better or found is None or found.low is None or found.high is None:
        return None
    if not (standing.usage.is_cheaper(better[0].usage) or standing.usage.is_faster(better[0].usage)):
        return None
    if found.low > -margin:
        return MarginTest(margin, Conclusion.NO_WORSE, None)
    if found.high < -margin:
        return MarginTest(margin, Conclusion.WORSE, None)
    return MarginTest(margin, Conclusion.UNKNOWN, 40)


def _overall(
    by_column: dict[Column, dict[int, float]], boards: Sequence[PromptLeaderboard], wanted: Wanted
) -> PromptLeaderboard:
    """The weighted mean of each document that has a score under every weighted prompt."""
    total = sum(wanted.weights.values())
    scored: dict[int, dict[int, float]] = {}
    for connection in {c for c, _ in by_column}:
        of_prompts = {prompt: by_column[connection, prompt] for prompt in wanted.weights}
        shared = set.intersection(*(set(values) for values in of_prompts.values()))
        scored[connection] = {
            id_: sum(of_prompts[prompt][id_] * weight for prompt, weight in wanted.weights.items()) / total
            for id_ in shared
        }
    ranked = sorted(scored, key=lambda c: -statistics.fmean([*scored[c].values()] or [-1.0]))
    return PromptLeaderboard(
        None,
        [
            replace(
                _standing(connection, ranked, scored), usage=_usage_of_weighted(connection, boards, wanted)
            )
            for connection in ranked
        ],
        is_same_documents=False,
        weights=tuple(wanted.weights.items()),
    )


def _usage_of_weighted(connection: int, boards: Sequence[PromptLeaderboard], wanted: Wanted) -> ColumnUsage:
    """The cost of a document under all weighted prompts."""
    costs = [
        standing.usage.cost
        for board in boards
        for standing in board.standings
        if board.prompt_id in wanted.weights and standing.connection_id == connection
    ]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return ColumnUsage()
    documents = max(cost.cells for cost in known)
    amount = documents * sum(cost.per_document for cost in known)
    return ColumnUsage(documents, cost=Cost(amount, known[0].currency, documents, 0))


def _below(
    prompt: int, threshold: float, names: Mapping[int, str], by_column: dict[Column, dict[int, float]]
) -> BelowThreshold:
    of_prompt = {connection: found for (connection, p), found in by_column.items() if p == prompt}
    low = []
    for id_, name in names.items():
        found = tuple((c, values[id_]) for c, values in of_prompt.items() if id_ in values)
        if any(score < threshold for _, score in found):
            low.append(LowDocument(name, id_, found))
    low.sort(key=lambda d: (-sum(s < threshold for _, s in d.scores), min(s for _, s in d.scores)))
    near = [
        NearScore(
            names[id_], id_, c, score, Estimate(3, score - 1, score - 4, score + 2) if id_ % 2 else None
        )
        for c, values in of_prompt.items()
        for id_, score in values.items()
        if abs(score - threshold) < 2
    ]
    near.sort(key=lambda n: abs(n.score - threshold))
    return BelowThreshold(
        prompt,
        threshold,
        documents=len(low),
        scored=len({id_ for values in of_prompt.values() for id_ in values}),
        by_connection=tuple(
            (c, sum(s < threshold for s in values.values())) for c, values in of_prompt.items()
        ),
        lowest=tuple(low[:50]),
        near=tuple(near[:20]),
        all_near=len(near),
    )


def _distribution(key: Column, by_document: dict[int, float]) -> Distribution:
    values = sorted(by_document.values())
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    counts = Counter(min(19, int(value // 5)) for value in values)
    return Distribution(
        key, len(values), values[0], *quartiles, values[-1], tuple(counts[place] for place in range(20))
    )


def _disagreements(names: dict[int, str], by_column: dict[Column, dict[int, float]]) -> list[Disagreement]:
    found = []
    for id_, name in names.items():
        for prompt in {prompt for _, prompt in by_column}:
            of_prompt = [(c, v[id_]) for (c, p), v in by_column.items() if p == prompt and id_ in v]
            if len(of_prompt) > 1 and len({score for _, score in of_prompt}) > 1:
                found.append(Disagreement(name, id_, prompt, tuple(of_prompt)))
    return sorted(found, key=lambda d: (-d.spread, d.document_id, d.prompt_id))[:10]


def _agreements(by_column: dict[Column, dict[int, float]]) -> list[Agreement]:
    found = []
    for first, second in combinations(sorted({connection for connection, _ in by_column}), 2):
        pairs = [
            (values[id_], by_column[second, prompt][id_])
            for (connection, prompt), values in by_column.items()
            if connection == first and (second, prompt) in by_column
            for id_ in values.keys() & by_column[second, prompt].keys()
        ]
        if not pairs:
            continue
        distances = [abs(a - b) for a, b in pairs]
        alike = len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2
        correlation = None if alike else statistics.correlation(*zip(*pairs, strict=True))
        close = sum(distance <= 10 for distance in distances)
        found.append(Agreement(first, second, len(pairs), correlation, statistics.fmean(distances), close))
    return found


def _previous(names: dict[int, str], by_column: dict[Column, dict[int, float]]) -> SincePrevious | None:
    chance = random.Random(7)
    moved = []
    for key, after in by_column.items():
        before = {id_: min(100.0, max(0.0, score - 4 + chance.gauss(0, 6))) for id_, score in after.items()}
        if found := difference(before, after):
            changed = ("prompt text",) if key[1] == 2 else ()
            moved.append(ColumnChanges(key, _movement(names, before, after, found), changed))
    shared = len({id_ for values in by_column.values() for id_ in values})
    completed = STARTED - timedelta(days=7)
    if not moved:
        return None
    compared = tuple(moved[:COLUMNS_COMPARED])
    return SincePrevious("batch-000069", "contracts-q3", completed, shared, compared, len(moved))


def _movement(
    names: dict[int, str], before: dict[int, float], after: dict[int, float], found: Difference
) -> ScoreChanges:
    moves = {id_: after[id_] - before[id_] for id_ in before}
    largest = sorted(moves, key=lambda id_: -abs(moves[id_]))[:8]
    return ScoreChanges(
        found,
        rose=sum(move > 0 for move in moves.values()),
        fell=sum(move < 0 for move in moves.values()),
        same=sum(move == 0 for move in moves.values()),
        net=found.mean,
        gross=statistics.fmean(map(abs, moves.values())),
        threshold=50.0,
        flipped_up=sum(before[id_] < 50 <= after[id_] for id_ in before),
        flipped_down=sum(after[id_] < 50 <= before[id_] for id_ in before),
        flips=tuple(
            ScoreShift(names.get(id_, f"document {id_}"), before[id_], after[id_]) for id_ in largest
        ),
        only_first=1,
        only_second=0,
    )


def _throughput(now: Sequence[Row]) -> Throughput | None:
    done = sum(row.known_outcome in ("succeeded", "failed") for row in now)
    if not done:
        return None
    chance = random.Random(8)
    weights = [0.0 if 24 <= place < 31 else 1 + chance.random() for place in range(48)]
    counts = [int(done * weight / sum(weights)) for weight in weights]
    counts[0] += done - sum(counts)
    return Throughput(
        STARTED + timedelta(seconds=30),
        15.0,
        tuple(counts),
        (Stall(STARTED + timedelta(seconds=30 + 24 * 15), 7 * 15.0),),
        len(now) - done,
    )


def _costs(now: Sequence[Row], prices: Mapping[int, Price]) -> tuple[Cost, ...]:
    finished = [row for row in now if row.known_outcome in ("succeeded", "failed")]
    of = {
        c: _usage([row for row in finished if row.connection_id == c], price) for c, price in prices.items()
    }
    known = [usage.cost for usage in of.values() if usage.cost is not None]
    unpriced = len(finished) - sum(cost.cells for cost in known)
    return tuple(
        Cost(sum(c.amount for c in same), currency, sum(c.cells for c in same), unpriced)
        for currency in sorted({cost.currency for cost in known})
        for same in ([cost for cost in known if cost.currency == currency],)
    )


def _seconds(now: Sequence[Row]) -> ProcessingTime | None:
    values = sorted(row.seconds for row in now if row.seconds is not None)
    if not values:
        return None
    return ProcessingTime(len(values), statistics.median(values), values[int(len(values) * 0.95)])


def full_report(
    files: Sequence[File],
    columns: Sequence[ReportColumn],
    rows: Sequence[Row],
    wanted: Wanted = USUAL,
    **changes: object,
) -> ReportInput:
    """A report with something in every section; each connection is the only one of its model."""
    insights = insights_of(files, columns, rows, wanted)
    usual = {"insights": insights, "config": config_of(files, columns)}
    return report_input(files, columns, rows, **(usual | changes))


def config_of(files: Sequence[File], columns: Sequence[ReportColumn]) -> dict[str, Any]:
    """The sealed configuration of such columns; prompts have a text."""
    connections = {c.connection_id: c.connection for c in columns}
    prompts = {c.prompt_id: c.prompt for c in columns}
    return {
        "version": 1,
        "folders": [{"id": n, "path": p} for n, p in enumerate(sorted({file.folder for file in files}), 1)],
        "connections": [
            {"id": id_, "name": name, "model_name": name, "provider_type": "openai"}
            for id_, name in connections.items()
        ],
        "prompts": [
            {"id": id_, "name": name, "text": f"Score the {name} of this document from 0 to 100."}
            for id_, name in prompts.items()
        ],
    }


def columns_of(connections: int, prompts: int) -> list[ReportColumn]:
    return [
        ReportColumn(c, MODELS[(c - 1) % len(MODELS)], p, PROMPTS[(p - 1) % len(PROMPTS)])
        for c in range(1, connections + 1)
        for p in range(1, prompts + 1)
    ]


def batch(
    documents: int,
    connections: int = 1,
    prompts: int = 1,
    failing: float = 0.04,
    wanted: Wanted = USUAL,
) -> ReportInput:
    """A usual batch: models of different quality, some failures, a duplicate."""
    chance = random.Random(documents * 31 + connections)
    files = [document(n, name=f"contract-{n:04}.pdf", size=900 * n + 700) for n in range(1, documents + 1)]
    if documents > 1:
        files += [
            document(1, name="contract-0001 (copy).pdf"),
            skipped(".DS_Store"),
            skipped("empty.txt", "empty", "REJECTED"),
        ]
    columns = columns_of(connections, prompts)
    hardness = [chance.gauss(0, 12) for _ in range(documents)]
    rows = [
        _row(
            chance,
            n,
            c.connection_id,
            c.prompt_id,
            74 - 5 * (c.connection_id // 2) + hardness[n - 1],
            failing,
        )
        for n in range(1, documents + 1)
        for c in columns
    ]
    if documents > 1:
        # The first cell failed once and was reprocessed.
        rows[0] = cell(1, score=0.0)
        rows += [replace(rows[0], attempt=2, score=71.0)]
        rows[0] = failed(1, "timed out after 120 s")
    return full_report(files, columns, rows, wanted)


def _row(chance: random.Random, n: int, connection: int, prompt: int, level: float, failing: float) -> Row:
    if chance.random() < failing:
        message = chance.choice(("rate limit reached, retry after 20 s", "timed out after 120 s"))
        return failed(n, message, connection=connection, prompt=prompt)
    score = None if chance.random() < 0.01 else round(min(100.0, max(0.0, chance.gauss(level, 8))), 1)
    return cell(
        n,
        connection,
        prompt,
        score=score,
        response_text=" ".join(chance.choices(RESPONSES, k=chance.randint(1, 4))),
        input_tokens=chance.randint(400, 4_000),
        output_tokens=chance.randint(40, 400),
        seconds=round(chance.lognormvariate(1, 0.5), 2),
    )


def all_failed() -> ReportInput:
    columns = columns_of(2, 1)
    rows = [failed(n, "model not found", connection=c.connection_id) for n in range(1, 5) for c in columns]
    return full_report([document(n) for n in range(1, 5)], columns, rows)


def all_skipped() -> ReportInput:
    files = [skipped(f".hidden-{n}") for n in range(3)] + [
        skipped("big.bin", "larger than 50 MiB", "REJECTED")
    ]
    return full_report(files, [column()], [])


def one_document() -> ReportInput:
    columns = columns_of(3, 1)
    rows = [cell(1, c.connection_id, score=60.0 + 12 * c.connection_id) for c in columns]
    return full_report([document(1)], columns, rows)


def all_equal() -> ReportInput:
    columns = columns_of(2, 2)
    rows = [cell(n, c.connection_id, c.prompt_id, score=50.0) for n in range(1, 9) for c in columns]
    return full_report([document(n) for n in range(1, 9)], columns, rows)


def unicode_names() -> ReportInput:
    files = [document(n, name=name) for n, name in enumerate(NAMES, 1)]
    columns = [
        ReportColumn(c, connection, p, prompt)
        for c, connection in enumerate(("نموذج كبير", "模型-二"), 1)
        for p, prompt in enumerate(("בהירות", "明確さ"), 1)
    ]
    chance = random.Random(3)
    rows = [
        cell(
            n, c.connection_id, c.prompt_id, score=float(chance.randint(20, 100)), response_text=f"{name}: ✓"
        )
        for n, name in enumerate(NAMES, 1)
        for c in columns
    ]
    return full_report(files, columns, rows, name="عقود الربع الرابع – 第四季度", description="مراجعة العقود")


def incomplete() -> ReportInput:
    """Some cells wait, run or pause, have an unknown status, or have no row."""
    columns = columns_of(2, 2)
    rows = [cell(n, c.connection_id, c.prompt_id, score=9.0 * n) for n in range(1, 7) for c in columns]
    for place, (outcome, status) in enumerate(
        (("waiting", "QUEUED"), ("running", "P"), ("paused", "PAUSED"), ("other", "HALF_DONE"))
    ):
        rows[place] = failed(
            1,
            None,
            connection=rows[place].connection_id,
            prompt=rows[place].prompt_id,
            outcome=outcome,
            status=status,
        )
    files = [document(n) for n in range(1, 8)] + [document(9, state="ASSIGNED", document_id=None)]
    return full_report(files, columns, rows, status="ANALYZING", completed_at=None)


def simulated() -> ReportInput:
    columns = columns_of(3, 2)
    chance = random.Random(5)
    rows = [
        cell(n, c.connection_id, c.prompt_id, score=float(chance.randint(30, 95)), simulated=True)
        for n in range(1, 7)
        for c in columns
    ]
    return full_report([document(n) for n in range(1, 7)], columns, rows)


def hostile() -> ReportInput:
    """Hostile texts in the insights too."""
    data = hostile_input()
    names = [data.labels.of_file(file.name) for file in data.rows if file.name is not None]
    columns = [(c.connection_id, c.prompt_id) for c in data.columns]
    found = Difference(9, 1.0, -1.0, 3.0, 0.2, 4.0)
    movement = ScoreChanges(
        found, 1, 2, 3, 1.0, 2.0, 50.0, 1, 1, tuple(ScoreShift(name, 1.0, 99.0) for name in names), 0, 0
    )
    standings = [
        Standing(key[0], Estimate(9, 50.0, 40.0, 60.0), (key[0] + 1) % len(columns), found, True, 1, 2, 3)
        for key in columns
    ]
    usage = ColumnUsage(9, Total(9, 9), None, ProcessingTime(9, 1.0, 2.0), Cost(1.0, HOSTILE[0], 9, 1))
    standings[1] = replace(standings[1], usage=usage, margin_test=MarginTest(3.0, Conclusion.NO_WORSE, None))
    low = [LowDocument(name, place, ((0, 1.0), (1, 99.0))) for place, name in enumerate(names)]
    near = [NearScore(name, place, 0, 61.0, None) for place, name in enumerate(names)]
    insights = Insights(
        scores=Estimate(9, 50.0, 40.0, 60.0),
        leaderboards=[PromptLeaderboard(prompt, standings) for _, prompt in columns],
        overall=PromptLeaderboard(None, standings, weights=((0, 1.0), (1, 2.0))),
        below_thresholds=[
            BelowThreshold(0, 60.0, len(low), 20, ((0, 9), (1, 0)), tuple(low), tuple(near), 30)
        ],
        margin=3.0,
        distributions=[Distribution(key, 9, 1.0, 20.0, 50.0, 70.0, 99.0, (1,) * 20) for key in columns],
        disagreements=[
            Disagreement(name, place, place, ((0, 1.0), (1, 99.0))) for place, name in enumerate(names)
        ],
        agreements=[Agreement(first, first + 1, 9, 0.5, 4.0, 3) for first in range(len(columns) - 1)],
        previous=SincePrevious(
            names[0], names[1], STARTED, 9, tuple(ColumnChanges(key, movement, ()) for key in columns)
        ),
        costs=[Cost(1.0, name, 1, 1) for name in names[:3]],
        seconds=None,
        provenance=Provenance(tuple((name, name) for name in names)),
    )
    return replace(data, insights=insights)


def judged(
    documents: int,
    connections: int,
    prompts: int,
    *,
    prices: Mapping[int, Price] = PRICES,
    thresholds: Mapping[int, float] | None = None,
    weights: Mapping[int, float] | None = None,
    margin: float | None = None,
) -> ReportInput:
    """A usual batch for which somebody also set thresholds, weights or a margin."""
    return batch(
        documents, connections, prompts, wanted=Wanted(prices, thresholds or {}, weights or {}, margin)
    )


def with_margin() -> ReportInput:
    """Of three cheaper models one is no worse, one is worse, and of one nobody can tell."""
    behind = {1: (0.0, 0.0), 2: (-1.0, 1.5), 3: (-2.5, 12.0), 4: (-11.0, 3.0)}
    prices = {c: (20.0 / 4**c, 80.0 / 4**c, "USD") for c in behind}
    chance = random.Random(11)
    hardness = [chance.gauss(68, 7) for _ in range(40)]
    rows = [
        cell(n, c, score=round(hardness[n - 1] + mean + spread * (-1) ** (n // c), 1), seconds=4.0 / c)
        for n in range(1, 41)
        for c, (mean, spread) in behind.items()
    ]
    files = [document(n) for n in range(1, 41)]
    return full_report(files, columns_of(4, 1), rows, Wanted(prices, {}, {}, 3.0))


def many_prompts() -> ReportInput:
    chance = random.Random(12)
    columns = [ReportColumn(c, MODELS[c - 1], p, f"criterion-{p:02}") for c in (1, 2) for p in range(1, 51)]
    rows = [
        cell(n, c.connection_id, c.prompt_id, score=float(chance.randint(40, 90)))
        for n in range(1, 6)
        for c in columns
    ]
    return full_report([document(n) for n in range(1, 6)], columns, rows)


REPORTS = {
    "empty": lambda: report_input(started_at=None, completed_at=None, created_at=None, config={}),
    "1-cell": lambda: batch(1, failing=0),
    "8-cells": lambda: batch(2, 2, 2, failing=0),
    "1000-cells": lambda: batch(100, 5, 2),
    "10000-cells": lambda: batch(1_000, 5, 2),
    "all-failed": all_failed,
    "all-skipped": all_skipped,
    "one-model": lambda: batch(12, 1, 2),
    "one-model-one-prompt": lambda: batch(12, 1, 1),
    "one-prompt": lambda: batch(12, 3, 1),
    "five-prompts": lambda: batch(12, 4, 5),
    "many-prompts": many_prompts,
    "unknown-prices": lambda: judged(8, 3, 1, prices={}),
    "two-currencies": lambda: judged(
        8, 3, 1, prices={1: (2.5, 10.0, "USD"), 2: (2.0, 6.0, "EUR"), 3: (0.0, 0.0, "USD")}
    ),
    "below-thresholds": lambda: judged(17, 3, 2, thresholds={1: 60.0, 2: 75.0}),
    "margin": with_margin,
    "overall": lambda: judged(17, 3, 3, weights={1: 2.0, 2: 1.0}),
    "one-document": one_document,
    "all-equal": all_equal,
    "unicode": unicode_names,
    "incomplete": incomplete,
    "simulated": simulated,
    "hostile": hostile,
}
