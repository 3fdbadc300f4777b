"""The figures of a case: medians of paired ratios and of absolute values, with goals."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.harness import Measurement

Value = Callable[[Measurement], float]
Measured = dict[str, list[Measurement]]
"""The measurements of a case by the name of their experiment."""

MIB = 1024 * 1024


@dataclass(frozen=True)
class Figure:
    """One number of a case.

    `low` and `high` are the quartiles over the rounds. `goal` is the largest value that meets the goal, the
    smallest one if `more_is_better`, or None if the figure only explains another one.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    goal: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.more_is_better else self.median <= self.goal

    @property
    def of_goal(self) -> float | None:
        """The median as a share of the goal, 1 or less if it is met; None without a goal."""
        if self.goal is None:
            return None
        return self.goal / self.median if self.more_is_better else self.median / self.goal


def seconds(measurement: Measurement) -> float:
    """Elapsed seconds of a run."""
    return measurement.seconds


def server_cpu(measurement: Measurement) -> float:
    """CPU time of the server in seconds; at least one tick, the resolution of the kernel."""
    return max(measurement.server_cpu, 0.01)


def cpu_seconds(measurement: Measurement) -> float:
    """CPU time of client and server together, in seconds; other programs on the machine change it less."""
    return measurement.client_cpu + server_cpu(measurement)


def wal_bytes(measurement: Measurement) -> float:
    """WAL that the server wrote, in bytes."""
    return measurement.wal_bytes


def reported(name: str, divided_by: float = 1) -> Value:
    """A figure that the work itself reported, divided by `divided_by`."""
    return lambda measurement: float(measurement.figures[name]) / divided_by


def of(measurements: Iterable[Measurement], side: str) -> list[Measurement]:
    """The measurements of one side, by round."""
    return sorted((m for m in measurements if m.side == side), key=lambda m: m.round)


def ratio(
    name: str,
    measurements: Sequence[Measurement],
    ours: str,
    yardstick: str,
    goal: float | None = None,
    value: Value = seconds,
    *,
    more_is_better: bool = False,
    below: Value | None = None,
) -> Figure:
    """The ratio of two sides, computed per round, so that a busy machine affects both sides alike.

    Parameters
    ----------
    value
        The compared value of `ours`.
    below
        The value of `yardstick`, if it is not the same as `value`.
    """
    pairs = zip(of(measurements, ours), of(measurements, yardstick), strict=True)
    ratios = [value(mine) / (below or value)(other) for mine, other in pairs]
    return _figure(name, "×", ratios, goal, more_is_better=more_is_better)


def absolute(
    name: str,
    unit: str,
    measurements: Sequence[Measurement],
    side: str,
    value: Value,
    goal: float | None = None,
) -> Figure:
    """A value of one side."""
    return _figure(name, unit, [value(m) for m in of(measurements, side)], goal)


def quantile(
    name: str,
    unit: str,
    measurements: Sequence[Measurement],
    side: str,
    value: Value,
    percent: int,
    goal: float,
) -> Figure:
    """A percentile of one side, with the smallest and the largest value as its spread."""
    values = sorted(value(m) for m in of(measurements, side))
    at = (
        statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
    )
    return Figure(name, unit, at, values[0], values[-1], goal)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _figure(
    name: str, unit: str, values: Sequence[float], goal: float | None, *, more_is_better: bool = False
) -> Figure:
    low, middle, high = quartiles(values)
    return Figure(name, unit, middle, low, high, goal, more_is_better)
