"""Include and exclude patterns as in .gitignore, and what they miss by upper and lower case only.

Patterns match either Unicode form of a name. Upper and lower case differ, as they do in .gitignore, so
that `*.pdf` leaves out `X.PDF`: what is missed that way is counted and shown.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pathspec

from doceval_pipeline.names import normal

# The last part of a pattern that names an ending, such as *.pdf.
_ENDING = re.compile(r"\*(\.[^*?/\[\]\\]+)")


class Patterns:
    """Patterns that are compiled once; without any, nothing matches."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [normal(pattern) for pattern in patterns]
        with warnings.catch_warnings():
            # Of brackets in brackets, which mean themselves here.
            warnings.simplefilter("ignore", FutureWarning)
            self._spec = pathspec.PathSpec.from_lines("gitignore", self._patterns)

    def match(self, path: str) -> bool:
        """Whether the patterns choose a path below the folder."""
        return bool(self._patterns) and self._spec.match_file(normal(path))


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
    return MissedByCase(len(missed), missed[0], _remedy(patterns, missed))


def _remedy(patterns: Sequence[str], missed: Sequence[str]) -> str:
    """Patterns that choose what was missed: in the case of one path where that is enough, or in any case."""
    # Of several patterns, the last one that matches counts.
    pattern = next(p for p in reversed(patterns) if Patterns([p.lower()]).match(missed[0].lower()))
    ending = _ENDING.fullmatch(pattern.rsplit("/", 1)[-1])
    same = pattern[: -len(ending[1])] + missed[0][-len(ending[1]) :] if ending else ""
    any_case = [_in_any_case(normal(one)) for one in patterns if not one.startswith("!")]
    enough = all(map(Patterns(any_case[:1]).match, missed))
    suggested = [one for one in any_case[:1] if enough] or any_case
    simple = f"{same!r}, or " if same and all(map(Patterns([same]).match, missed)) else ""
    if not simple and not all(map(Patterns(suggested).match, missed)):
        return "a pattern with the names as they are"
    return f"{simple}{', '.join(map(repr, suggested))} for any case"


def _in_any_case(pattern: str) -> str:
    """A pattern that matches what this one does, whatever the case: *.pdf becomes *.[pP][dD][fF]."""
    return re.sub(r"\\.|\[[^\]]*\]|.[\u0300-\u036f]*", lambda part: _both_cases(part[0]), pattern)


def _both_cases(part: str) -> str:
    if part.startswith("["):
        mark = part[1:2] if part[1:2] in ("!", "^") else ""
        chosen = part[1 + len(mark) : -1]
        return part if chosen.swapcase() == chosen else f"[{mark}{chosen}{chosen.swapcase()}]"
    lower, upper = part.lower(), part.upper()
    return f"[{lower}{upper}]" if len(part) == len(lower) == len(upper) == 1 and lower != upper else part
