"""Parses hostile JSON in pieces and in bounded memory, with the same result as PostgreSQL.

Strings of more than `LONG` bytes are checked but not kept. A placeholder with their size and sha256 replaces
them, so that they can still be compared. The rest of a value, its structure and short strings, is bounded and
parsed by the standard library.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Never

MIB = 1024 * 1024
LONG = 1024
# Limit of the databases for each text, in bytes of UTF-8.
LARGEST_TEXT = 16 * MIB
# Limit of one encoded value with its strings; a character may be encoded in six bytes.
LARGEST_VALUE = 512 * MIB
# Limit of a value without its long strings.
LARGEST_STRUCTURE = 2 * MIB
MOST_NODES = 100_000
DEEPEST = 100
# Values up to this size are parsed directly.
SMALL = 64 * 1024

# Random, so that no string of an archive can imitate a placeholder.
_MARK = f"{secrets.token_hex(16)}:"
# Complete encoded characters of a string, up to its end or to a cut character.
_CHARACTERS = re.compile(
    rb'(?:[^"\\]++'
    rb'|\\["\\/bfnrt]'
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*+"
)
_LONGEST_CHARACTER = 12


class JsonError(Exception):
    """Why a text is rejected, as the predicate of a sentence: `contains ...`."""


def long_text(size: int, sha256: str) -> str:
    """The placeholder of a string of `size` bytes."""
    return f"{_MARK}{size}:{sha256}"


def is_long(text: str) -> bool:
    """Whether a string is a placeholder of a long one."""
    return text.startswith(_MARK)


def parse(content: bytes | bytearray) -> Any:
    """The value of a JSON text that fits into memory.

    Raises
    ------
    JsonError
        It is invalid or too deep, or contains a duplicate key, NaN, or a string that cannot be stored.
    """
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_without_repetition, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise JsonError("contains invalid JSON") from None
    if b"\\u" in content or content.count(b"{") + content.count(b"[") > DEEPEST:
        _inspect(value)
    return value


def value_of(pieces: Iterable[bytes]) -> Any:
    """The value of a JSON text in pieces; raises as `parse`."""
    text = _Text()
    for piece in pieces:
        text.add(piece)
    return text.value()


def values(pieces: Iterable[bytes]) -> Iterator[Any]:
    """The values of a text with one value per terminated line; raises as `parse`."""
    text = _Text()
    for piece in pieces:
        begin = 0
        while (end := piece.find(b"\n", begin)) >= 0:
            text.add(piece[begin:end])
            yield text.value()
            text, begin = _Text(), end + 1
        text.add(piece[begin:])
    if text.size:
        raise JsonError("contains an unterminated line")


class _Text:
    """The received part of a JSON text; large texts keep only their structure."""

    def __init__(self) -> None:
        self.size = 0
        self._small: list[bytes] = []
        self._structure: _Structure | None = None

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > LARGEST_VALUE:
            raise JsonError(f"contains a value of more than {LARGEST_VALUE // MIB} MiB")
        if self._structure is not None:
            self._structure.add(piece)
            return
        self._small.append(piece)
        if self.size > SMALL:
            self._structure = _Structure()
            for part in self._small:
                self._structure.add(part)
            self._small.clear()

    def value(self) -> Any:
        if self._structure is None:
            return parse(b"".join(self._small))
        return parse(self._structure.finished())


class _Structure:
    """A JSON text without its long strings."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._nodes = 0
        self._cut = b""
        self._text: _String | None = None

    def add(self, piece: bytes) -> None:
        data = self._cut + piece
        self._cut, place = b"", 0
        while place < len(data):
            if self._text is None:
                place = self._outside(data, place)
            else:
                place = self._inside(data, place, self._text)
                if self._cut:
                    return

    def finished(self) -> bytearray:
        if self._text is not None or self._cut:
            raise JsonError("contains invalid JSON")
        return self._kept

    def _outside(self, data: bytes, place: int) -> int:
        quote = data.find(b'"', place)
        end = len(data) if quote < 0 else quote
        part = data[place:end]
        self._nodes += part.count(b",") + part.count(b"{") + part.count(b"[")
        self._keep(part)
        if self._nodes > MOST_NODES:
            raise JsonError(f"contains a value with more than {MOST_NODES:,} elements")
        if quote < 0:
            return end
        self._text = _String()
        return quote + 1

    def _inside(self, data: bytes, place: int, text: "_String") -> int:
        """Consume the characters of a string; a cut character at the end waits for more data."""
        match = _CHARACTERS.match(data, place)
        end = place if match is None else match.end()
        if end < len(data) and data[end] == ord('"'):
            text.add(data[place:end])
            self._keep(text.written())
            self._text = None
            return end + 1
        if len(data) - end >= _LONGEST_CHARACTER:
            raise JsonError("contains an invalid JSON string")
        end = _whole_characters(data, place, end)
        text.add(data[place:end])
        self._cut = data[end:]
        return len(data)

    def _keep(self, part: bytes) -> None:
        self._kept += part
        if len(self._kept) > LARGEST_STRUCTURE:
            raise JsonError(
                f"contains a value of more than {LARGEST_STRUCTURE // MIB} MiB, not counting its strings"
            )


class _String:
    """A string: kept if it is short; only measured and hashed if it is long."""

    def __init__(self) -> None:
        self._short = bytearray()
        self._digest = hashlib.sha256()
        self._size = 0

    def add(self, written: bytes) -> None:
        try:
            text = json.loads(f'"{written.decode()}"')
            characters: bytes = text.encode()
        except ValueError:
            raise JsonError("contains an invalid JSON string") from None
        if b"\0" in characters:
            raise JsonError("contains a string that cannot be stored")
        self._digest.update(characters)
        self._size += len(characters)
        if self._size > LARGEST_TEXT:
            raise JsonError(f"contains a string of more than {LARGEST_TEXT // MIB} MiB")
        if self._size <= LONG:
            self._short += written

    def written(self) -> bytes:
        if self._size <= LONG:
            return b'"' + self._short + b'"'
        return f'"{long_text(self._size, self._digest.hexdigest())}"'.encode()


def _whole_characters(data: bytes, place: int, end: int) -> int:
    """End of the last complete UTF-8 character before `end`."""
    for back in range(1, min(4, end - place + 1)):
        byte = data[end - back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return end if length <= back else end - back
        if byte < 0x80:
            break
    return end


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _refuse_constant(name: str) -> Never:
    raise ValueError(name)


def _inspect(value: Any) -> None:
    """Raise for strings that PostgreSQL cannot store, and for too many levels; not recursive."""
    level, values = 0, [value]
    while values:
        level += 1
        if level > DEEPEST:
            raise JsonError(f"contains a value with more than {DEEPEST} levels")
        inner: list[Any] = []
        for one in values:
            if isinstance(one, dict):
                inner += one.values()
                inner += one
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str) and ("\0" in one or any("\ud800" <= char <= "\udfff" for char in one)):
                raise JsonError("contains a string that cannot be stored")
        values = inner
