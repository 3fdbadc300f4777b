"""Include and exclude patterns as in .gitignore, and what they miss by upper and lower case only.

Patterns match either Unicode form of a name. Upper and lower case differ, as they do in .gitignore, so
that `*.pdf` leaves out `X.PDF`: what is missed that way is counted and shown.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pathspec

from doceval_pipeline.unicode_names import composed

# The last part of a pattern that names an ending, such as *.pdf.
_ENDING = re.compile(r"\*(\.[^*?/\[\]\\]+)")


class Patterns:
    """Patterns that are compiled once; without any, nothing matches."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [composed(pattern) for pattern in patterns]
        self._spec = pathspec.PathSpec.from_lines("gitignore", self._patterns)

    def match(self, path: str) -> bool:
        """Whether the patterns choose a path below the folder."""
        return bool(self._patterns) and self._spec.match_file(composed(path))


@dataclass(frozen=True)
class MissedByCase:
    """Files that patterns would choose if upper and lower case were the same: how many, and the first."""

    files: int
    example: str
    remedy: str


def missed_by_case(patterns: Sequence[str], paths: Iterable[str]) -> MissedByCase | None:
    """Find out which paths the patterns choose only if upper and lower case are the same.

    Parameters
    ----------
    paths
        Paths below the folder that the patterns do not choose as they are.
    """
    lowered = Patterns(pattern.lower() for pattern in patterns)
    missed = [path for path in paths if lowered.match(path.lower())]
    if not missed:
        return None
    # Of several patterns, the last one that matches counts.
    pattern = next(p for p in reversed(patterns) if Patterns([p.lower()]).match(missed[0].lower()))
    return MissedByCase(len(missed), missed[0], _remedy(pattern, missed[0]))


def _remedy(pattern: str, path: str) -> str:
    """The pattern in the case of the path where it names an ending, and one for every case."""
    any_case = _in_any_case(pattern)
    ending = _ENDING.fullmatch(pattern.rsplit("/", 1)[-1])
    if ending is None:
        return repr(any_case)
    length = len(ending[1])
    return f"{pattern[:-length] + path[-length:]!r}, or {any_case!r} for any case"


def _in_any_case(pattern: str) -> str:
    """A pattern that matches what this one does, whatever the case: *.pdf becomes *.[pP][dD][fF]."""
    return re.sub(r"\\.|\[[^\]]*\]|.", lambda part: _both_cases(part[0]), pattern)


def _both_cases(part: str) -> str:
    lower, upper = part.lower(), part.upper()
    return f"[{lower}{upper}]" if len(part) == len(lower) == len(upper) == 1 and lower != upper else part
