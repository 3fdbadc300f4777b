"""Comparisons of every kind, made from invented scores: what their pages are tried with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.results import Total
from doceval_pipeline.domain.score_changes import Dimension
from doceval_pipeline.domain.scores import ScoreStateCounts
from doceval_pipeline.domain.usage import ColumnUsage, Cost, ProcessingTime
from doceval_pipeline.reports.comparison import AlignedColumn, ComparedSide, Comparison, compare_sides
from doceval_pipeline.reports.comparison_words import SideUsage
from doceval_pipeline_tests.reports.sample_reports import HOSTILE

DOCUMENTS = 17
PROMPTS = ("clarity", "tone", "completeness of the answer to every question asked", "length", "risk")


def used(per_document: float | None, currency: str = "USD", failed: int = 0) -> SideUsage:
    """The usage of a side that evaluated all documents."""
    n = DOCUMENTS
    cost = None if per_document is None else Cost(per_document * n, currency, n, 0)
    usage = ColumnUsage(n, Total(41_300, n), Total(3_210, n), ProcessingTime(n, 2.4, 8.1), cost)
    return SideUsage(usage, failed=failed)


def column(
    number: int, connection: str | None, prompt: str | None, shift: float, usage: tuple[SideUsage, SideUsage]
) -> AlignedColumn:
    """A column of scores that differ by about `shift` points; the second side fails on some documents."""
    random = np.random.default_rng(number)
    first = np.round(random.uniform(30, 85, DOCUMENTS))
    second = np.clip(np.round(first + shift + random.normal(0, 4, DOCUMENTS)), 0, 100)
    failed = usage[1].failed
    second[:failed] = math.nan
    return AlignedColumn(
        connection=connection,
        prompt=prompt,
        changed=(),
        first=first,
        second=second,
        first_cells=ScoreStateCounts(DOCUMENTS, 0, 0, 0, 0),
        second_cells=ScoreStateCounts(DOCUMENTS - failed, 0, failed, 0, 0),
        first_usage=usage[0],
        second_usage=usage[1],
    )


def compared(
    dimension: Dimension, names: tuple[str, str], columns: Sequence[AlignedColumn], simulated: int = 0
) -> Comparison:
    """The comparison of two sides in these columns."""
    cells = DOCUMENTS * len(columns)
    first, second = (ComparedSide(name, "batch-000007", 0, (), cells, simulated) for name in names)
    if dimension is Dimension.TIME:
        second = replace(second, partition_key="batch-000012", documents=3)
    documents: NDArray[np.int64] = np.arange(DOCUMENTS)
    found = compare_sides(
        (first, second),
        documents,
        columns,
        lambda document: f"contracts/{document:02} Frame contract.pdf",
        dimension=dimension,
        model_word="model",
    )
    assert found is not None
    return found


def models() -> Comparison:
    """A dear model that leads under some prompts, fails under one and is not told apart under others."""
    shifts = (6.5, 0.5, -7.0, 0.0, 1.5)
    usages = [(used(0.02), used(0.4, failed=4 if number == 0 else 0)) for number in range(len(PROMPTS))]
    columns = [
        column(number, None, prompt, shifts[number], usages[number]) for number, prompt in enumerate(PROMPTS)
    ]
    columns[3] = replace(columns[3], second=columns[3].first, threshold=60.0)
    return compared(Dimension.CONNECTION, ("gpt-4o-mini", "gpt-4o"), columns)


def one_prompt() -> Comparison:
    """Two models under one prompt, at an unknown price; simulated."""
    columns = [column(1, None, "clarity", -8, (used(None), used(0.4, "EUR")))]
    return compared(Dimension.CONNECTION, ("simulated-a", "simulated-b"), columns, simulated=DOCUMENTS)


def prompts() -> Comparison:
    """Two prompts asked of three models."""
    columns = [
        column(number, f"model-{number}", None, 4 - 4 * number, (used(0.01 * number), used(0.012 * number)))
        for number in range(3)
    ]
    return compared(Dimension.PROMPT, ("clarity", "clarity, short"), columns)


def batches() -> Comparison:
    """Two batches, one of whose prompts changed; no document has both scores in one column."""
    columns = [
        replace(
            column(number, "gpt-4o", prompt, 5 - 6 * number, (used(0.02), used(0.03))),
            changed=("prompt text",) if number else (),
        )
        for number, prompt in enumerate(PROMPTS[:3])
    ]
    columns[2] = replace(columns[2], second=np.full(DOCUMENTS, math.nan))
    return compared(Dimension.TIME, ("contracts-q3", "contracts-q4"), columns)


def hostile() -> Comparison:
    """Names that attack the page."""
    columns = [column(n, text, text, 3, (used(0.02), used(None))) for n, text in enumerate(HOSTILE)]
    return compared(Dimension.TIME, (" ".join(HOSTILE), HOSTILE[0]), columns)


COMPARISONS: dict[str, Callable[[], Comparison]] = {
    "models": models,
    "one-prompt": one_prompt,
    "prompts": prompts,
    "batches": batches,
    "hostile": hostile,
}
