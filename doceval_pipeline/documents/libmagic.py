"""libmagic's types of documents, for unknown bytes in a quarter of its own time.

libmagic compares bytes with 3,340 tests in turn, which takes it 190 µs if none matches. Most of its tests
require certain bytes at a fixed place. Binary bytes that have none of them are compared only with the other
tests, by libmagic itself with a smaller database, in 50 µs and with the same answer (a test compares them).

The wheel `pylibmagic` contains libmagic, because a fresh machine does not have it. The layout of its database
is that of `struct magic` in file.h of libmagic 5.41.
"""

import ctypes
import os
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

UNKNOWN = "application/octet-stream"
# Binary documents of a thread that are recognised without the filter.
FEW = 100

_HEADER = struct.Struct("=4I")
_SIGNATURE, _VERSION = 0xF11E041C, 16
_TEST = struct.Struct("=HBxBBBxxBBxi8xQ8s336x")
_MIME_TYPE = slice(224, 304)
_RELATION, _KIND = 4, 6
_BYTE, _STRING, _SEARCH, _INDIRECT = 1, 5, 20, 41
_EQUAL, _ANY = ord("="), ord("x")
# Option of a string's test, in the place of a mask: only for binary files.
_STRING_OF_BINARY = 0x40 << 32
# A number's test that leaves more than 4 bits of all pairs of bytes open is left to libmagic.
_FEWEST_BITS = 12
_SHORTEST_WORD = 4
# Size in bytes and byte order of a number, by the type of its test.
_NUMBERS: dict[int, tuple[int, Literal["little", "big"]]] = {
    **{2: (2, sys.byteorder), 4: (4, sys.byteorder), 24: (8, sys.byteorder)},
    **{7: (2, "big"), 8: (4, "big"), 26: (8, "big")},
    **{10: (2, "little"), 11: (4, "little"), 25: (8, "little")},
}
# Flags of a test for binary files, and of an offset that depends on the file.
_FOR_BINARY, _DEPENDS_ON_FILE = 0x20, 0x87
_ASK_LIBMAGIC = b"ask/libmagic"
# Beginnings of texts in which libmagic accepts NUL.
_MARKS_OF_TEXT = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"+/v")


def recognise(head: bytes) -> str:
    """The MIME type that libmagic detects in the beginning of a document; `UNKNOWN` if it detects none."""
    return _answer(_handles().whole, head)


def recognise_binary(head: bytes) -> str:
    """The same as `recognise`, faster if the beginning is binary and libmagic does not know it."""
    handles = _handles()
    handles.asked += 1
    return recognise(head) if handles.asked <= FEW else recognise_filtered(head)


def recognise_filtered(head: bytes) -> str:
    """The same as `recognise`, by a filter that takes 35 ms to build."""
    known = _filter()
    if known is None or not _is_surely_binary(head) or known.may_match(head):
        return recognise(head)
    handles = _handles()
    if handles.rest is None:
        handles.rest = _handle_with(known.rest)
    answer = _answer(handles.rest, head)
    return recognise(head) if answer == _ASK_LIBMAGIC.decode() else answer


def _answer(handle: Any, head: bytes) -> str:
    description: str = handle.from_buffer(head)
    # libmagic describes a few formats in words instead of a MIME type.
    return description if "/" in description else UNKNOWN


def _is_surely_binary(head: bytes) -> bool:
    """Whether libmagic accepts the bytes as text in no encoding; it ignores NUL only at the end."""
    return b"\0" in head.rstrip(b"\0") and not head.startswith(_MARKS_OF_TEXT)


class _Test(NamedTuple):
    """A test of the database; `level` is 0 unless it refines the test before it."""

    level: int
    flag: int
    relation: int
    length: int
    kind: int
    operation: int
    condition: int
    offset: int
    mask: int
    value: bytes

    def required(self) -> tuple[int, set[bytes]] | None:
        """An offset, and two bytes of which the test requires some there; None if it requires none."""
        is_plain = self.relation == _EQUAL and not (self.condition or self.operation)
        if not is_plain or self.flag & _DEPENDS_ON_FILE or self.offset < 0:
            return None
        if self.kind == _STRING and self.length > 1 and self.mask in (0, _STRING_OF_BINARY):
            return self.offset, {self.value[:2]}
        return self._required_of_number() if self.kind in _NUMBERS else None

    def searched(self) -> bytes | None:
        """A word in lower case without which the test fails, wherever it stands; None without one."""
        word = self.value.split(maxsplit=1)[0] if self.kind == _SEARCH and self.value.strip() else b""
        is_plain = self.relation == _EQUAL and self.value.startswith(word) and word.isascii()
        return word.lower() if is_plain and _SHORTEST_WORD <= len(word) <= self.length else None

    def _required_of_number(self) -> tuple[int, set[bytes]] | None:
        size, order = _NUMBERS[self.kind]
        every = (1 << 8 * size) - 1
        value = (int.from_bytes(self.value[:size], sys.byteorder) & every).to_bytes(size, order)
        mask = ((self.mask or every) & every).to_bytes(size, order)
        bits = [first.bit_count() + second.bit_count() for first, second in pairwise(mask)]
        place = bits.index(max(bits))
        if bits[place] < _FEWEST_BITS:
            return None
        fitting = [[b for b in range(256) if b & mask[i] == value[i]] for i in (place, place + 1)]
        return self.offset + place, {bytes(pair) for pair in product(*fitting)}


