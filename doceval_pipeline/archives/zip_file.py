"""Reads the zip of an archive: just the form that `writing` gives it, in memory that does not grow with it.

The standard library keeps an object for each member, which for a million members is half a gigabyte, and
takes members that overlap, hide in gaps or come twice. Here members lie one behind the other, and the table
of contents is read from the file whenever it is needed.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

# A multiple of 3 bytes, so that the base64 of each piece can stand beside that of the next.
PIECE = 3 * 256 * 1024
STORED, DEFLATED = 0, 8
# What a byte of deflated data can become at most, and a member that has none.
_MOST_OF_A_BYTE, _SLACK = 1032, 4096
_LONGEST_NAME = 100
# That a name is UTF-8, and how hard it was tried to pack the member.
_HARMLESS_FLAGS = 0x0806
_LONG, _SHORT = 0xFFFFFFFF, 0xFFFF

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_EXTRA = struct.Struct("<2H")
_ZIP64 = 1


class ZipError(Exception):
    """What is wrong with the file, as a clause."""


class NoZipError(ZipError):
    """The file does not end as a zip does."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member as the table of contents lists it; sizes in bytes, `place` is where it begins."""

    name: str
    place: int
    packed: int
    size: int
    crc: int
    method: int


class ZipTable:
    """The table of contents of an open file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        end = file.seek(0, 2)
        self.count, self.length, self.begin = _find_table(file, end)

    def entries(self) -> Iterator[Entry]:
        """The members in the order in which they lie in the file.

        Raises
        ------
        ZipError
        """
        reader = _Reader(self._file, self.begin, self.length)
        last = -1
        for _ in range(self.count):
            entry = _entry(reader)
            if not last < entry.place < self.begin or entry.place + entry.packed > self.begin:
                raise ZipError("a member is not where it must be")
            last = entry.place
            yield entry
        if reader.left:
            raise ZipError("its table of contents has other members than it says")

    def end_of(self, entry: Entry) -> int:
        """Where a member ends, whose own header must say what the table says; raises as `entries`."""
        return self._content(entry) + entry.packed

    def pieces(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of a member in pieces of at most `PIECE` bytes; raises as `entries`."""
        place, left = self._content(entry), entry.packed
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == DEFLATED else None
        size, crc = 0, 0
        for piece in _whole_pieces(self._unpacked(place, left, unpacker)):
            size += len(piece)
            crc = zlib.crc32(piece, crc)
            if size > entry.size:
                raise ZipError("a member is longer than it says")
            yield piece
        if size != entry.size or crc != entry.crc:
            raise ZipError("a member is not what it says")

    def _unpacked(self, place: int, left: int, unpacker: "zlib._Decompress | None") -> Iterator[bytes]:
        packed = b""
        while left or packed:
            if not packed:
                self._file.seek(place)
                packed = self._file.read(min(left, PIECE))
                if not packed:
                    raise ZipError("it ends too early")
                place, left = place + len(packed), left - len(packed)
            if unpacker is None:
                yield packed
                packed = b""
                continue
            try:
                yield unpacker.decompress(packed, PIECE)
            except zlib.error as error:
                raise ZipError(str(error)) from None
            packed = unpacker.unconsumed_tail
            if unpacker.unused_data:
                raise ZipError("a member goes on behind its end")
        while unpacker is not None and not unpacker.eof:
            rest = unpacker.decompress(b"", PIECE)
            if not rest and not unpacker.eof:
                raise ZipError("a member ends too early")
            yield rest

    def _content(self, entry: Entry) -> int:
        """Where the bytes of a member begin."""
        self._file.seek(entry.place)
        header = self._file.read(_LOCAL.size + _LONGEST_NAME + 32)
        if len(header) < _LOCAL.size:
            raise ZipError("it ends too early")
        mark, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(
            header
        )
        name = header[_LOCAL.size : _LOCAL.size + name_length]
        extra = header[_LOCAL.size + name_length : _LOCAL.size + name_length + extra_length]
        if (packed, size) == (_LONG, _LONG):
            size, packed = _extra_values(extra, 2)
        elif extra:
            raise ZipError("a member has a field that is not known")
        told = (entry.name, entry.method, entry.crc, entry.packed, entry.size)
        known = mark == b"PK\x03\x04" and not flags & ~_HARMLESS_FLAGS
        if not known or (_text(name), method, crc, packed, size) != told:
            raise ZipError("a member's own header is not what the table of contents says")
        return entry.place + _LOCAL.size + int(name_length) + int(extra_length)


