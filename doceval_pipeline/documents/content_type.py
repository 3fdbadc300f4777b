"""Content types of documents, from their bytes and never from their names.

In one real corpus, 42 % of the file names had the right extension. Formats whose structure says more than
their first bytes are recognised by the modules in `formats`, all others by libmagic. At most 3 MiB of a
document are read.
"""

import codecs
import re
from typing import Any

from doceval_pipeline.documents.formats import ole_files, zip_files
from doceval_pipeline.documents.formats.json_text import json_type
from doceval_pipeline.documents.formats.mail import mail_type
from doceval_pipeline.documents.formats.markup import markup_type
from doceval_pipeline.documents.formats.pdf import PDF, is_pdf_after_other_bytes
from doceval_pipeline.documents.formats.table_text import table_type
from doceval_pipeline.documents.libmagic import UNKNOWN, recognise, recognise_binary
from doceval_pipeline.documents.source import Source

HEAD_BYTES = 64 * 1024
TEXT = "text/plain"

# Bytes in which libmagic recognises most formats; with more it needs twice the time.
_ENOUGH = 4 * 1024
_ENOUGH_FOR_BINARY = 256
# Signatures for which libmagic returns the same type, with few exceptions.
_SIGNED = re.compile(
    rb"(%PDF-\d)|(\x89PNG\r\n\x1a\n\0\0\0\rIHDR)|(\xff\xd8\xff[\xc0-\xf6\xf8-\xfe])|(GIF8[79]a)"
)
# Core files, and tar archives, whose first bytes are the name of a file; libmagic looks for both first.
_CORE_OR_TAR = re.compile(rb".{7}\xef\x10|.{148} *[0-7]{4}", re.DOTALL)
_SIGNED_TYPES = ("", PDF, "image/png", "image/jpeg", "image/gif")
# Signatures that libmagic 5.41 does not know.
_MORE_SIGNED = {
    b"ITSF\x03\0\0\0": "application/vnd.ms-htmlhelp",
    b"HWP Document File V": "application/x-hwp",
    b"!BDN": "application/vnd.ms-outlook-pst",
    bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3"): "application/onenote",
    b"PAR1": "application/vnd.apache.parquet",
    b"wOFF\0\x01\0\0": "font/woff",
    b"wOF2\0\x01\0\0": "font/woff2",
    b"1\xbe\0\0\0\xab": "application/x-mswrite",
    b"2\xbe\0\0\0\xab": "application/x-mswrite",
    b"\x09\x00\x04\0": "application/vnd.ms-excel",
    b"\x09\x02\x06\0": "application/vnd.ms-excel",
    b"\x09\x04\x06\0": "application/vnd.ms-excel",
    bytes.fromhex("0606edf5d81d46e5bd31efe7fe74b71d"): "application/x-indesign",
}
# The first comment of an enhanced metafile may contain a PDF.
_METAFILE = re.compile(rb"\x01\0\0\0.{36} EMF", re.DOTALL)
_PALM = {b"BOOKMOBI": "application/x-mobipocket-ebook", b"TEXtREAd": "application/vnd.palm"}
# Offset of the signature of a CD image. An MP3 is the other exception that needs more bytes: pictures may
# come before its sound.
_ISO = 32 * 1024 + 1
_WORDPERFECT = re.compile(rb"\xffWPC.{4}\x01\x0a", re.DOTALL)

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, codecs.utf_8_decode),
    (codecs.BOM_UTF32_LE, codecs.utf_32_le_decode),
    (codecs.BOM_UTF32_BE, codecs.utf_32_be_decode),
    (codecs.BOM_UTF16_LE, codecs.utf_16_le_decode),
    (codecs.BOM_UTF16_BE, codecs.utf_16_be_decode),
)
_CONTROL = bytes((*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F))
# Beginnings of the text formats that libmagic recognises.
_TEXT_SIGNATURES = re.compile(rb"<|\{\\rtf|%!|%FDF-|BEGIN:", re.IGNORECASE)


