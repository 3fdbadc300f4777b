"""A plain model of what a report is made from: lists of files and cells, counted one by one.

The databases count in statements of their own; that both come to the same is tested in
`batches/test_gathering.py`.
"""

import html
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from doceval_pipeline.knowledge.report_queries import VARYING
from doceval_pipeline.reports.html import (
    CHANGES_SHOWN,
    KNOWN_PROCESSOR_LIMIT_BYTES,
    NAMES_SHOWN,
)
from doceval_pipeline.reports.matrix import DETAILS_SHOWN, rows_shown
from doceval_pipeline.reports.model import (
    OUTCOMES,
    CellChange,
    CellDetails,
    FailureGroup,
    FileGroup,
    ReportCell,
    ReportRow,
    ScoreFigures,
    Sums,
    Total,
)

SHOWN_CHARACTERS = 2_000
DETAILS_BYTES = 800_000
QUEUED = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
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
    """An attempt at a cell."""

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
        return self.outcome if self.outcome in OUTCOMES else "unknown"

    @property
    def key(self) -> Key:
        return self.document_id, self.connection_id, self.prompt_id

    @property
    def message(self) -> str | None:
        return (self.error or "").strip(" \t\n\r\f\v") or None


def current(rows: Iterable[Row]) -> list[Row]:
    """Each cell once, with its highest attempt."""
    return list({row.key: row for row in sorted(rows, key=lambda row: row.attempt)}.values())


def sums(rows: Sequence[Row]) -> Sums:
    return Sums(
        outcomes=dict(Counter(row.known_outcome for row in rows)),
        scores=_scores(rows),
        input_tokens=_total(rows, lambda row: row.input_tokens),
        output_tokens=_total(rows, lambda row: row.output_tokens),
        seconds=_total(rows, told_seconds),
        simulated=sum(row.simulated for row in rows),
        reprocessed=sum(row.attempt > 1 for row in rows),
    )


def column_sums(rows: Sequence[Row]) -> dict[tuple[int, int], Sums]:
    keys = {row.key[1:] for row in rows}
    return {key: sums([row for row in rows if row.key[1:] == key]) for key in keys}


def labels(files: Sequence[File]) -> list[str]:
    """Names of files: with their folder where there are several."""
    if len({file.folder for file in files}) < 2:
        return [file.name for file in files]
    return [f"{file.folder.rstrip('/')}/{file.name}" for file in files]


def sizes_of(files: Sequence[File]) -> dict[int, int]:
    """The sizes of the documents that are known by a file, in bytes."""
    return {file.document_id: file.size or 0 for file in files if file.document_id is not None}


