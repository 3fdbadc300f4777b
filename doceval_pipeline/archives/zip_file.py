"""Reads the zip file of an archive, only in the form that `writing` produces, in constant memory.

The standard library keeps an object per member, half a gigabyte for a million members, and accepts members
that overlap, hide in gaps or are duplicated. Here members must follow each other directly, and the table of
contents is read from the file whenever it is needed.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

# A multiple of 3 bytes, so that the base64 of consecutive pieces can be concatenated.
PIECE = 3 * 256 * 1024
STORED, DEFLATED = 0, 8
# Largest expansion of a deflated byte, and allowance for an empty member.
_MOST_OF_A_BYTE, _SLACK = 1032, 4096
_LONGEST_NAME = 100
# Flags for UTF-8 names and the compression level.
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
    """The problem with the file, as a clause."""


class NotAZipError(ZipError):
    """The file does not end like a zip file."""


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """A member in the table of contents; sizes in bytes, `place` is its offset."""

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

    def entries(self) -> Iterator[ZipEntry]:
        """The members in the order of the file.

        Raises
        ------
        ZipError
        """
        reader = _TableReader(self._file, self.begin, self.length)
        last = -1
        for _ in range(self.count):
            entry = _entry(reader)
            if not last < entry.place < self.begin or entry.place + entry.packed > self.begin:
                raise ZipError("a member is at the wrong offset")
            last = entry.place
            yield entry
        if reader.left:
            raise ZipError("the table of contents does not match its declared length")

    def end_of(self, entry: ZipEntry) -> int:
        """End offset of a member, whose header must match the table of contents; raises as `entries`."""
        return self._content(entry) + entry.packed

    def pieces(self, entry: ZipEntry) -> Iterator[bytes]:
        """The bytes of a member in pieces of at most `PIECE` bytes; raises as `entries`."""
        place, left = self._content(entry), entry.packed
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == DEFLATED else None
        size, crc = 0, 0
        for piece in _whole_pieces(self._unpacked(place, left, unpacker)):
            size += len(piece)
            crc = zlib.crc32(piece, crc)
            if size > entry.size:
                raise ZipError("a member is longer than declared")
            yield piece
        if size != entry.size or crc != entry.crc:
            raise ZipError("a member does not match its declared size or checksum")

    def _unpacked(self, place: int, left: int, unpacker: "zlib._Decompress | None") -> Iterator[bytes]:
        packed = b""
        while left or packed:
            if not packed:
                self._file.seek(place)
                packed = self._file.read(min(left, PIECE))
                if not packed:
                    raise ZipError("the file is truncated")
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
                raise ZipError("a member continues after its end")
        while unpacker is not None and not unpacker.eof:
            rest = unpacker.decompress(b"", PIECE)
            if not rest and not unpacker.eof:
                raise ZipError("a member is truncated")
            yield rest

    def _content(self, entry: ZipEntry) -> int:
        """Offset of the bytes of a member."""
        self._file.seek(entry.place)
        header = self._file.read(_LOCAL.size + _LONGEST_NAME + 32)
        if len(header) < _LOCAL.size:
            raise ZipError("the file is truncated")
        mark, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(
            header
        )
        name = header[_LOCAL.size : _LOCAL.size + name_length]
        extra = header[_LOCAL.size + name_length : _LOCAL.size + name_length + extra_length]
        if (packed, size) == (_LONG, _LONG):
            size, packed = _extra_values(extra, 2)
        elif extra:
            raise ZipError("a member has an unknown field")
        listed = (entry.name, entry.method, entry.crc, entry.packed, entry.size)
        known = mark == b"PK\x03\x04" and not flags & ~_HARMLESS_FLAGS
        if not known or (_text(name), method, crc, packed, size) != listed:
            raise ZipError("the header of a member differs from the table of contents")
        return entry.place + _LOCAL.size + int(name_length) + int(extra_length)


class _TableReader:
    """Reads the table of contents from its beginning, in pieces."""

    def __init__(self, file: IO[bytes], place: int, left: int) -> None:
        self._file, self._place, self._unread = file, place, left
        self._buffer, self._at = b"", 0

    @property
    def left(self) -> int:
        return self._unread + len(self._buffer) - self._at

    def take(self, size: int) -> bytes:
        if len(self._buffer) - self._at < size:
            # Callers read other parts of the file in between.
            self._file.seek(self._place)
            more = self._file.read(min(PIECE, self._unread))
            self._place, self._unread = self._place + len(more), self._unread - len(more)
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        data = self._buffer[self._at : self._at + size]
        self._at += size
        if len(data) != size:
            raise ZipError("the table of contents is truncated")
        return data


def _find_table(file: IO[bytes], end: int) -> tuple[int, int, int]:
    """Number of members, and length and offset of the table of contents."""
    place = end - _END.size
    if place < 0:
        raise NotAZipError("the file is truncated")
    file.seek(place)
    mark, disk, first_disk, here, count, length, begin, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise NotAZipError("the end of the zip is missing or followed by other data")
    if disk or first_disk or here != count:
        raise ZipError("the zip is split into several files")
    long = _end64(file, place)
    if long is not None:
        place -= _LOCATOR.size + _END64.size
        for short, value, unknown in zip((count, length, begin), long, (_SHORT, _LONG, _LONG), strict=True):
            if short not in (value, unknown):
                raise ZipError("its two end records differ")
        count, length, begin = long
    if begin + length != place or count * _CENTRAL.size > length:
        raise ZipError("the table of contents is at the wrong offset")
    return count, length, begin


def _end64(file: IO[bytes], end: int) -> tuple[int, int, int] | None:
    """The same from the zip64 end record of a large file; None without one."""
    place = end - _LOCATOR.size - _END64.size
    if place < 0:
        return None
    file.seek(place)
    record = _END64.unpack(file.read(_END64.size))
    mark, where, there, files = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    (mark, size, _, _, disk, first_disk, here, count, length, begin) = record
    known = (mark, size, where, there, files) == (b"PK\x06\x06", _END64.size - 12, 0, place, 1)
    if not known or disk or first_disk or here != count:
        raise ZipError("its end record has an unknown form")
    return count, length, begin


def _entry(reader: _TableReader) -> ZipEntry:
    (
        mark, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length,
        comment, disk, _, _, place,
    ) = _CENTRAL.unpack(reader.take(_CENTRAL.size))  # fmt: skip
    if mark != b"PK\x01\x02" or name_length > _LONGEST_NAME or extra_length > 32:
        raise ZipError("the table of contents contains an unknown entry")
    name, extra = _text(reader.take(name_length)), reader.take(extra_length)
    if comment or disk:
        raise ZipError("a member has a comment, or is in another file")
    if flags & ~_HARMLESS_FLAGS or method not in (STORED, DEFLATED):
        raise ZipError("a member is encrypted or has an unknown compression")
    long = [size == _LONG, packed == _LONG, place == _LONG]
    values = iter(_extra_values(extra, sum(long)))
    size, packed, place = (
        next(values) if is_long else value for is_long, value in zip(long, (size, packed, place), strict=True)
    )
    if size > (packed if method == STORED else packed * _MOST_OF_A_BYTE + _SLACK):
        raise ZipError("the declared size of a member is impossible")
    return ZipEntry(name, place, packed, size, crc, method)


def _extra_values(extra: bytes, count: int) -> tuple[int, ...]:
    """The values of the zip64 extra field, the only known one; empty without it."""
    if not count and not extra:
        return ()
    if len(extra) != _EXTRA.size + 8 * count or _EXTRA.unpack_from(extra) != (_ZIP64, 8 * count):
        raise ZipError("a member has an unknown field")
    return struct.unpack_from(f"<{count}Q", extra, _EXTRA.size)


def _text(name: bytes) -> str:
    if not name.isascii():
        raise ZipError("a member has an unknown name")
    return name.decode()


def _whole_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE` bytes; only the last may be shorter, and none is empty."""
    buffer = bytearray()
    for piece in pieces:
        if not buffer and len(piece) == PIECE:
            yield piece
            continue
        buffer += piece
        if len(buffer) >= PIECE:
            yield bytes(buffer[:PIECE])
            del buffer[:PIECE]
    if buffer:
        yield bytes(buffer)
