"""JSON and lines of JSON, told by parsing and not by looks.

A document of up to `MOST_JSON` bytes is parsed as a whole. Of a longer one that much is parsed, so a
mistake further on stays unseen, and it must end with the bracket that closes its first one. Nesting is
bounded by the recursion limit of Python; what lies deeper is text. Only objects and arrays count: a
number or a word in quotation marks is text to people.
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
# The longest word that the end of what is parsed may cut, and what may follow the last bracket.
_CUT_CHARACTERS = 24
_END_BYTES = 64


def json_type(source: Source) -> str | None:
    """`JSON`, `JSON_LINES`, or None."""
    content = source.at(0, MOST_JSON)
    is_whole = len(content) == source.size
    text = _text(content, is_whole).lstrip()
    if text[:1] not in _CLOSING:
        return None
    end = source.at(max(0, source.size - _END_BYTES), _END_BYTES)
    closed = end.rstrip(b" \t\r\n\0").endswith(_CLOSING[text[0]])
    if closed and (_parses(text) if is_whole else _begins_well(text)):
        return JSON
    return JSON_LINES if _are_lines(text, is_whole) else None


def _text(content: bytes, is_whole: bool) -> str:
    """The characters, in the encoding that the first bytes show; none where they are not text."""
    try:
        decoder = codecs.getincrementaldecoder(json.detect_encoding(content))()
        return decoder.decode(content, is_whole)
    except UnicodeDecodeError:
        return ""


def _refuse(word: str) -> NoReturn:
    """NaN and Infinity, which Python reads and the standard does not know."""
    raise ValueError(word)


# Numbers stay text: making thousands of digits into one takes time.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=str, parse_float=str)


def _parses(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_well(text: str) -> bool:
    """Whether nothing is wrong with a text but that it is cut."""
    try:
        _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _CUT_CHARACTERS
    except (ValueError, RecursionError):
        return False
    return False


def _are_lines(text: str, is_whole: bool) -> bool:
    """Whether there are several lines, each an object or an array."""
    lines = text.split("\n", MOST_LINES)
    if not is_whole or len(lines) > MOST_LINES:
        lines.pop()
    lines = [line for line in lines if line.strip()]
    return len(lines) > 1 and all(line.lstrip()[:1] in _CLOSING and _parses(line) for line in lines)
