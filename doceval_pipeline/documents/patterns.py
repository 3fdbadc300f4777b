"""Include and exclude patterns as in .gitignore, and the files that they miss because of letter case.

Patterns match either Unicode form of a name. Letter case matters, as in .gitignore: `*.pdf` does not match
`X.PDF`. Files that are missed that way are counted and shown.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pathspec

from doceval_pipeline.names import normal

# The last part of a pattern for a file extension, such as *.pdf.
_ENDING = re.compile(r"\*(\.[^*?/\[\]\\]+)")


class Patterns:
    """Compiled patterns; an empty list matches nothing."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [normal(pattern) for pattern in patterns]
        with warnings.catch_warnings():
            # Python warns about nested brackets, which are literal here.
            warnings.simplefilter("ignore", FutureWarning)
            self._spec = pathspec.PathSpec.from_lines("gitignore", self._patterns)

    def match(self, path: str) -> bool:
        """Whether the patterns match a path relative to the folder."""
        return bool(self._patterns) and self._spec.match_file(normal(path))


@dataclass(frozen=True)
class MissedByCase:
    """Files that the patterns miss only because of letter case: their number, the first, and the remedy."""

    files: int
    example: str
    remedy: str


def missed_by_case(patterns: Sequence[str], paths: Iterable[str]) -> MissedByCase | None:
    """The paths that the patterns would match if they ignored letter case; None if there are none.

    Parameters
    ----------
    paths
        Paths relative to the folder that the patterns do not match.
    """
    lowered = Patterns(pattern.lower() for pattern in patterns)
    missed = [path for path in paths if lowered.match(path.lower())]
    if not missed:
        return None
    return MissedByCase(len(missed), missed[0], _remedy(patterns, missed))


def _remedy(patterns: Sequence[str], missed: Sequence[str]) -> str:
    """Patterns that match the missed files: in the case of one path if possible, otherwise in any case."""
    # If several patterns match, the last one counts.
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
    """The pattern that matches the same names in any letter case: *.pdf becomes *.[pP][dD][fF]."""
    return re.sub(r"\\.|\[[^\]]*\]|.[\u0300-\u036f]*", lambda part: _both_cases(part[0]), pattern)


def _both_cases(part: str) -> str:
    if part.startswith("["):
        mark = part[1:2] if part[1:2] in ("!", "^") else ""
        chosen = part[1 + len(mark) : -1]
        return part if chosen.swapcase() == chosen else f"[{mark}{chosen}{chosen.swapcase()}]"
    lower, upper = part.lower(), part.upper()
    return f"[{lower}{upper}]" if len(part) == len(lower) == len(upper) == 1 and lower != upper else part