class _Reader:
    """Reads the table of contents from its beginning, a piece at a time."""

    def __init__(self, file: IO[bytes], place: int, left: int) -> None:
        self._file, self._place, self._behind = file, place, left
        self._buffer, self._at = b"", 0

    @property
    def left(self) -> int:
        return self._behind + len(self._buffer) - self._at

    def take(self, size: int) -> bytes:
        if len(self._buffer) - self._at < size:
            # Whoever takes entries reads elsewhere in between.
            self._file.seek(self._place)
            more = self._file.read(min(PIECE, self._behind))
            self._place, self._behind = self._place + len(more), self._behind - len(more)
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        taken = self._buffer[self._at : self._at + size]
        self._at += size
        if len(taken) != size:
            raise ZipError("its table of contents ends too early")
        return taken


def _find_table(file: IO[bytes], end: int) -> tuple[int, int, int]:
    """How many members there are, and how long the table of contents is and where it begins."""
    place = end - _END.size
    if place < 0:
        raise NoZipError("it ends too early")
    file.seek(place)
    mark, disk, first_disk, here, count, length, begin, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise NoZipError("its end is missing, or something stands behind it")
    if disk or first_disk or here != count:
        raise ZipError("it is one of several files")
    long = _end64(file, place)
    if long is not None:
        place -= _LOCATOR.size + _END64.size
        for short, value, unknown in zip((count, length, begin), long, (_SHORT, _LONG, _LONG), strict=True):
            if short not in (value, unknown):
                raise ZipError("it has two ends that say different things")
        count, length, begin = long
    if begin + length != place or count * _CENTRAL.size > length:
        raise ZipError("its table of contents is not where it must be")
    return count, length, begin


def _end64(file: IO[bytes], end: int) -> tuple[int, int, int] | None:
    """The same from before the end, where a long file or one of many members has it; None elsewhere."""
    place = end - _LOCATOR.size - _END64.size
    if place < 0:
        return None
    file.seek(place)
    found = _END64.unpack(file.read(_END64.size))
    mark, where, there, files = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    (mark, size, _, _, disk, first_disk, here, count, length, begin) = found
    known = (mark, size, where, there, files) == (b"PK\x06\x06", _END64.size - 12, 0, place, 1)
    if not known or disk or first_disk or here != count:
        raise ZipError("its end is not one that is known")
    return count, length, begin


def _entry(reader: _Reader) -> Entry:
    (
        mark, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length,
        comment, disk, _, _, place,
    ) = _CENTRAL.unpack(reader.take(_CENTRAL.size))  # fmt: skip
    if mark != b"PK\x01\x02" or name_length > _LONGEST_NAME or extra_length > 32:
        raise ZipError("its table of contents holds what is not known")
    name, extra = _text(reader.take(name_length)), reader.take(extra_length)
    if comment or disk:
        raise ZipError("a member has a comment, or is in another file")
    if flags & ~_HARMLESS_FLAGS or method not in (STORED, DEFLATED):
        raise ZipError("a member is encrypted or packed in another way")
    long = [size == _LONG, packed == _LONG, place == _LONG]
    values = iter(_extra_values(extra, sum(long)))
    size, packed, place = (
        next(values) if is_long else value for is_long, value in zip(long, (size, packed, place), strict=True)
    )
    if size > (packed if method == STORED else packed * _MOST_OF_A_BYTE + _SLACK):
        raise ZipError("a member says that it is larger than it can be")
    return Entry(name, place, packed, size, crc, method)


def _extra_values(extra: bytes, wanted: int) -> tuple[int, ...]:
    """The values in the only field beside the header that is known, or none without it."""
    if not wanted and not extra:
        return ()
    if len(extra) != _EXTRA.size + 8 * wanted or _EXTRA.unpack_from(extra) != (_ZIP64, 8 * wanted):
        raise ZipError("a member has a field that is not known")
    return struct.unpack_from(f"<{wanted}Q", extra, _EXTRA.size)


def _text(name: bytes) -> str:
    if not name.isascii():
        raise ZipError("a member has a name that is not known")
    return name.decode()


def _whole_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE`; only the last is shorter, and none is empty."""
    held = bytearray()
    for piece in pieces:
        if not held and len(piece) == PIECE:
            yield piece
            continue
        held += piece
        if len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)
