"""A benchmark case: its name, its work, its experiments, and its goals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure, Measured
from benchmarks.harness import Experiment


@dataclass(frozen=True)
class Case:
    """One line of the table in docs/performance.md.

    Parameters
    ----------
    work, yardstick
        Descriptions of the measured work, and of what it is compared with.
    experiments
        In order; each finds the databases as the previous one left them.
    judge
        Computes the figures from the measurements; those with a goal decide.
    """

    name: str
    work: str
    yardstick: str
    experiments: Sequence[Experiment]
    judge: Callable[[Measured], list[Figure]]
