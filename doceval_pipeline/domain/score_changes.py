"""How scores changed between two columns: of two batches, or of two connections or prompts."""

from dataclasses import dataclass

from doceval_pipeline.domain.findings import Difference


@dataclass(frozen=True, slots=True)
class ScoreShift:
    """A document, by name, with its scores before and after."""

    document: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class ScoreChanges:
    """How scores changed from one column to another over the documents with both scores."""

    difference: Difference
    rose: int
    """Documents whose score rose; `fell` and `same` count the others."""
    fell: int
    same: int
    net: float
    """Mean change, in points."""
    gross: float
    """Mean size of the changes, in points: larger than `net` if ups and downs cancel out."""
    threshold: float
    """A score of it or more is good."""
    flipped_up: int
    """Documents that crossed `threshold` upwards; `flipped_down` counts the opposite."""
    flipped_down: int
    flips: tuple[ScoreShift, ...]
    """The largest changes."""
    only_first: int
    """Documents that have a score only in the first column, or only in the second (`only_second`)."""
    only_second: int
