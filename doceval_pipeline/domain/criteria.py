"""What people expect of the scores of a prompt."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Criterion:
    """How the scores of a prompt are judged. Not sealed: the newest values count."""

    threshold: float | None = None
    """Documents with a lower score are listed, from 0 to 100; None if there is none."""
    weight: float | None = None
    """Share of the prompt in the overall ranking, relative to other prompts; None if it has no part in it."""
