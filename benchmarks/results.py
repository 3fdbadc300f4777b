"""The results of cases as JSON files, one for each case: the source of the table and the plot."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.figures import MIB, Figure, Measured, quartiles
from benchmarks.harness import Measurement

VERSION = 1
# Columns of each side: name, value, decimals.
_SUMMARY: tuple[tuple[str, Callable[[Measurement], float], int], ...] = (
    ("seconds", lambda m: m.seconds, 4),
    ("client_cpu_seconds", lambda m: m.client_cpu, 2),
    ("server_cpu_seconds", lambda m: m.server_cpu, 2),
    ("wal_megabytes", lambda m: m.wal_bytes / 1e6, 2),
    ("client_mib_above_idle", lambda m: m.client_bytes / MIB, 1),
    ("server_mib", lambda m: m.server_bytes / MIB, 1),
)


@dataclass(frozen=True)
class CaseResult:
    """The stored result of a case: `experiments` has medians of each side, `runs` the cost of each run."""

    version: int
    case: str
    work: str
    yardstick: str
    taken_at: str
    machine: dict[str, Any]
    figures: list[Figure]
    experiments: dict[str, dict[str, dict[str, float]]]
    runs: dict[str, list[dict[str, Any]]]

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return len({run["round"] for found in self.runs.values() for run in found})


def case_result(case: Case, measured: Measured, machine: dict[str, Any]) -> CaseResult:
    """Compute the figures of a case and collect everything that is stored about it."""
    return CaseResult(
        version=VERSION,
        case=case.name,
        work=case.work,
        yardstick=case.yardstick,
        taken_at=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine,
        figures=[_rounded(figure) for figure in case.judge(measured)],
        experiments={name: _sides(found) for name, found in measured.items()},
        runs={name: [_run(m) for m in found] for name, found in measured.items()},
    )


def write_result(result: CaseResult, folder: Path) -> Path:
    """Write the result of a case, replacing an earlier one; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"case-{result.case}.json"
    content = {**asdict(result), "runs": "@runs"}
    # One line for each run, so that a new measurement gives a readable diff.
    runs = ",\n".join(
        f"  {json.dumps(name)}: [\n"
        + ",\n".join(f"   {json.dumps(run, ensure_ascii=False)}" for run in found)
        + "\n  ]"
        for name, found in result.runs.items()
    )
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text.replace('"@runs"', "{\n" + runs + "\n }") + "\n")
    return path


def read_results(folder: Path) -> list[CaseResult]:
    """All results of a folder, by case."""
    found = [json.loads(path.read_text()) for path in folder.glob("case-*.json")]
    found.sort(key=lambda content: order(content["case"]))
    return [
        CaseResult(**{**content, "figures": [Figure(**figure) for figure in content["figures"]]})
        for content in found
    ]


def order(case: str) -> tuple[int, str]:
    """The sort key of a case: its number, then its letter."""
    letter = case.lstrip("0123456789")
    return int(case.removesuffix(letter)), letter


def _sides(measurements: Iterable[Measurement]) -> dict[str, dict[str, float]]:
    by_side: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_side.setdefault(measurement.side, []).append(measurement)
    return {
        side: {name: round(quartiles([take(m) for m in found])[1], digits) for name, take, digits in _SUMMARY}
        for side, found in sorted(by_side.items())
    }


def _run(measurement: Measurement) -> dict[str, Any]:
    return {
        "side": measurement.side,
        "round": measurement.round,
        **{name: round(take(measurement), digits) for name, take, digits in _SUMMARY},
        "load": round(measurement.load, 2),
        **{
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in measurement.figures.items()
        },
    }


def _rounded(figure: Figure) -> Figure:
    values = {name: float(f"{getattr(figure, name):.4g}") for name in ("median", "low", "high")}
    return Figure(**{**asdict(figure), **values})