@dataclass(frozen=True)
class _Filter:
    """What the tests require of a document, and a database of the tests that require no certain bytes.

    `required` has a range of the document and the bytes that tests require there; `searched` words in lower
    case.
    """

    required: Collection[tuple[int, int, frozenset[bytes]]]
    searched: Collection[bytes]
    rest: "ctypes.Array[ctypes.c_char]"

    def may_match(self, head: bytes) -> bool:
        """Whether a document has the bytes that one of the tests requires."""
        lowered = head.lower()
        return any(head[begin:end] in known for begin, end, known in self.required) or any(
            word in lowered for word in self.searched
        )


@cache
def _filter() -> _Filter | None:
    """The filter of libmagic's database; None if the database has a layout that is not known here."""
    database = Path(_load()[1]).read_bytes()
    signature, version, tests, named = _HEADER.unpack_from(database)
    if (signature, version, (1 + tests + named) * _TEST.size) != (_SIGNATURE, _VERSION, len(database)):
        return None
    required: defaultdict[int, set[bytes]] = defaultdict(set)
    searched: set[bytes] = set()
    rest: list[bytes] = []
    is_left_out = False
    for number in range(1, 1 + tests + named):
        raw = database[number * _TEST.size : (number + 1) * _TEST.size]
        test = _Test._make(_TEST.unpack(raw))
        if number <= tests and test.level == 0:
            is_left_out = True
            if not test.flag & _FOR_BINARY:
                continue
            if needed := test.required():
                required[needed[0]] |= needed[1]
            elif word := test.searched():
                searched.add(word)
            else:
                is_left_out = False
        if number > tests or not is_left_out:
            rest.append(_asking(raw) if test.kind == _INDIRECT else raw)
    header = _HEADER.pack(_SIGNATURE, _VERSION, len(rest) - named, named).ljust(_TEST.size, b"\0")
    content = header + b"".join(rest)
    places = [(offset, offset + 2, frozenset(known)) for offset, known in required.items()]
    return _Filter(places, searched, ctypes.create_string_buffer(content, len(content)))


def _asking(raw: bytes) -> bytes:
    """A test that answers `_ASK_LIBMAGIC` where the given one would run all tests on a part of the file."""
    changed = bytearray(raw)
    changed[_RELATION], changed[_KIND] = _ANY, _BYTE
    changed[_MIME_TYPE] = _ASK_LIBMAGIC.ljust(_MIME_TYPE.stop - _MIME_TYPE.start, b"\0")
    return bytes(changed)


class _Handles(threading.local):
    """libmagic's handles, of each thread, because they are not thread-safe."""

    def __init__(self) -> None:
        library, database = _load()
        self.whole = library.Magic(mime=True, magic_file=database)
        self.rest: Any = None
        self.asked = 0


@cache
def _handles() -> _Handles:
    return _Handles()


def _handle_with(database: "ctypes.Array[ctypes.c_char]") -> Any:
    """A handle with a database in memory."""
    library, path = _load()
    handle = library.Magic(mime=True, magic_file=path)
    # libmagic reads it in place. Two threads that build the filter at once have two; only one is cached.
    handle.database = database
    address = (ctypes.c_void_p * 1)(ctypes.addressof(database))
    size = (ctypes.c_size_t * 1)(len(database))
    if library.libmagic.magic_load_buffers(ctypes.c_void_p(handle.cookie), address, size, ctypes.c_size_t(1)):
        raise OSError("libmagic cannot load a part of its database")
    return handle


@cache
def _load() -> tuple[Any, str]:
    before = set(os.environ)
    # pylibmagic must be imported first: it sets environment variables that lead python-magic to its library.
    # Child processes must not inherit them.
    pylibmagic = import_module("pylibmagic")
    magic = import_module("magic")
    for variable in set(os.environ) - before:
        del os.environ[variable]
    # Passed explicitly, because the system's database may have another version than this library.
    return magic, str(pylibmagic.data.joinpath("magic.mgc"))
