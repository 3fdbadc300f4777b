"""A reference model of reports: plain lists of files and attempts, counted one by one.

`batches/results/test_report_input.py` compares the statements of the databases with it. Which scores enter
which figure is decided here; the statistics themselves are tested in `statistics`.
"""

import html
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise, zip_longest

import numpy as np
from scipy.stats import spearmanr

from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.evaluations import CellCounts, Outcome
from doceval_pipeline.domain.files import EvaluatedFile, FileGroup, FileLabels, FileName
from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.domain.insights import (
    NOTHING,
    Agreement,
    BatchCounts,
    Disagreement,
    Distribution,
    Insights,
    PromptLeaderboard,
    Standing,
)
from doceval_pipeline.domain.results import (
    KNOWN_PROCESSOR_LIMIT_BYTES,
    CellDetails,
    FailureGroup,
    ReportCell,
    ResultChange,
    ResultSums,
    ScoreSummary,
    Total,
)
from doceval_pipeline.domain.throughput import Stall, Throughput
from doceval_pipeline.domain.usage import NO_USAGE, ColumnUsage, Cost, ProcessingTime
from doceval_pipeline.knowledge.failures import VARYING
from doceval_pipeline.reports.html import CHANGES_SHOWN, NAMES_SHOWN
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, rows_shown
from doceval_pipeline.reports.model import ReportColumn
from doceval_pipeline.statistics.inference import (
    clustered_estimate,
    corrected,
    difference,
    estimate,
)

SHOWN_CHARACTERS = 2_000
DETAILS_BYTES = 800_000
QUEUED = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
Key = tuple[int, int, int]


@dataclass(frozen=True)
class File:
    """A file of a batch; `size` in bytes."""

    name: str
    folder: str
    state: str
    reason: str | None
    size: int | None
    document_id: int | None


@dataclass(frozen=True)
class Row:
    """An attempt at an evaluation."""

    document_id: int
    connection_id: int
    prompt_id: int
    attempt: int
    outcome: str
    status: str
    score: float | None
    error: str | None
    response_text: str | None
    input_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    simulated: bool
    finished_at: datetime | None = None
    queued_at: datetime = QUEUED

    @property
    def known_outcome(self) -> str:
        return self.outcome if self.outcome in [*Outcome] else "unknown"

    @property
    def key(self) -> Key:
        return self.document_id, self.connection_id, self.prompt_id

    @property
    def message(self) -> str | None:
        return (self.error or "").strip(" \t\n\r\f\v") or None


def current(rows: Iterable[Row]) -> list[Row]:
    """The latest attempt of each evaluation."""
    return list({row.key: row for row in sorted(rows, key=lambda row: row.attempt)}.values())


def sums(rows: Sequence[Row]) -> ResultSums:
    return ResultSums(
        cells=CellCounts(**Counter(row.known_outcome for row in rows)),
        scores=_scores(rows),
        input_tokens=_total(rows, lambda row: row.input_tokens),
        output_tokens=_total(rows, lambda row: row.output_tokens),
        seconds=_total(rows, valid_seconds),
        simulated=sum(row.simulated for row in rows),
        reprocessed=sum(row.attempt > 1 for row in rows),
    )


def column_sums(rows: Sequence[Row]) -> dict[tuple[int, int], ResultSums]:
    keys = {row.key[1:] for row in rows}
    return {key: sums([row for row in rows if row.key[1:] == key]) for key in keys}


class _FirstFiles(dict[int, FileName | None]):
    """The first file of each document, None where it has none."""

    def __missing__(self, document_id: int) -> None:
        return None


def labels(files: Sequence[File]) -> FileLabels:
    """Labels of all files and documents; documents of other batches have no file."""
    first_files = _FirstFiles()
    for file in files:
        if file.document_id is not None:
            first_files.setdefault(file.document_id, FileName(file.folder, file.name))
    return FileLabels(tuple(sorted({file.folder for file in files})), first_files)


def sizes_of(files: Sequence[File]) -> dict[int, int]:
    """The sizes of the documents that have a file, in bytes."""
    return {file.document_id: file.size or 0 for file in files if file.document_id is not None}