def failures(files: Sequence[File], rows: Sequence[Row], sizes: Mapping[int, int]) -> list[FailureGroup]:
    """Failed cells by kind of message, the most frequent first; all of them."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row.outcome == "failed":
            kinds.setdefault(alike(row.message or ""), []).append(row)
    groups = [_group(found, files, sizes) for found in kinds.values()]
    return sorted(
        groups,
        key=lambda g: (-g.cells, g.message is not None, (g.message or "").encode(errors="surrogatepass")),
    )


def not_evaluated(files: Sequence[File]) -> list[FileGroup]:
    named = [(f.state, f.reason, label) for f, label in zip(files, labels(files), strict=True)]
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


def changes(files: Sequence[File], rows: Sequence[Row]) -> list[CellChange]:
    """What became of each cell that was reprocessed; all of them."""
    now = {row.key: row for row in current(rows)}
    before = [row for row in rows if row.attempt == now[row.key].attempt - 1]
    return [
        CellChange(
            document_name(files, row.document_id),
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


def matrix_rows(files: Sequence[File], rows: Sequence[Row], columns: int) -> tuple[list[ReportRow], int]:
    """The rows of the matrix that are shown, and how many there are."""
    first = _first_files(files)
    shown = []
    for file, label in zip(files, labels(files), strict=True):
        if file.state in ("STAGED", "ASSIGNED"):
            at = None if file.document_id is None else first[file.document_id]
            twin = None if at is None or files[at] is file else labels(files)[at]
            shown.append(ReportRow(label, file.document_id, file.state, file.size, twin))
    limit = rows_shown(columns)
    if len(shown) > limit:
        failed = {row.document_id for row in rows if row.outcome == "failed"}
        left = {row.document_id for row in rows if row.outcome != "succeeded"} - failed
        shown.sort(key=lambda row: _urgency(row.document_id, failed, left))
    unlisted = sorted({row.document_id for row in rows} - {file.document_id for file in files})
    total = len(shown) + len(unlisted)
    return [*shown, *(ReportRow(f"document {id_}", id_) for id_ in unlisted)][:limit], total


def cells(shown: Sequence[ReportRow], rows: Sequence[Row]) -> list[ReportCell]:
    """The cells of rows that are shown, of which not all have details."""
    places = {id_: n for n, row in reversed([*enumerate(shown)]) if (id_ := row.document_id) is not None}
    found = [row for row in rows if row.document_id in places]
    found.sort(key=lambda row: (row.outcome != "failed", places[row.document_id], *row.key[1:]))
    saying = [
        r for r in found if r.outcome in ("succeeded", "failed") or r.error is not None or r.response_text
    ]
    detailed = saying[:DETAILS_SHOWN]
    keys, characters = {row.key for row in detailed}, _characters(detailed)
    return [_cell(row, row.key in keys, characters) for row in found]


def _characters(rows: Sequence[Row]) -> int:
    """To so many characters the texts of all rows are cut, so that they fit into a page."""
    texts = [t[:SHOWN_CHARACTERS] for row in rows for t in (row.error, row.response_text) if t]

    def size(characters: int) -> int:
        return sum(len(text[:characters].encode(errors="surrogatepass")) for text in texts)

    as_html = sum(len(html.escape(text).encode(errors="surrogatepass")) for text in texts)
    characters = SHOWN_CHARACTERS
    while characters and size(characters) * max(1, as_html) > DETAILS_BYTES * size(SHOWN_CHARACTERS):
        characters -= 1
    return characters


def document_name(files: Sequence[File], document_id: int) -> str:
    first = _first_files(files)
    return labels(files)[first[document_id]] if document_id in first else f"document {document_id}"


def _urgency(document_id: int | None, failed: set[int], left: set[int]) -> tuple[int, int]:
    """Documents that failed, then those that are not done, then all others as they come."""
    if document_id is None or document_id not in failed | left:
        return 2, 0
    return int(document_id not in failed), document_id


def _cell(row: Row, detailed: bool, characters: int) -> ReportCell:
    details = CellDetails(
        row.attempt,
        None if row.error is None else row.error[:characters],
        len(row.error or ""),
        None if row.response_text is None else row.response_text[:characters],
        len(row.response_text or ""),
        row.input_tokens,
        row.output_tokens,
        told_seconds(row),
    )
    return ReportCell(
        details if detailed else None,
        *row.key,
        row.outcome,
        row.status,
        row.score,
        None if row.error is None else row.error[:301],
        row.simulated,
    )


def _score(row: Row) -> float | None:
    return row.score if row.outcome == "succeeded" else None


def _scores(rows: Iterable[Row]) -> ScoreFigures | None:
    scores = sorted(score for row in rows if (score := _score(row)) is not None)
    if not scores:
        return None
    bins = Counter(min(9, int(score // 10)) for score in scores)
    return ScoreFigures(
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
    """What messages of the same kind have in common."""
    return re.sub(VARYING, r"\1#", message[:SHOWN_CHARACTERS])


def _group(failed: Sequence[Row], files: Sequence[File], sizes: Mapping[int, int]) -> FailureGroup:
    messages = Counter(row.message for row in failed)
    message = min(messages, key=lambda m: (-messages[m], (m or "").encode(errors="surrogatepass")))
    documents = sorted({row.document_id for row in failed})
    return FailureGroup(
        message=None if message is None else message[:SHOWN_CHARACTERS],
        message_characters=len(message or ""),
        cells=len(failed),
        simulated=sum(row.simulated for row in failed),
        documents=len(documents),
        names=tuple(document_name(files, id_) for id_ in documents[:NAMES_SHOWN]),
        too_large=sum(sizes.get(id_, 0) > KNOWN_PROCESSOR_LIMIT_BYTES for id_ in documents),
        variants=len(messages),
    )


def _first_files(files: Sequence[File]) -> dict[int, int]:
    return {
        id_: position
        for position, file in reversed([*enumerate(files)])
        if (id_ := file.document_id) is not None
    }


def shown_changes(files: Sequence[File], rows: Sequence[Row]) -> list[CellChange]:
    return changes(files, rows)[:CHANGES_SHOWN]


def told_seconds(row: Row) -> float | None:
    """Less than none is not believed."""
    return None if row.seconds is None or row.seconds < 0 else row.seconds
