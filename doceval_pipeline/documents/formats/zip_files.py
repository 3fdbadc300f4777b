"""Types of zip files: an office document, a book, a program, or just files.

The type comes from the names in the archive and from at most two small members. The names come from the
central directory at the end, in any order, or, if the archive is cut, from the local headers at its
beginning. At most `MOST_DIRECTORY` bytes of the directory and `MOST_ENTRY` bytes of a member are read, before
and after decompression. Nothing is extracted to disk. Format:
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import re
import struct
import zlib
from dataclasses import dataclass

from doceval_pipeline.documents.source import Source

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04")
ZIP = "application/zip"
MOST_DIRECTORY = 1024 * 1024
MOST_ENTRY = 256 * 1024
_BEGINNING = 64 * 1024

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_STORED, _DEFLATED = 0, 8

# Accepted contents of the member `mimetype`, because any archive may contain a file of that name.
_DECLARED = re.compile(
    rb"application/(?:vnd\.oasis\.opendocument\.[\w.-]+|vnd\.sun\.xml\.[\w.-]+|epub\+zip|hwp\+zip|owpml"
    rb"|vnd\.adobe\.[\w.+-]+|x-krita|x-vnd\.oasis\.opendocument\.[\w.-]+)|image/openraster"
)
_MANIFEST_ROOT = re.compile(
    rb"<manifest:file-entry\b(?=[^>]{0,500}full-path=[\"']/[\"'])"
    rb"[^>]{0,500}media-type=[\"'](application/[\w.+-]{1,100})[\"']"
)
# `application/vnd.….document.main+xml` is the type of the main part of an office document; the type of the
# file is the same without `.main+xml`.
_MAIN_PART = re.compile(rb"[\"']application/(vnd\.[\w.-]+?)\.main(?:\+xml)?[\"']")
_OTHER_PARTS = (
    (b"vnd.ms-package.xps-fixeddocumentsequence+xml", "application/vnd.ms-xpsdocument"),
    (b"vnd.ms-package.3dmanufacturing-3dmodel+xml", "model/3mf"),
)
_OOXML = "application/vnd.openxmlformats-officedocument."
# Used if the list of content types is missing or unreadable: the folder of the main part.
_MAIN_FOLDERS = (
    ("xl/workbook.bin", "application/vnd.ms-excel.sheet.binary.macroEnabled.12"),
    ("word/", f"{_OOXML}wordprocessingml.document"),
    ("xl/", f"{_OOXML}spreadsheetml.sheet"),
    ("ppt/", f"{_OOXML}presentationml.presentation"),
    ("visio/", "application/vnd.ms-visio.drawing"),
    ("fixeddocseq.fdseq", "application/vnd.ms-xpsdocument"),
    ("fixeddocumentsequence.fdseq", "application/vnd.ms-xpsdocument"),
)
_WITH_MACROS = {
    "word/": "application/vnd.ms-word.document.macroEnabled.12",
    "xl/": "application/vnd.ms-excel.sheet.macroEnabled.12",
    "ppt/": "application/vnd.ms-powerpoint.presentation.macroEnabled.12",
    "visio/": "application/vnd.ms-visio.drawing.macroEnabled.12",
}


@dataclass(frozen=True, slots=True)
class _Member:
    """One file in an archive: its compression method, compressed size, and the offset of its local header."""

    method: int
    packed: int
    header: int


_Members = dict[str, _Member]


def zip_type(source: Source) -> str:
    """The MIME type of a document that begins with one of `SIGNATURES`."""
    entries = _listed(source) or _in_the_beginning(source)
    for type_of in (_declared_type, _office_type, _book_type, _program_type):
        mime_type = type_of(source, entries)
        if mime_type:
            return mime_type
    return ZIP


def _declared_type(source: Source, entries: _Members) -> str | None:
    """The type that OpenDocument files and books declare themselves."""
    declared = _DECLARED.fullmatch(_content(source, entries.get("mimetype")).strip(b"\xef\xbb\xbf \t\r\n\0"))
    if declared:
        return declared[0].decode()
    if "content.xml" in entries:
        root = _MANIFEST_ROOT.search(_content(source, entries.get("meta-inf/manifest.xml")))
        if root and _DECLARED.fullmatch(root[1]):
            return root[1].decode()
    return None


def _office_type(source: Source, entries: _Members) -> str | None:
    """The type of an Office Open XML or other OPC package."""
    parts = _content(source, entries.get("[content_types].xml"))
    main = _MAIN_PART.search(parts)
    if main:
        name = main[1].decode().replace("macroEnabledTemplate", "macroEnabled")
        return f"application/{name}{'.12' if name.endswith('macroEnabled') else ''}"
    for part, kind in _OTHER_PARTS:
        if part in parts:
            return kind
    if not any(name.startswith(("[content_types].xml", "_rels/")) for name in entries):
        return None
    for folder, kind in _MAIN_FOLDERS:
        if any(name.startswith(folder) for name in entries):
            return _WITH_MACROS[folder] if f"{folder}vbaproject.bin" in entries else kind
    return None


def _book_type(_: Source, entries: _Members) -> str | None:
    if "meta-inf/container.xml" in entries and any(name.endswith(".opf") for name in entries):
        return "application/epub+zip"
    return "application/vnd.google-earth.kmz" if "doc.kml" in entries else None


def _program_type(_: Source, entries: _Members) -> str | None:
    if "androidmanifest.xml" in entries and entries.keys() & {"classes.dex", "resources.arsc"}:
        return "application/vnd.android.package-archive"
    return "application/java-archive" if "meta-inf/manifest.mf" in entries else None


def _listed(source: Source) -> _Members:
    """The members by name in lower case, from the central directory; empty if there is none."""
    directory = _directory(source)
    entries: _Members = {}
    position = 0
    while position + _CENTRAL.size <= len(directory):
        fields = _CENTRAL.unpack_from(directory, position)
        if fields[0] != b"PK\x01\x02":
            break
        name, extra, comment = fields[12:15]
        begin = position + _CENTRAL.size
        entries[_name(directory[begin : begin + name])] = _Member(fields[6], fields[10], fields[18])
        position = begin + name + extra + comment
    return entries


def _directory(source: Source) -> bytes:
    """The central directory, or the beginning of a very long one."""
    tail = source.at(max(0, source.size - _END.size - 0xFFFF), _END.size + 0xFFFF)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or end + _END.size > len(tail):
        return b""
    length = _END.unpack_from(tail, end)[5]
    behind = source.size - len(tail) + end
    if end >= _LOCATOR_64.size and tail[end - _LOCATOR_64.size :].startswith(b"PK\x06\x07"):
        record = source.at(behind - _LOCATOR_64.size - _END_64.size, _END_64.size)
        if record.startswith(b"PK\x06\x06") and len(record) == _END_64.size:
            length = _END_64.unpack(record)[8]
            behind -= _LOCATOR_64.size + _END_64.size
    # The directory ends where its end record begins; the stated offset is wrong if bytes precede the archive.
    return source.at(behind - length, min(length, MOST_DIRECTORY)) if length <= behind else b""


def _in_the_beginning(source: Source) -> _Members:
    """The members whose local headers lie at the beginning of an archive that is cut."""
    beginning = source.at(0, _BEGINNING)
    entries: _Members = {}
    header = beginning.find(b"PK\x03\x04")
    while 0 <= header <= len(beginning) - _LOCAL.size:
        fields = _LOCAL.unpack_from(beginning, header)
        name = header + _LOCAL.size
        # The size is 0 here if it follows the data.
        entries[_name(beginning[name : name + fields[10]])] = _Member(
            fields[4], fields[8] or MOST_ENTRY, header
        )
        header = beginning.find(b"PK\x03\x04", name + fields[10])
    return entries


def _name(raw: bytes) -> str:
    """A name as office programs compare it: in lower case, with forward slashes."""
    return raw.decode("latin-1").replace("\\", "/").lower()


def _content(source: Source, entry: _Member | None) -> bytes:
    """The content of a member, or its beginning; empty if it cannot be read."""
    if entry is None:
        return b""
    local = source.at(entry.header, _LOCAL.size)
    if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
        return b""
    fields = _LOCAL.unpack(local)
    begin = entry.header + _LOCAL.size + fields[10] + fields[11]
    packed = source.at(begin, min(entry.packed, MOST_ENTRY))
    if entry.method == _STORED:
        return packed
    if entry.method != _DEFLATED:
        return b""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, MOST_ENTRY)
    except zlib.error:
        return b""
