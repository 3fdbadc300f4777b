"""How much of a document is in a request: as text, or as base64 anywhere in any string of it. Pure."""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from doceval_pipeline.conformance.cases import Case

# A shorter run of these letters may be an ordinary word; what is so short is looked for as it is.
SHORT = 20
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")


@dataclass(frozen=True)
class Arrival:
    """Whether the whole document arrived; else how many characters did, of its text or its base64."""

    whole: bool
    characters: int = 0
    encoding: str = "text"


def arrival_of(case: Case, request: Any) -> Arrival:
    """Look for a case's document in the JSON of a request."""
    best = Arrival(not case.content)
    for text in _strings(request):
        for found in (_as_text(case, text), _as_base64(case, text)):
            if (found.whole, found.characters) > (best.whole, best.characters):
                best = found
    return best


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _as_text(case: Case, text: str) -> Arrival:
    if not case.is_text:
        return Arrival(False)
    wanted = case.content.decode()
    if wanted in text:
        return Arrival(True)
    return Arrival(False, _longest_beginning(wanted, text))


def _as_base64(case: Case, text: str) -> Arrival:
    wanted = base64.b64encode(case.content).decode()
    if wanted and len(wanted) <= SHORT and wanted in text:
        return Arrival(True)
    best = Arrival(False, encoding="base64")
    for run in _BASE64.finditer(text):
        try:
            if base64.b64decode(run[0], validate=True) == case.content:
                return Arrival(True)
        except binascii.Error:
            pass
        if wanted[:16] == run[0][:16]:
            best = max(best, Arrival(False, len(run[0]), "base64"), key=lambda found: found.characters)
    return best


def _longest_beginning(wanted: str, text: str) -> int:
    """How many characters of the beginning of `wanted` stand somewhere in `text`, from 16 on."""
    start = text.find(wanted[:16])
    if start < 0:
        return 0
    low, high = 16, len(wanted)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text.startswith(wanted[:middle], start) else (low, middle - 1)
    return low
