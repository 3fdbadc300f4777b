"""What a case is made of: a number, what it measures, its experiments, and how it is judged."""

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
        What is measured, and beside what, in words.
    experiments
        In their order; each later one finds the databases as the one before left them.
    judge
        Makes the figures of the measurements; what has a goal decides.
    """

    number: int
    work: str
    yardstick: str
    experiments: Sequence[Experiment]
    judge: Callable[[Measured], list[Figure]]