def failures(rows: Sequence[Row], sizes: Mapping[int, int]) -> list[FailureGroup]:
    """All failed evaluations by kind of message, the most frequent first."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row.outcome == "failed":
            kinds.setdefault(alike(row.message or ""), []).append(row)
    groups = [_group(found, sizes) for found in kinds.values()]
    return sorted(
        groups,
        key=lambda g: (-g.cells, g.message is not None, (g.message or "").encode(errors="surrogatepass")),
    )


def not_evaluated(files: Sequence[File]) -> list[FileGroup]:
    named = [(f.state, f.reason, FileName(f.folder, f.name)) for f in files]
    found = Counter((s, r) for s, r, _ in named if s in ("SKIPPED", "REJECTED"))
    groups = [
        FileGroup(
            state, reason, count, tuple(n for s, r, n in named if (s, r) == (state, reason))[:NAMES_SHOWN]
        )
        for (state, reason), count in found.items()
    ]
    return sorted(
        groups,
        key=lambda g: (
            -g.files,
            g.state,
            g.reason is not None,
            (g.reason or "").encode(errors="surrogatepass"),
        ),
    )


def changes(rows: Sequence[Row]) -> list[ResultChange]:
    """The changes of all reprocessed evaluations."""
    now = {row.key: row for row in current(rows)}
    before = [row for row in rows if row.attempt == now[row.key].attempt - 1]
    return [
        ResultChange(
            row.document_id,
            row.connection_id,
            row.prompt_id,
            now[row.key].attempt,
            row.known_outcome,
            _score(row),
            now[row.key].known_outcome,
            _score(now[row.key]),
        )
        for row in sorted(before, key=lambda row: row.key)
    ]


def matrix_rows(files: Sequence[File], rows: Sequence[Row], columns: int) -> tuple[list[EvaluatedFile], int]:
    """The rows of the matrix that are shown, and the number of all rows."""
    shown = [
        EvaluatedFile(FileName(file.folder, file.name), file.document_id, file.state, file.size)
        for file in files
        if file.state in ("STAGED", "ASSIGNED")
    ]
    limit = rows_shown(columns)
    if len(shown) > limit:
        failed = {row.document_id for row in rows if row.outcome == "failed"}
        left = {row.document_id for row in rows if row.outcome != "succeeded"} - failed
        shown.sort(key=lambda file: _urgency(file.document_id, failed, left))
    unlisted = sorted({row.document_id for row in rows} - {file.document_id for file in files})
    total = len(shown) + len(unlisted)
    return [*shown, *(EvaluatedFile(None, document_id) for document_id in unlisted)][:limit], total


def cells(shown: Sequence[EvaluatedFile], rows: Sequence[Row]) -> list[ReportCell]:
    """The cells of the shown rows; not all have details."""
    places = {id_: n for n, row in reversed([*enumerate(shown)]) if (id_ := row.document_id) is not None}
    found = [row for row in rows if row.document_id in places]
    found.sort(key=lambda row: (row.outcome != "failed", places[row.document_id], *row.key[1:]))
    detailed = [row for row in found if _has_details(row)][:DETAILS_SHOWN]
    keys, characters = {row.key for row in detailed}, _characters(detailed)
    return [_cell(row, characters, detailed=row.key in keys) for row in found]


def _characters(rows: Sequence[Row]) -> int:
    """The length to which the texts of all rows are cut so that they fit into a page."""
    texts = [t[:SHOWN_CHARACTERS] for row in rows for t in (row.error, row.response_text) if t]

    def size(characters: int) -> int:
        return sum(len(text[:characters].encode(errors="surrogatepass")) for text in texts)

    as_html = sum(len(html.escape(text).encode(errors="surrogatepass")) for text in texts)
    characters = SHOWN_CHARACTERS
    while characters and size(characters) * max(1, as_html) > DETAILS_BYTES * size(SHOWN_CHARACTERS):
        characters -= 1
    return characters


def document_name(files: Sequence[File], document_id: int) -> str:
    return labels(files).of_document(document_id)


def _urgency(document_id: int | None, failed: set[int], left: set[int]) -> tuple[int, int]:
    """A sort key: documents with failures, then unfinished ones, then all others in their order."""
    if document_id is None or document_id not in failed | left:
        return 2, 0
    return int(document_id not in failed), document_id


def _cell(row: Row, characters: int, *, detailed: bool) -> ReportCell:
    details = CellDetails(
        row.attempt,
        None if row.error is None else row.error[:characters],
        len(row.error or ""),
        None if row.response_text is None else row.response_text[:characters],
        len(row.response_text or ""),
        row.input_tokens,
        row.output_tokens,
        valid_seconds(row),
    )
    return ReportCell(
        *row.key,
        row.outcome,
        row.status,
        row.score,
        None if row.error is None else row.error[:301],
        row.simulated,
        has_details=_has_details(row),
        details=details if detailed else None,
    )


def _has_details(row: Row) -> bool:
    done = row.outcome in ("succeeded", "failed")
    return done or row.error is not None or row.response_text is not None


def _score(row: Row) -> float | None:
    return row.score if row.outcome == "succeeded" else None


def _scores(rows: Iterable[Row]) -> ScoreSummary | None:
    scores = sorted(score for row in rows if (score := _score(row)) is not None)
    if not scores:
        return None
    bins = Counter(min(9, int(score // 10)) for score in scores)
    return ScoreSummary(
        len(scores),
        math.fsum(scores) / len(scores),
        statistics.median(scores),
        scores[0],
        scores[-1],
        tuple(bins[number] for number in range(10)),
    )


def _total(rows: Iterable[Row], value_of: Callable[[Row], float | None]) -> Total | None:
    values = [v for row in rows if (v := value_of(row)) is not None]
    return Total(sum(values), len(values)) if values else None


def alike(message: str) -> str:
    """The common part of messages of the same kind."""
    return re.sub(VARYING, r"\1#", message[:SHOWN_CHARACTERS])


def _group(failed: Sequence[Row], sizes: Mapping[int, int]) -> FailureGroup:
    messages = Counter(row.message for row in failed)
    message = min(messages, key=lambda m: (-messages[m], (m or "").encode(errors="surrogatepass")))
    documents = sorted({row.document_id for row in failed})
    return FailureGroup(
        message=None if message is None else message[:SHOWN_CHARACTERS],
        message_characters=len(message or ""),
        cells=len(failed),
        simulated=sum(row.simulated for row in failed),
        documents=len(documents),
        document_ids=tuple(documents[:NAMES_SHOWN]),
        too_large=sum(sizes.get(id_, 0) > KNOWN_PROCESSOR_LIMIT_BYTES for id_ in documents),
        variants=len(messages),
        connection_ids=tuple(sorted({row.connection_id for row in failed})),
        prompt_ids=tuple(sorted({row.prompt_id for row in failed})),
    )


def shown_changes(rows: Sequence[Row]) -> list[ResultChange]:
    return changes(rows)[:CHANGES_SHOWN]


def valid_seconds(row: Row) -> float | None:
    """The seconds of a row; negative ones count as missing."""
    return None if row.seconds is None or row.seconds < 0 else row.seconds


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
    now = current(rows)
    staged = {f.document_id: f.size or 0 for f in files if f.state == "STAGED" and f.document_id is not None}
    scored = [row for row in now if row.outcome == "succeeded" and row.score is not None]
    finished = [row for row in now if row.outcome in ("succeeded", "failed")]
    boards = leaderboards(columns, now, len(staged), prices or {})
    return replace(
        NOTHING,
        scores=clustered_estimate([row.score for row in scored], [row.document_id for row in scored]),
        leaderboards=boards,
        distributions=distributions(scored),
        disagreements=disagreements(files, scored),
        agreements=agreements(boards, scored),
        costs=costs(finished, prices or {}),
        seconds=seconds(finished),
        counts=BatchCounts(
            throughput=throughput(finished),
            reused=len(staged.keys() & {*stored_before}),
            content_bytes=sum(staged.values()),
            attempts=sorted(Counter(row.attempt for row in now).items()),
        ),
    )


def leaderboards(
    columns: Sequence[ReportColumn], now: Sequence[Row], contents: int, prices: Mapping[int, Prices]
) -> list[PromptLeaderboard]:
    listed = [(column.connection_id, column.prompt_id) for column in columns]
    keys = listed + sorted({row.key[1:] for row in now} - {*listed})
    scores = {key: _scores_of(key, now) for key in keys}
    boards = {prompt: _ranked([key for key in keys if key[1] == prompt], scores) for _, prompt in keys}
    pairs = {
        key: ([scores[board[0]][id_] for id_ in shared], [scores[key][id_] for id_ in shared])
        for board in boards.values()
        for key in board[1:]
        if (shared := sorted(scores[board[0]].keys() & scores[key].keys()))
    }
    resample = sum(max(0, sum(bool(scores[key]) for key in board) - 1) for board in boards.values()) < 20
    apart = [difference(*pair, resample=resample) for pair in pairs.values()]
    tested = dict(zip(pairs, corrected([each for each in apart if each is not None]), strict=True))
    used = column_usage(now, prices)
    return [
        PromptLeaderboard(
            prompt,
            [_standing(key, board, scores, tested, now, contents, used) for key in board],
            is_same_documents=len({tuple(sorted(scores[key])) for key in board if scores[key]}) < 2,
        )
        for prompt, board in boards.items()
    ]


def _ranked(keys: Sequence[Column], scores: Mapping[Column, Mapping[int, float]]) -> list[Column]:
    """Best first: the leader by means on equal documents, the others by their difference to it."""
    scored = [key for key in keys if scores[key]]
    if not scored:
        return [*keys]
    means = {key: mean for group in _linked(scored, scores) for key, mean in _equal_means(group, scores)}
    leader, *order = sorted(scored, key=lambda key: -round(means[key], 6))

    def behind(key: Column) -> tuple[bool, float]:
        shared = scores[leader].keys() & scores[key].keys()
        apart = [scores[leader][id_] - scores[key][id_] for id_ in shared]
        return not shared, round(math.fsum(apart) / len(apart), 9) if apart else 0.0

    return [leader, *sorted(order, key=behind), *(key for key in keys if not scores[key])]


def _linked(keys: Sequence[Column], scores: Mapping[Column, Mapping[int, float]]) -> list[list[Column]]:
    """Groups of columns that share documents, if only through further columns."""
    groups: list[list[Column]] = []
    for key in keys:
        near = [g for g in groups if any(scores[key].keys() & scores[other].keys() for other in g)]
        groups = [*(g for g in groups if g not in near), [*(other for g in near for other in g), key]]
    return groups


def _equal_means(
    keys: Sequence[Column], scores: Mapping[Column, Mapping[int, float]]
) -> list[tuple[Column, float]]:
    """The means of a group on all of its documents: least squares with an effect of each document."""
    documents = sorted({id_ for key in keys for id_ in scores[key]})
    results = [(key, id_, score) for key in keys for id_, score in scores[key].items()]
    design = np.zeros((len(results), len(keys) + len(documents)))
    for place, (key, id_, _) in enumerate(results):
        design[place, keys.index(key)] = design[place, len(keys) + documents.index(id_)] = 1.0
    effects = np.linalg.lstsq(design, np.array([score for _, _, score in results]), rcond=None)[0]
    of_documents = float(effects[len(keys) :].mean())
    return [(key, float(effects[place]) + of_documents) for place, key in enumerate(keys)]


def _standing(
    key: Column,
    board: Sequence[Column],
    scores: Mapping[Column, Mapping[int, float]],
    tested: Mapping[Column, Difference],
    now: Sequence[Row],
    contents: int,
    used: Mapping[Column, ColumnUsage],
) -> Standing:
    own = [row for row in now if row.key[1:] == key]
    succeeded = sum(row.outcome == "succeeded" for row in own)
    failed = sum(row.outcome == "failed" for row in own)
    is_leader, ranked = key == board[0], [each for each in board if scores[each]]
    against = (ranked[1:2] if is_leader else ranked[:1]) if scores[key] else []
    compared = tested.get(ranked[1] if is_leader and len(ranked) > 1 else key)
    return Standing(
        key[0],
        estimate(list(scores[key].values())),
        against[0][0] if against else None,
        compared.turned() if is_leader and compared is not None else compared,
        tied=not is_leader and bool(scores[key]) and not (key in tested and tested[key].told_apart),
        failed=failed,
        without_score=succeeded - len(scores[key]),
        without_result=max(contents, len(own)) - succeeded - failed,
        simulated=sum(row.simulated for row in own),
        usage=used.get(key, NO_USAGE),
    )


def column_usage(now: Sequence[Row], prices: Mapping[int, Prices]) -> dict[Column, ColumnUsage]:
    """What the finished evaluations of each column used."""
    finished = [row for row in now if row.outcome in ("succeeded", "failed")]
    used = {}
    for key in sorted({row.key[1:] for row in finished}):
        own = [row for row in finished if row.key[1:] == key]
        inputs = [row.input_tokens for row in own if row.input_tokens is not None]
        outputs = [row.output_tokens for row in own if row.output_tokens is not None]
        used[key] = ColumnUsage(
            len(own),
            Total(sum(inputs), len(inputs)) if inputs else None,
            Total(sum(outputs), len(outputs)) if outputs else None,
            seconds([row for row in own if row.outcome == "succeeded"]),
            next(iter(costs(own, prices)), None),
        )
    return used


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
        found = Disagreement(document_name(files, document), document, prompt, scores)
        if _spread(found) > (_spread(worst[document]) if document in worst else 0):
            worst[document] = found
    return sorted(worst.values(), key=lambda d: (-_spread(d), d.document_id))[:20]


def agreements(boards: Sequence[PromptLeaderboard], scored: Sequence[Row]) -> list[Agreement]:
    ranks = zip_longest(*(board.ranked for board in boards))
    best = list(dict.fromkeys(s.connection_id for rank in ranks for s in rank if s is not None))[:12]
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
            correlation = _rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
            close = sum(distance <= 10 for distance in distances)
            mean = math.fsum(distances) / len(pairs)
            found.append(Agreement(first, second, len(pairs), correlation, mean, close))
    return found


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)


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
