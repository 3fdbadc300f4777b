"""How scores differ between two columns: of two batches, or of two connections or prompts."""

from dataclasses import dataclass
from enum import StrEnum

from doceval_pipeline.domain.findings import Difference

THRESHOLD = 50.0
"""A document with at least this score is good, unless the caller passes another threshold."""


class Dimension(StrEnum):
    """What the two sides of a comparison differ in."""

    CONNECTION = "connection"
    PROMPT = "prompt"
    TIME = "time"
    """The sides are two batches, the first of which counts as the earlier one."""


@dataclass(frozen=True, slots=True)
class ScoreShift:
    """A document, by name, with its scores on the first and on the second side."""

    document: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class ScoreChanges:
    """How scores differ from one column to another over the documents with both scores."""

    difference: Difference
    rose: int
    """Documents whose score is higher in the second column; `fell` and `same` count the others."""
    fell: int
    same: int
    net: float
    """Mean difference, in points."""
    gross: float
    """Mean size of the differences, in points: larger than `net` if ups and downs cancel out."""
    threshold: float
    """A score of it or more is good."""
    flipped_up: int
    """Documents that reach `threshold` only in the second column; `flipped_down` only in the first."""
    flipped_down: int
    flips: tuple[ScoreShift, ...]
    """The largest differences."""
    only_first: int
    """Documents that have a score only in the first column, or only in the second (`only_second`)."""
    only_second: int
