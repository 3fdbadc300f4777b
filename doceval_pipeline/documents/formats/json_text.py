"""JSON and JSON Lines, recognised by parsing.

A document of up to `MOST_JSON` bytes is parsed completely. Of a longer one only the first `MOST_JSON` bytes
are parsed, and it must end with the bracket that closes its first one; mistakes in between are not found.
Nesting is bounded by Python's recursion limit: deeper documents are text. Only objects and arrays count,
because people see a number or a quoted word as text.
"""

import codecs
import json
from typing import NoReturn

from doceval_pipeline.documents.source import Source

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
MOST_JSON = 1024 * 1024
MOST_LINES = 100
_CLOSING = {"{": b"}", "[": b"]"}
# The longest token that the end of the parsed part may cut, and how many bytes may follow the last bracket.
_CUT_CHARACTERS = 24
_END_BYTES = 64


def json_type(source: Source) -> str | None:
    """`JSON`, `JSON_LINES`, or None."""
    content = source.at(0, MOST_JSON)
    is_whole = len(content) == source.size
    text = _text(content, is_whole=is_whole).lstrip()
    if text[:1] not in _CLOSING:
        return None
    end = source.at(max(0, source.size - _END_BYTES), _END_BYTES)
    closed = end.rstrip(b" \t\r\n\0").endswith(_CLOSING[text[0]])
    if closed and (_parses(text) if is_whole else _begins_well(text)):
        return JSON
    return JSON_LINES if _are_lines(text, is_whole=is_whole) else None


def _text(content: bytes, *, is_whole: bool) -> str:
    """The characters, decoded by the encoding that the first bytes show; empty if they are not text."""
    try:
        decoder = codecs.getincrementaldecoder(json.detect_encoding(content))()
        return decoder.decode(content, is_whole)
    except UnicodeDecodeError:
        return ""


def _refuse(word: str) -> NoReturn:
    """Reject NaN and Infinity, which Python accepts and the JSON standard does not."""
    raise ValueError(word)


# Numbers stay text, because converting thousands of digits is slow.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=str, parse_float=str)


def _parses(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_well(text: str) -> bool:
    """Whether the only mistake in a text is that it is cut."""
    try:
        _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _CUT_CHARACTERS
    except (ValueError, RecursionError):
        return False
    return False


def _are_lines(text: str, *, is_whole: bool) -> bool:
    """Whether a text has several lines and each is an object or an array."""
    lines = text.split("\n", MOST_LINES)
    if not is_whole or len(lines) > MOST_LINES:
        lines.pop()
    lines = [line for line in lines if line.strip()]
    return len(lines) > 1 and all(line.lstrip()[:1] in _CLOSING and _parses(line) for line in lines)
