"""Types of OLE files (older Office documents, Outlook messages, installers), from their directory.

The directory may lie anywhere in the file, in sectors that a table chains together. At most `MOST_DIRECTORY`
bytes of the directory and `MOST_LISTS` bytes of the list of the table's parts are read, one sector at a time,
so that endless and circular chains end. A library such as olefile reads the whole table and the whole
directory, whatever length the file claims. Format: [MS-CFB], Compound File Binary File Format.
"""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from doceval_pipeline.documents.source import Source

SIGNATURE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
OLE = "application/CDFV2"
MOST_DIRECTORY = 512 * 1024
MOST_LISTS = 1024 * 1024

_HEADER_BYTES = 512
_ENTRY_BYTES = 128
_IN_HEADER = 109
_LAST_SECTOR = 0xFFFFFFFA
_ROOT, _NONE = 5, 0xFFFFFFFF

_MSI = "application/x-msi"
_EXCEL = "application/vnd.ms-excel"
# Names of streams and storages directly below the root, in lower case; the first that exists decides.
_NAMES = {
    "__properties_version1.0": "application/vnd.ms-outlook",
    "__nameid_version1.0": "application/vnd.ms-outlook",
    "encryptedpackage": "application/encrypted",
    "worddocument": "application/msword",
    "powerpoint document": "application/vnd.ms-powerpoint",
    "workbook": _EXCEL,
    "book": _EXCEL,
    "visiodocument": "application/vnd.visio",
    "quill": "application/vnd.ms-publisher",
    "\x05hwpsummaryinformation": "application/x-hwp",
    "bodytext": "application/x-hwp",
    "starwriterdocument": "application/vnd.stardivision.writer",
    "starcalcdocument": "application/vnd.stardivision.calc",
    "stardrawdocument": "application/vnd.stardivision.draw",
    "stardrawdocument3": "application/vnd.stardivision.draw",
    "starimpressdocument": "application/vnd.stardivision.impress",
    "starmathdocument": "application/vnd.stardivision.math",
    "perfectoffice_main": "application/vnd.wordperfect",
    "nativecontent_main": "application/x-quattro-pro",
    "matost": "application/vnd.ms-works",
}
# Class identifiers of the root, used if the names do not decide.
_CLASSES = {
    "000c1084-0000-0000-c000-000000000046": _MSI,
    "000c1086-0000-0000-c000-000000000046": _MSI,
    "00020906-0000-0000-c000-000000000046": "application/msword",
    "00020900-0000-0000-c000-000000000046": "application/msword",
    "00020820-0000-0000-c000-000000000046": _EXCEL,
    "00020810-0000-0000-c000-000000000046": _EXCEL,
    "64818d10-4f9b-11cf-86ea-00aa00b929e8": "application/vnd.ms-powerpoint",
    "00021201-0000-0000-00c0-000000000046": "application/vnd.ms-publisher",
    "00021a14-0000-0000-c000-000000000046": "application/vnd.visio",
    "00021a13-0000-0000-c000-000000000046": "application/vnd.visio",
    "00020d0b-0000-0000-c000-000000000046": "application/vnd.ms-outlook",
    "0006f046-0000-0000-c000-000000000046": "application/vnd.ms-outlook",
    "74b78f3a-c8c8-11d1-be11-00c04fb6faf1": "application/vnd.ms-project",
    "00021302-0000-0000-c000-000000000046": "application/vnd.ms-works",
    "28cddbc2-0ae2-11ce-a29a-00aa004a1a72": "application/vnd.ms-works",
}


@dataclass(frozen=True, slots=True)
class _DirectoryEntry:
    """One entry of the directory, with the numbers of its siblings and its first child."""

    name: str
    kind: int
    left: int
    right: int
    below: int
    class_id: str


def ole_type(source: Source) -> str:
    """The MIME type of a document that begins with `SIGNATURE`."""
    entries = list(_entries(source))
    if not entries or entries[0].kind != _ROOT:
        return OLE
    names = _names_below(entries)
    by_name = (kind for name, kind in _NAMES.items() if name in names)
    return next(by_name, _CLASSES.get(entries[0].class_id, OLE))


def _names_below(entries: list[_DirectoryEntry]) -> set[str]:
    """The names directly below the root; those of embedded documents do not count."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [entries[0].below]
    while waiting:
        number = waiting.pop()
        if number < len(entries) and number not in seen:
            seen.add(number)
            names.add(entries[number].name)
            waiting += (entries[number].left, entries[number].right)
    return names


def _entries(source: Source) -> Iterator[_DirectoryEntry]:
    for sector in _directory_sectors(source):
        for begin in range(0, len(sector) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
            yield _entry(sector[begin : begin + _ENTRY_BYTES])


def _entry(raw: bytes) -> _DirectoryEntry:
    (length,) = struct.unpack_from("<H", raw, 64)
    name = raw[: max(0, min(length, 64) - 2)].decode("utf-16-le", "replace").lower()
    left, right, below = struct.unpack_from("<3L", raw, 68)
    return _DirectoryEntry(name, raw[66], left, right, below, str(uuid.UUID(bytes_le=raw[80:96])))


def _directory_sectors(source: Source) -> Iterator[bytes]:
    header = source.at(0, _HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        return
    (shift,) = struct.unpack_from("<H", header, 30)
    (sector,) = struct.unpack_from("<L", header, 48)
    if shift not in (9, 12):
        return
    table = _Table(source, header, shift)
    for _ in range(MOST_DIRECTORY >> shift):
        if sector >= _LAST_SECTOR:
            return
        yield source.at((sector + 1) << shift, 1 << shift)
        sector = table.next(sector)


class _Table:
    """The table of each sector's successor; only the parts in use are read."""

    def __init__(self, source: Source, header: bytes, shift: int) -> None:
        self._source, self._shift = source, shift
        self._numbers = (1 << shift) // 4
        self._parts = list(struct.unpack_from(f"<{_IN_HEADER}L", header, 76))
        (self._more,) = struct.unpack_from("<L", header, 68)
        self._hops = 0

    def next(self, sector: int) -> int:
        part, number = divmod(sector, self._numbers)
        while (
            part >= len(self._parts) and self._more < _LAST_SECTOR and self._hops < MOST_LISTS >> self._shift
        ):
            self._read_more()
        if part >= len(self._parts) or self._parts[part] >= _LAST_SECTOR:
            return _NONE
        raw = self._source.at(((self._parts[part] + 1) << self._shift) + 4 * number, 4)
        return int.from_bytes(raw, "little") if len(raw) == 4 else _NONE

    def _read_more(self) -> None:
        """Read the next sector that lists parts of the table; its last number is the sector after it."""
        self._hops += 1
        raw = self._source.at((self._more + 1) << self._shift, 1 << self._shift)
        whole = len(raw) == 1 << self._shift
        *parts, self._more = struct.unpack(f"<{self._numbers}L", raw) if whole else (_NONE,)
        self._parts += parts
