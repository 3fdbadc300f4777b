"""Case 11: the cost per document as a batch grows."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures
from benchmarks.figures import Figure, Measured, Value, cpu_seconds, ratio, seconds
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from benchmarks.staging import require_rows, stage

DOCUMENTS = "documents in one batch"


def growth(*, quick: bool) -> Case:
    """Case 11."""
    sizes = (10, 20, 40) if quick else (1_000, 10_000, 100_000)
    rounds = 1 if quick else 5

    def judge(measured: Measured) -> list[Figure]:
        return _cost_figures(measured[DOCUMENTS], sizes)

    work = f"growth: {sizes[0]:,} to {sizes[-1]:,} documents"
    return Case("11", work, "linear", [_documents(sizes, rounds)], judge)


def _cost_figures(found: list[Measurement], sizes: tuple[int, ...]) -> list[Figure]:
    """The cost per document, relative to that in the smallest batch."""
    time, cpu = _per_document(seconds), _per_document(cpu_seconds)
    smallest = sizes[0]
    figures = []
    for size in sizes[1:]:
        words, sides = f"per document, {size:,} / {smallest:,}", (str(size), str(smallest))
        figures.append(ratio(f"time {words}", found, *sides, 1.20, time))
        figures.append(ratio(f"CPU {words}", found, *sides, None, cpu))
    return figures


def _per_document(value: Value) -> Value:
    return lambda measurement: value(measurement) / int(measurement.side)


def _documents(sizes: tuple[int, ...], rounds: int) -> Experiment:
    def prepare(installation: Installation) -> None:
        for size in sizes:
            material.documents(installation.folder / f"growth-{size}", size, material.KIB)

    def before(size: int) -> Callable[[Installation], dict[str, Any]]:
        def settle(installation: Installation) -> dict[str, Any]:
            installation.empty()
            return {"batch": installation.apply(installation.folder / f"growth-{size}"), "check": True}

        return settle

    def check(size: int, installation: Installation, _: Figures) -> None:
        require_rows(installation, size)

    sides = [Side(str(size), stage, before(size), partial(check, size)) for size in sizes]
    return Experiment(DOCUMENTS, prepare, sides, rounds)
