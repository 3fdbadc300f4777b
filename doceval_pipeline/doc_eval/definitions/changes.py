"""What an apply replaced in definitions that existed, as data and in a line for people."""

import json
from dataclasses import dataclass, field
from typing import Any

from doceval_pipeline.doc_eval.batches import partition_key

# How much of a value is shown, and of what is the same before the first difference.
CHARACTERS = 80
CONTEXT = 20
MOST_NAMES = 5


@dataclass(frozen=True)
class Change:
    """A value that was replaced: of which connection, prompt, batch or recurring evaluation, under which key.

    `batches` are the numbers of the open batches on which it has an effect. Prices count for each that is not
    completed, everything else for those whose staging has not begun. `recurring` names the recurring
    evaluations whose next occurrence has the new value.
    """

    kind: str
    name: str
    key: str
    old: Any
    new: Any
    batches: list[int]
    recurring: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The change in one line: both values where they begin to differ, and the batches."""
        old, new = _differing(_text(self.old), _text(self.new))
        return f"{self.kind} {self.name!r}: {self.key} {old} → {new}{self._effect}"

    @property
    def _effect(self) -> str:
        if self.kind == "batch":
            return ""
        if self.kind == "recurring evaluation":
            return "; takes effect at the next occurrence"
        affected = [_listed([partition_key(number) for number in self.batches])] if self.batches else []
        if self.recurring:
            affected.append(f"the next occurrence of {_listed(self.recurring)}")
        return f"; affects {' and '.join(affected)}" if affected else "; no open batch is affected"


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _text(value: Any) -> str:
    return "none" if value in (None, "", [], {}) else json.dumps(value, ensure_ascii=False)


def _differing(old: str, new: str) -> tuple[str, str]:
    """Two texts, of long ones the part in which they begin to differ."""
    start = 0
    if max(len(old), len(new)) > CHARACTERS:
        pairs = enumerate(zip(old, new, strict=False))
        start = max(0, next((place for place, (a, b) in pairs if a != b), min(len(old), len(new))) - CONTEXT)
    return _cut(old, start), _cut(new, start)


def _cut(text: str, start: int) -> str:
    end = start + CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
