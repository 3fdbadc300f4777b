"""Small files of real structures: zip and OLE containers, office documents, mail, PDFs."""

import io
import struct
import uuid
import zipfile
from collections.abc import Mapping, Sequence

import openpyxl
import xlsxwriter

SECTOR = 512
_END, _FREE, _FAT, _DIFAT = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFC
OOXML = "application/vnd.openxmlformats-officedocument."


def zip_of(
    entries: Mapping[str, bytes | str] | Sequence[str],
    padding: int = 0,
    comment: bytes = b"",
    method: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """A zip file of these entries in this order, behind a first one of `padding` bytes."""
    named = entries if isinstance(entries, Mapping) else dict.fromkeys(entries, b"x")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        if padding:
            archive.writestr("docProps/thumbnail.jpeg", b"\xff" * padding, zipfile.ZIP_STORED)
        for name, content in named.items():
            how = zipfile.ZIP_STORED if name == "mimetype" or name.endswith("/") else method
            archive.writestr(zipfile.ZipInfo(name), content, how)
        archive.comment = comment
    return written.getvalue()


def streamed_zip(entries: Mapping[str, bytes | str]) -> bytes:
    """A zip file as it is written into a pipe: sizes follow the contents."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.written += bytes(data)  # type: ignore[call-overload] # a buffer
            return len(bytes(data))  # type: ignore[call-overload] # a buffer

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return pipe.written


def content_types(main: str, path: str = "/word/document.xml") -> str:
    """`[Content_Types].xml` of a package with this type of main part."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
        'content-types"><Default Extension="xlsx" ContentType="application/vnd.openxmlformats-officedocument.'
        'spreadsheetml.sheet"/><Override PartName="/docProps/core.xml" ContentType="application/vnd.'
        'openxmlformats-package.core-properties+xml"/>'
        f'<Override PartName="{path}" ContentType="application/{main}"/></Types>'
    )


def office(main: str, folder: str, padding: int = 0, first: Sequence[str] = ()) -> bytes:
    """An Office Open XML file; `first` names entries that come before all others."""
    entries = dict.fromkeys(first, b"x")
    entries |= {"docProps/app.xml": b"<a/>", "docProps/core.xml": b"<c/>", f"{folder}/document.xml": b"<d/>"}
    entries |= {"_rels/.rels": b"<r/>", "[Content_Types].xml": content_types(main).encode()}
    return zip_of(entries, padding)


def workbook() -> bytes:
    written = io.BytesIO()
    book = openpyxl.Workbook()
    book.active["A1"] = 1
    book.save(written)
    return written.getvalue()


def streamed_workbook() -> bytes:
    written = io.BytesIO()
    with xlsxwriter.Workbook(written, {"in_memory": True}) as book:
        book.add_worksheet().write(0, 0, 1)
    return written.getvalue()


def ole(
    names: Sequence[str],
    class_id: str = "",
    padding: int = 0,
    within: Sequence[str] = (),
    directory_loops: bool = False,
) -> bytes:
    """An OLE file with these streams below its root, whose directory lies behind `padding` bytes.

    `within` are names in a storage below the root. With `directory_loops` the directory follows itself.
    """
    entries = [("Root Entry", 5, _FREE, 1), *_beside(names, 1)]
    if within:
        entries[-1] = (*entries[-1][:2], len(entries), _FREE)
        entries += [("ObjectPool", 1, _FREE, len(entries) + 1), *_beside(within, len(entries) + 1)]
    directory = b"".join(
        _ole_entry(*entry, class_id if not number else "") for number, entry in enumerate(entries)
    )
    directory += bytes(-len(directory) % SECTOR)
    data, listed = -(-padding // SECTOR), len(directory) // SECTOR
    return _with_table(b"\xee" * (data * SECTOR), directory, data, listed, directory_loops)


def _beside(names: Sequence[str], first: int) -> list[tuple[str, int, int, int]]:
    """Entries of streams, each the right neighbour of the one before."""
    numbers = [*range(first + 1, first + len(names)), _FREE]
    return [(name, 2, right, _FREE) for name, right in zip(names, numbers, strict=True)]


def _ole_entry(name: str, kind: int, right: int, below: int, class_id: str) -> bytes:
    raw = name.encode("utf-16-le") + b"\0\0"
    identity = uuid.UUID(class_id).bytes_le if class_id else bytes(16)
    beside = struct.pack("<3L", _FREE, right, below)
    return raw.ljust(64, b"\0") + struct.pack("<HBB", len(raw), kind, 1) + beside + identity + bytes(32)


def _with_table(data: bytes, directory: bytes, first: int, listed: int, loops: bool) -> bytes:
    tables = 1
    while tables * 128 < first + listed + tables + max(0, -(-(tables - 109) // 127)):
        tables += 1
    more = max(0, -(-(tables - 109) // 127))
    chain = [*range(1, first), _END][:first] if first else []
    chain += [first + number + 1 for number in range(listed - 1)] + [first if loops else _END]
    chain += [_FAT] * tables + [_DIFAT] * more
    chain += [_FREE] * (tables * 128 - len(chain))
    places = [first + listed + number for number in range(tables)]
    begin_more = first + listed + tables
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6)
    header += bytes(10) + struct.pack("<3L", tables, first, 0) + struct.pack("<3L", 4096, _END, 0)
    header += struct.pack("<2L", begin_more if more else _END, more)
    header += struct.pack("<109L", *(places[:109] + [_FREE] * (109 - len(places[:109]))))
    left = places[109:]
    lists = b""
    for number in range(more):
        part = left[number * 127 : (number + 1) * 127]
        after = begin_more + number + 1 if number + 1 < more else _END
        lists += struct.pack("<128L", *part, *[_FREE] * (127 - len(part)), after)
    return header + data + directory + struct.pack(f"<{len(chain)}L", *chain) + lists


def pdf(before: bytes = b"", padding: int = 0) -> bytes:
    """A PDF of plain text whose table is where it says, counted from its header."""
    body = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" + b"%\n" * padding
    table = b"xref\n0 2\n0000000000 65535 f \n0000000009 00000 n \ntrailer\n<< /Size 2 /Root 1 0 R >>\n"
    return before + body + table + b"startxref\n%d\n%%%%EOF\n" % len(body)
