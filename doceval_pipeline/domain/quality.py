"""Defects of results: a processor wrote something that cannot be right."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """The successful evaluations of a connection and prompt, and how many have each defect."""

    connection_id: int
    prompt_id: int
    succeeded: int
    empty: int
    """Neither text nor JSON in the response."""
    not_json: int
    """`response_json` is not valid JSON."""
    without_score: int
    out_of_range: int
    """The score is not from 0 to 100."""
    impossible_numbers: int
    """Numbers that were dropped from results, failed ones included, such as negative tokens."""
    stuck: bool
    """Every document got the same text, and there are enough documents to tell."""

    @property
    def is_sound(self) -> bool:
        """Whether the results have no defect."""
        counts = (self.empty, self.not_json, self.without_score, self.out_of_range, self.impossible_numbers)
        return not (any(counts) or self.stuck)
