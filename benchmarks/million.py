"""Case 11: a batch of a million documents, compared with the cost per document of a batch of 10,000.

Each document is a file of 64 bytes with one cell, so that what a document costs in every list counts, and not
its bytes.
"""

from typing import Any

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures
from benchmarks.figures import (
    MIB,
    Figure,
    Measured,
    Value,
    absolute,
    cpu_seconds,
    quartiles,
    seconds,
    wal_bytes,
)
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, client_mib, require_contents, require_rows, stage

BYTES = 64


def million(*, quick: bool) -> Case:
    """Case 11."""
    few, many = (20, 200) if quick else (10_000, 1_000_000)
    experiments = [_staging(few, 1 if quick else 5), _staging(many, 1)]

    def judge(measured: Measured) -> list[Figure]:
        def beside(name: str, value: Value, goal: float | None = None) -> Figure:
            return _per_document(name, measured, few, many, value, goal)

        found = measured[str(many)]
        return [
            beside("time per document", seconds, 1.1),
            beside("CPU per document", cpu_seconds),
            beside("WAL per document", wal_bytes),
            absolute("client above idle", "MiB", found, OURS, client_mib, 150),
            absolute("private memory of the largest backend", "MiB", found, OURS, _backend_mib, 100),
        ]

    work = f"stage {many:,} documents of {BYTES} bytes in one batch"
    return Case("11", work, f"a batch of {few:,}", experiments, judge)


def _staging(count: int, rounds: int) -> Experiment:
    expected: list[tuple[int, str]] = []

    def prepare(installation: Installation) -> None:
        folder = material.documents(installation.folder / f"many-{count}", count, BYTES)
        expected.append((count, material.digests(folder)))

    def before(installation: Installation) -> dict[str, Any]:
        installation.empty()
        return {"batch": installation.apply(installation.folder / f"many-{count}"), "check": True}

    def check(installation: Installation, _: Figures) -> None:
        require_contents(installation, expected[0])
        require_rows(installation, count)

    return Experiment(str(count), prepare, [Side(OURS, stage, before, check)], rounds)


def _per_document(
    name: str, measured: Measured, few: int, many: int, value: Value, goal: float | None
) -> Figure:
    """The cost per document in the large batch, relative to each run of the small one."""
    ratios = [
        (value(large) / many) / (value(small) / few)
        for large in measured[str(many)]
        for small in measured[str(few)]
    ]
    low, middle, high = quartiles(ratios)
    return Figure(name, "×", middle, low, high, goal)


def _backend_mib(measurement: Measurement) -> float:
    return measurement.backend_bytes / MIB
