"""Measures how much of a document a request contains, as text or base64 in any of its strings."""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from doceval_pipeline.conformance.cases import ConformanceCase

# A shorter run of base64 letters may be an ordinary word; documents this short are searched literally.
SHORT = 20
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")


@dataclass(frozen=True, kw_only=True)
class DocumentMatch:
    """Whether the complete document arrived; otherwise the number of characters of its text or base64."""

    is_complete: bool
    characters: int = 0
    encoding: str = "text"


def match_document(case: ConformanceCase, request: Any) -> DocumentMatch:
    """Find the document of a case in the JSON of a request."""
    best = DocumentMatch(is_complete=not case.content)
    for text in _strings(request):
        for match in (_as_text(case, text), _as_base64(case, text)):
            if (match.is_complete, match.characters) > (best.is_complete, best.characters):
                best = match
    return best


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _as_text(case: ConformanceCase, text: str) -> DocumentMatch:
    if not case.is_text:
        return DocumentMatch(is_complete=False)
    content = case.content.decode()
    if content in text:
        return DocumentMatch(is_complete=True)
    return DocumentMatch(is_complete=False, characters=_longest_prefix(content, text))


def _as_base64(case: ConformanceCase, text: str) -> DocumentMatch:
    encoded = base64.b64encode(case.content).decode()
    if encoded and len(encoded) <= SHORT and encoded in text:
        return DocumentMatch(is_complete=True)
    best = DocumentMatch(is_complete=False, encoding="base64")
    for run in _BASE64.finditer(text):
        try:
            if base64.b64decode(run[0], validate=True) == case.content:
                return DocumentMatch(is_complete=True)
        except binascii.Error:
            pass
        if encoded[:16] == run[0][:16] and len(run[0]) > best.characters:
            best = DocumentMatch(is_complete=False, characters=len(run[0]), encoding="base64")
    return best


def _longest_prefix(content: str, text: str) -> int:
    """Length of the longest prefix of `content` that is in `text`, in characters; 0 below 16."""
    start = text.find(content[:16])
    if start < 0:
        return 0
    low, high = 16, len(content)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text.startswith(content[:middle], start) else (low, middle - 1)
    return low