def content_type(source: Source) -> str:
    """The MIME type of a document, from a bounded part of its bytes.

    Raises
    ------
    OSError
        `source` cannot be read.
    """
    head = source.at(0, HEAD_BYTES)
    if not head:
        return UNKNOWN
    return _by_signature(source, head) or _by_content(source, head)


def _by_signature(source: Source, head: bytes) -> str | None:
    signed = _SIGNED.match(head)
    if signed:
        # A text could be a table that begins like this; libmagic takes no bytes with a NUL for text.
        is_certain = b"\0" in head and not _CORE_OR_TAR.match(head)
        return _SIGNED_TYPES[signed.lastindex or 0] if is_certain else recognise(head[:_ENOUGH])
    if head.startswith(zip_files.SIGNATURES):
        return zip_files.zip_type(source)
    if head.startswith(ole_files.SIGNATURE):
        return ole_files.ole_type(source)
    return None


def _by_content(source: Source, head: bytes) -> str:
    is_whole = len(head) == source.size
    text = _text(head, is_whole=is_whole)
    if text is None:
        mime_type = mail_type(head, is_whole=is_whole) or _binary_type(head)
    else:
        mime_type = mail_type(text, is_whole=is_whole) or _text_type(source, head, text)
    is_generic = mime_type == UNKNOWN or mime_type.startswith("text/")
    return (
        PDF if is_generic and is_pdf_after_other_bytes(source, head, is_text=text is not None) else mime_type
    )


def _binary_type(head: bytes) -> str:
    for signature, kind in _MORE_SIGNED.items():
        if head.startswith(signature):
            return kind
    if _WORDPERFECT.match(head):
        return "application/vnd.wordperfect"
    if _METAFILE.match(head):
        return "image/emf"
    needs_more = head.startswith(b"ID3") or head.startswith(b"CD001", _ISO)
    return _PALM.get(head[60:68]) or recognise_binary(head if needs_more else head[:_ENOUGH])


def _text_type(source: Source, head: bytes, text: bytes) -> str:
    """The type of a text; `text` is `head` without byte order marks.

    libmagic also guesses programming languages, with regular expressions that take 2 to 4 ms per file, more
    than everything else that storing a file takes. They are not used (docs/decisions.md).
    """
    begin = text.lstrip()
    is_whole = len(head) == source.size
    if begin.startswith(b"<") and (mime_type := markup_type(begin, is_whole=is_whole)):
        return mime_type
    if begin.startswith(b"#!"):
        # The interpreter identifies a script; from the other lines libmagic would guess.
        return recognise(begin.partition(b"\n")[0] + b"\n")
    if _TEXT_SIGNATURES.match(begin):
        return recognise(text[:_ENOUGH])
    if begin.startswith((b"{", b"[")):
        return json_type(source) or TEXT
    return table_type(text, is_whole=is_whole) or TEXT


def _text(head: bytes, *, is_whole: bool) -> bytes | None:
    """The beginning of a text, in UTF-8 or its own one-byte encoding; None if it is not a text."""
    if is_whole:
        # The end-of-file character of DOS.
        head = head.rstrip(b"\x1a")
    for mark, decode in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return _plain(_decoded(decode, head.removeprefix(mark), is_whole=is_whole))
    if head[1:2] == b"\0" and head[1::2].count(0) == len(head) // 2:
        return _plain(_decoded(codecs.utf_16_le_decode, head, is_whole=is_whole))
    return _plain(head)


def _decoded(decode: Any, raw: bytes, *, is_whole: bool) -> bytes | None:
    try:
        return str(decode(raw, "strict", is_whole)[0]).encode()
    except UnicodeError:
        return None


def _plain(text: bytes | None) -> bytes | None:
    # The first bytes of a binary file usually contain a control character.
    if text is None or _has_control(text[:_ENOUGH_FOR_BINARY]) or _has_control(text):
        return None
    return text


def _has_control(text: bytes) -> bool:
    return len(text.translate(None, _CONTROL)) < len(text)
