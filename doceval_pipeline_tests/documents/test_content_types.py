"""Content types: a table of real structures, look-alikes and hostile files."""

import io
import json
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from doceval_pipeline.documents.content_type import HEAD_BYTES, content_type
from doceval_pipeline.documents.libmagic import UNKNOWN, recognise
from doceval_pipeline.documents.reading import SMALL_DOCUMENT, DocumentRejected
from doceval_pipeline.documents.source import Source
from doceval_pipeline_tests.documents import structures
from doceval_pipeline_tests.documents.reading_alone import read_alone
from doceval_pipeline_tests.documents.structures import OOXML, office, ole, pdf, zip_of

LIMIT = 50 * 1024 * 1024
BEHIND_THE_HEAD = 100_000
DOCX, XLSX, PPTX = (
    f"{OOXML}{kind}"
    for kind in ("wordprocessingml.document", "spreadsheetml.sheet", "presentationml.presentation")
)
WORD, EXCEL, SLIDES = "application/vnd.ms-word", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"
ODF = "application/vnd.oasis.opendocument."
EPUB, JAR, ZIP = "application/epub+zip", "application/java-archive", "application/zip"
OUTLOOK, HWP, OLE = "application/vnd.ms-outlook", "application/x-hwp", "application/CDFV2"
MAIL, HTML, TEXT, JSON = "message/rfc822", "text/html", "text/plain", "application/json"

Make = Callable[[int], bytes]
"""Makes a file whose structure lies behind so many bytes."""


def main_part(main: str, folder: str = "word", first: tuple[str, ...] = ()) -> Make:
    return lambda padding: office(main, folder, padding, first)


def names(*entries: str) -> Make:
    return lambda padding: zip_of(entries, padding)


def holding(entries: dict[str, bytes | str]) -> Make:
    return lambda padding: zip_of(entries, padding)


def declared(kind: str) -> Make:
    return holding({"mimetype": kind, "META-INF/manifest.xml": "<m/>", "content.xml": "<c/>"})


def directory(*entries: str, class_id: str = "", within: tuple[str, ...] = ()) -> Make:
    return lambda padding: ole(entries, class_id, padding, within)


MANIFEST = (
    '<manifest:manifest xmlns:manifest="urn"><manifest:file-entry manifest:media-type='
    f'"{ODF}text" manifest:full-path="/"/></manifest:manifest>'
)
MAIN = ".main+xml"
CONTAINERS: dict[str, tuple[str, Make]] = {
    "docx of Word": (
        DOCX,
        lambda n: zip_of({"[Content_Types].xml": structures.content_types(DOCX[12:] + MAIN)}, n),
    ),
    "docx of python-docx": (DOCX, main_part(DOCX[12:] + MAIN)),
    "pptx of python-pptx": (PPTX, main_part(PPTX[12:] + MAIN, "ppt")),
    "docx with a folder entry first": (DOCX, main_part(DOCX[12:] + MAIN, first=("_rels/", "word/"))),
    "docx with pictures first": (DOCX, main_part(DOCX[12:] + MAIN, first=("word/media/image1.png",))),
    "docx with custom xml first": (DOCX, main_part(DOCX[12:] + MAIN, first=("customXml/item1.xml",))),
    "docx without its list of types": (DOCX, names("_rels/.rels", "docProps/app.xml", "word/document.xml")),
    "xlsx without its list of types": (XLSX, names("_rels/.rels", "xl/workbook.xml")),
    "pptx with backslashes": (PPTX, names("[Content_Types].xml", "_rels\\.rels", "ppt\\presentation.xml")),
    "xlsm by its names": (
        f"{EXCEL}.sheet.macroEnabled.12",
        names("_rels/.rels", "xl/workbook.xml", "xl/vbaProject.bin"),
    ),
    "docm": (f"{WORD}.document.macroEnabled.12", main_part("vnd.ms-word.document.macroEnabled" + MAIN)),
    "dotx": (f"{OOXML}wordprocessingml.template", main_part(f"{OOXML}wordprocessingml.template"[12:] + MAIN)),
    "dotm": (
        f"{WORD}.template.macroEnabled.12",
        main_part("vnd.ms-word.template.macroEnabledTemplate" + MAIN),
    ),
    "xlsx": (XLSX, main_part(XLSX[12:] + MAIN, "xl")),
    "xltx": (f"{OOXML}spreadsheetml.template", main_part(f"{OOXML}spreadsheetml.template"[12:] + MAIN, "xl")),
    "xlsm": (f"{EXCEL}.sheet.macroEnabled.12", main_part("vnd.ms-excel.sheet.macroEnabled" + MAIN, "xl")),
    "xltm": (
        f"{EXCEL}.template.macroEnabled.12",
        main_part("vnd.ms-excel.template.macroEnabled" + MAIN, "xl"),
    ),
    "xlam": (f"{EXCEL}.addin.macroEnabled.12", main_part("vnd.ms-excel.addin.macroEnabled" + MAIN, "xl")),
    "xlsb": (
        f"{EXCEL}.sheet.binary.macroEnabled.12",
        main_part("vnd.ms-excel.sheet.binary.macroEnabled.main", "xl"),
    ),
    "pptm": (
        f"{SLIDES}.presentation.macroEnabled.12",
        main_part("vnd.ms-powerpoint.presentation.macroEnabled" + MAIN, "ppt"),
    ),
    "ppsx": (
        f"{OOXML}presentationml.slideshow",
        main_part(f"{OOXML}presentationml.slideshow"[12:] + MAIN, "ppt"),
    ),
    "ppsm": (
        f"{SLIDES}.slideshow.macroEnabled.12",
        main_part("vnd.ms-powerpoint.slideshow.macroEnabled" + MAIN, "ppt"),
    ),
    "potx": (
        f"{OOXML}presentationml.template",
        main_part(f"{OOXML}presentationml.template"[12:] + MAIN, "ppt"),
    ),
    "vsdx": ("application/vnd.ms-visio.drawing", main_part("vnd.ms-visio.drawing" + MAIN, "visio")),
    "vsdm": (
        "application/vnd.ms-visio.drawing.macroEnabled.12",
        main_part("vnd.ms-visio.drawing.macroEnabled" + MAIN, "visio"),
    ),
    "xps": (
        "application/vnd.ms-xpsdocument",
        main_part("vnd.ms-package.xps-fixeddocumentsequence+xml", "Documents"),
    ),
    "3mf": ("model/3mf", main_part("vnd.ms-package.3dmanufacturing-3dmodel+xml", "3D")),
    "odt": (f"{ODF}text", declared(f"{ODF}text")),
    "ods": (f"{ODF}spreadsheet", declared(f"{ODF}spreadsheet")),
    "odp": (f"{ODF}presentation", declared(f"{ODF}presentation")),
    "odg": (f"{ODF}graphics", declared(f"{ODF}graphics")),
    "ott": (f"{ODF}text-template", declared(f"{ODF}text-template\n")),
    "sxw": ("application/vnd.sun.xml.writer", declared("application/vnd.sun.xml.writer")),
    "odt without its mimetype": (
        f"{ODF}text",
        holding({"content.xml": "<c/>", "META-INF/manifest.xml": MANIFEST}),
    ),
    "epub": (EPUB, holding({"mimetype": EPUB, "META-INF/container.xml": "<c/>", "OEBPS/c.opf": "<p/>"})),
    "epub without its mimetype": (EPUB, names("META-INF/container.xml", "OEBPS/content.opf")),
    "hwpx": ("application/hwp+zip", declared("application/hwp+zip")),
    "kmz": ("application/vnd.google-earth.kmz", names("doc.kml", "files/a.png")),
    "jar": (JAR, names("com/a/B.class", "META-INF/MANIFEST.MF")),
    "apk": (
        "application/vnd.android.package-archive",
        names("res/a.xml", "AndroidManifest.xml", "classes.dex", "META-INF/MANIFEST.MF"),
    ),
    "zip": (ZIP, names("a.txt", "b/c.txt")),
    "zip of a folder called word": (ZIP, names("word/document.xml", "a.txt")),
    "zip of office files": (
        ZIP,
        lambda n: zip_of({"a.docx": office(DOCX[12:] + MAIN, "word")}, n, method=zipfile.ZIP_STORED),
    ),
    "zip that claims to be a PDF": (ZIP, declared("application/pdf")),
    "nuget package": (ZIP, names("_rels/.rels", "[Content_Types].xml", "a.nuspec")),
    "doc": ("application/msword", directory("1Table", "WordDocument")),
    "doc with a workbook within": ("application/msword", directory("WordDocument", within=("Workbook",))),
    "xls": (EXCEL, directory("Workbook", "\x05SummaryInformation")),
    "xls of Excel 5": (EXCEL, directory("Book")),
    "ppt": (SLIDES, directory("Current User", "PowerPoint Document")),
    "msg": (OUTLOOK, directory("__nameid_version1.0", "__properties_version1.0")),
    "msg with many streams": (OUTLOOK, directory(*map(str, range(20)), "__properties_version1.0")),
    "msg with a document within": (OUTLOOK, directory("__properties_version1.0", within=("WordDocument",))),
    "hwp": (HWP, directory("FileHeader", "DocInfo", "\x05HwpSummaryInformation")),
    "vsd": ("application/vnd.visio", directory("VisioDocument")),
    "pub": ("application/vnd.ms-publisher", directory("Contents", "Quill")),
    "docx with a password": ("application/encrypted", directory("EncryptionInfo", "EncryptedPackage")),
    "msi": ("application/x-msi", directory("\u4840\u3f3f", class_id="000c1084-0000-0000-c000-000000000046")),
    "mpp": (
        "application/vnd.ms-project",
        directory("   114", class_id="74b78f3a-c8c8-11d1-be11-00c04fb6faf1"),
    ),
    "sdw": ("application/vnd.stardivision.writer", directory("StarWriterDocument")),
    "thumbs.db": (OLE, directory("Catalog", "1")),
}


@pytest.mark.parametrize("padding", [0, BEHIND_THE_HEAD], ids=["small", "behind 64 KiB"])
@pytest.mark.parametrize(("expected", "make"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_is_what_it_holds_wherever_that_lies(expected: str, make: Make, padding: int) -> None:
    assert content_type(Source.of(make(padding))) == expected


HEADER = b"Subject: Offer\r\nFrom: Ann <ann@example.org>\r\nTo: bob@example.org\r\n"
DATE = b"Date: Mon, 1 Jan 2024 10:00:00 +0000\r\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
UTF16 = "Grüße\n"
BEGINNINGS: dict[str, tuple[str, bytes]] = {
    "mail from Delivered-To": (MAIL, b"Delivered-To: bob@example.org\r\n" + HEADER + b"\r\nHello\r\n"),
    "mail from Date": (MAIL, DATE + HEADER + b"\r\nHello\r\n"),
    "mail from Subject": (MAIL, HEADER + b"MIME-Version: 1.0\r\n\r\nHello\r\n"),
    "mail from From": (MAIL, b"From: ann@example.org\n" + DATE.replace(b"\r", b"") + b"\nHello\n"),
    "mail from X-": (MAIL, b"X-Spam-Status: No\r\n" + HEADER + DATE + b"\r\nHello\r\n"),
    "mail from Received": (
        MAIL,
        b"Received: from a by b;\r\n\tMon, 1 Jan 2024 10:00:00 +0000\r\n" + HEADER + b"\r\n",
    ),
    "mail from Return-Path": (MAIL, b"Return-Path: <>\r\n" + HEADER + b"\r\nHello"),
    "mail from DKIM": (MAIL, b"DKIM-Signature: v=1;\r\n b=abc\r\n" + HEADER + b"\r\n"),
    "mail of Latin-1": (MAIL, HEADER + DATE + "\r\nGrüße\r\n".encode("latin-1")),
    "mail with a binary body": (MAIL, HEADER + DATE + b"\r\n\x00\x01\x02"),
    "mail without a date": (MAIL, HEADER + b"\r\nHello\r\n"),
    "mail of many parts": (MAIL, b"From: a@b.org\nTo: c@d.org\nContent-Type: multipart/digest\n\n--x\n"),
    "mail without a body": (MAIL, HEADER + DATE),
    "mail template": (MAIL, b"X-Unsent: 1\r\nTo: \r\nSubject: x\r\nMIME-Version: 1.0\r\n\r\nHello\r\n"),
    "saved web page": (
        MAIL,
        b"From: <Saved by Blink>\r\nSubject: x\r\nMIME-Version: 1.0\r\n" + DATE + b"\r\nx",
    ),
    "mailbox": (
        "application/mbox",
        b"From ann@example.org Mon Jan  1 10:00:00 2024\n" + HEADER + b"\nHello\n",
    ),
    "note with a date": (TEXT, b"Date: today\n\nWe met.\n"),
    "note with a subject": (TEXT, b"Subject: x\n\nWe met.\n"),
    "memo": (TEXT, b"To: All staff\nFrom: HR\nDate: May 3\nSubject: Holidays\n\nDear all,\n"),
    "settings": (TEXT, b"from: ann@example.org\nto: bob@example.org\nsubject: x\n"),
    "log": (TEXT, b"Date: Mon, 1 Jan 2024 10:00:00 +0000\nStatus: ok\n"),
    "answer by HTTP": (TEXT, DATE + b"Server: x\r\nContent-Type: text/html\r\nMIME-Version: 1.0\r\n\r\n<p>"),
    "notes that begin like mail": (TEXT, HEADER + DATE + b"and a line that is no field\n"),
    "front matter": (TEXT, b"Title: x\nDate: 2024-01-01 10:20\nAuthor: ann@example.org\n\nText\n"),
    "package metadata": (TEXT, b"Metadata-Version: 2.1\nName: x\nAuthor-email: ann@example.org\n\nText\n"),
    "prose from From": (TEXT, b"From here on, the parties agree: 10:30\nmore\n"),
    "patch": (
        TEXT,
        b"From 0123abcd Mon Sep 17 00:00:00 2001\nFrom: A <a@b.org>\n" + DATE + b"Subject: x\n\nx\n",
    ),
    "json": (JSON, b'{"a": 1}'),
    "json array": (JSON, b" \n[1, 2]\n"),
    "json with a mark": (JSON, b'\xef\xbb\xbf{"a": 1}'),
    "json in UTF-16": (JSON, '{"a": 1}'.encode("utf-16")),
    "json of 31 KB": (
        JSON,
        json.dumps({"openapi": "3.1.0", "paths": {f"/{n}": "x" * 20 for n in range(1000)}}).encode(),
    ),
    "json of 2 MB": (JSON, json.dumps([{"name": f"Grüße {n}", "n": n / 7} for n in range(40_000)]).encode()),
    "json lines": ("application/x-ndjson", b'{"a": 1}\n{"a": 2}\n'),
    "json lines of 2 MB": ("application/x-ndjson", b'{"a": "xxxxxxxxxxxxxxxxxxxxxxxx"}\n' * 60_000),
    "json that is cut": (TEXT, b'{"a": [1, 2'),
    "json with an error": (TEXT, b'{"a": 1,}'),
    "json of 2 MB without its end": (TEXT, b"[" + b'"xxxxxxxxxxxxxxx",\n' * 120_000),
    "json of 2 MB with an error": (TEXT, b"[oops, " + b'"xxxxxxxxxxxxxxx",\n' * 120_000 + b"1]"),
    "not a number": (TEXT, b'{"a": NaN}'),
    "number": (TEXT, b"12"),
    "quoted word": (TEXT, b'"word"'),
    "text in brackets": (TEXT, b"[see below] and {more}"),
    "pdf": ("application/pdf", pdf()),
    "pdf behind an empty line": ("application/pdf", pdf(b"\r\n")),
    "pdf behind a warning": ("application/pdf", b"<br /><b>Warning</b>: x\n" + pdf() + b"\0"),
    "pdf behind a job's header": ("application/pdf", b"\x1b%-12345X@PJL\r\n" + pdf()),
    "pdf behind zeros": ("application/pdf", bytes(900) + pdf()),
    "pdf behind a mark": ("application/pdf", b"\xef\xbb\xbf" + pdf()),
    "pdf too far behind": (UNKNOWN, bytes(1100) + pdf()),
    "text about PDFs": (TEXT, b"A PDF begins with\n%PDF-1.4\nand so on.\n"),
    "text that quotes a PDF": (
        TEXT,
        b"A small PDF:\n\n" + pdf().replace(b"\n", b"\n  ") + b"\nThat is all.\n",
    ),
    "text that ends with a PDF": (TEXT, b"A small PDF:\n\n  " + pdf().replace(b"\n", b"\n  ")),
    "text from %PDF-": (TEXT, b"%PDF- is how a PDF begins\n"),
    "program that holds a PDF's header": (UNKNOWN, b"\xa7\r\r\n\0\0\0\0%PDF-1.4\0\x01"),
    "chm": ("application/vnd.ms-htmlhelp", b"ITSF\x03\0\0\0\x60\0\0\0\x01\0\0\0" + bytes(80)),
    "wpd": ("application/vnd.wordperfect", b"\xffWPC\x10\0\0\0\x01\x0a\x02\x01\0\0\0\0" + bytes(80)),
    "mobi": ("application/x-mobipocket-ebook", b"Title".ljust(60, b"\0") + b"BOOKMOBI\0\0\0\x10" + bytes(80)),
    "palm": ("application/vnd.palm", b"Title".ljust(60, b"\0") + b"TEXtREAd\0\0\0\x10" + bytes(80)),
    "pst": ("application/vnd.ms-outlook-pst", b"!BDN\x01\x02\x03\x04SM\x17\0" + bytes(80)),
    "onenote": ("application/onenote", bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3") + bytes(80)),
    "hwp 3": (HWP, b"HWP Document File V3.00 \x1a\x01\x02\x03\x04\x05" + bytes(80)),
    "emf that holds a PDF": ("image/emf", b"\x01\0\0\0" + bytes(36) + b" EMF" + pdf() + bytes(80)),
    "woff": ("font/woff", b"wOFF\0\x01\0\0\0\0Qp" + bytes(80)),
    "iso": ("application/x-iso9660-image", bytes(32768) + b"\x01CD001\x01" + bytes(80)),
    "one letter": (TEXT, b"x"),
    "one line end": (TEXT, b"\n"),
    "text of DOS": (TEXT, b"Hello\r\n\x1a"),
    "latin-1": (TEXT, UTF16.encode("latin-1")),
    "windows-1252": (TEXT, b"He said \x93hi\x94\n"),
    "shift-jis": (TEXT, "日本語のテキスト".encode("shift-jis")),
    "utf-8 with a mark": (TEXT, UTF16.encode("utf-8-sig")),
    "utf-16": (TEXT, UTF16.encode("utf-16")),
    "utf-16, other order": (TEXT, b"\xfe\xff" + UTF16.encode("utf-16-be")),
    "utf-16 without a mark": (TEXT, "Hello\n".encode("utf-16-le")),
    "utf-32": (TEXT, UTF16.encode("utf-32")),
    "rtf": ("text/rtf", b"{\\rtf1\\ansi hello}"),
    "html": (HTML, b"<!DOCTYPE html>\n<title>x</title>"),
    "html behind a comment": (HTML, b"\n<!-- saved from x -->\n<HTML><p>x"),
    "html without a frame": (HTML, b"<p>Hello<br>there</p>"),
    "html in UTF-16": (HTML, "<!DOCTYPE html><p>x".encode("utf-16")),
    "xhtml": (HTML, b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x" "y">\n<html/>'),
    "svg": ("image/svg+xml", SVG),
    "svg behind its declaration": ("image/svg+xml", b'<?xml version="1.0"?>\n<!-- x -->\n' + SVG),
    "xml": ("text/xml", b'<?xml version="1.0"?>\n<feed/>'),
    "xml without a declaration": ("text/xml", b'<project xmlns="x"><a/></project>'),
    "text in angle brackets": (TEXT, b"<name of the party> agrees\n"),
    "csv": ("text/csv", b"a,b,c\n1,2,3\n4,5,6\n"),
    "csv of two lines": ("text/csv", b"a,b\n1,2\n"),
    "csv with quoted line breaks": ("text/csv", b'name,text\r\n1,"two\nlines, one field"\r\n'),
    "csv of a German Excel": ("text/csv", "Name;Betrag\nMüller;1,50\nMaier;2,00\n".encode("latin-1")),
    "tsv": ("text/tab-separated-values", b"a\tb\n1\t2\n"),
    "a poem": ("text/plain", b"Roses are red, violets blue,\nSugar is sweet, and so are you,\n"),
    "names": ("text/plain", b"Smith, John\nDoe, Jane\nRoe, Richard\n"),
    "a program in C": ("text/plain", b"int a;\nint b;\nint c;\n"),
    "a script that imports pdb": ("text/x-script.python", b"#!/usr/bin/env python3\n#import pdb\nclass A:\n"),
    "a mail that Outlook quotes": (
        "text/plain",
        b"From: Anna <a@b.de>\nSent: Monday\nTo: Bob <b@b.de>\nSubject: Hello\n\nas I said\n",
    ),
    "letter": (TEXT, b"Dear Bob,\nThanks,\n"),
    "calendar": ("text/calendar", b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nEND:VCALENDAR\r\n"),
    "card": ("text/vcard", b"BEGIN:VCARD\r\nVERSION:3.0\r\nEND:VCARD\r\n"),
    "postscript": ("application/postscript", b"%!PS-Adobe-3.0\n%%Title: x\n"),
    "script": ("text/x-shellscript", b"#!/bin/sh\necho\n"),
    "tiff": ("image/tiff", b"II*\0\x08\0\0\0" + bytes(40)),
    "webp": ("image/webp", b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40)),
    "bmp": ("image/bmp", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\2\0\0\0\2\0\0\0\1\0\x18\0" + bytes(40)),
    "heic": ("image/heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)),
    "avif": ("image/avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(40)),
    "djvu": ("image/vnd.djvu", b"AT&TFORM\0\0\1\0DJVMDIRM" + bytes(40)),
    "gzip": ("application/gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\3" + bytes(20)),
    "7z": ("application/x-7z-compressed", b"7z\xbc\xaf'\x1c\0\4" + bytes(40)),
    "rar": ("application/x-rar", b"Rar!\x1a\7\1\0" + bytes(30)),
    "wav": ("audio/x-wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)),
    "mp4": ("video/mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(40)),
    "text from GIF8": (TEXT, b"GIF8 is how a GIF begins\n"),
    "text from PK": (TEXT, b"PK is a company\n"),
    "nothing": (UNKNOWN, b""),
}


@pytest.mark.parametrize(("expected", "content"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_document_is_what_its_bytes_say(expected: str, content: bytes) -> None:
    assert content_type(Source.of(content)) == expected


@pytest.mark.parametrize("content", [structures.workbook(), structures.streamed_workbook()])
def test_workbooks_of_real_libraries_are_recognised(content: bytes) -> None:
    assert content_type(Source.of(content)) == XLSX


def test_a_zip_file_that_was_written_to_a_pipe_or_is_cut_is_recognised() -> None:
    entries: dict[str, bytes | str] = {
        "docProps/app.xml": "<a/>",
        "[Content_Types].xml": structures.content_types(DOCX[12:] + MAIN),
        "word/document.xml": "<d/>" * 1000,
    }
    piped = structures.streamed_zip(entries)
    assert content_type(Source.of(piped)) == DOCX
    assert content_type(Source.of(piped[:-30])) == DOCX
    assert content_type(Source.of(zip_of(entries)[:-100])) == DOCX
    assert content_type(Source.of(zip_of(entries, comment=b"PK\x05\x06 is no end" * 100))) == DOCX


def test_a_type_at_the_end_of_a_long_list_is_found() -> None:
    listed = structures.content_types(PPTX[12:] + MAIN).replace(
        "<Override", "<Default/>" * 20_000 + "<Override", 1
    )
    assert content_type(Source.of(zip_of({"[Content_Types].xml": listed, "ppt/a.xml": ""}))) == PPTX


MANY = [f"__substg1.0_{number:08X}" for number in range(20)]
LARGE: dict[str, tuple[str, bytes]] = {
    "docx": (DOCX, office(DOCX[12:] + MAIN, "word", SMALL_DOCUMENT + 1)),
    "msg": (OUTLOOK, ole([*MANY, "__properties_version1.0"], padding=SMALL_DOCUMENT + 1)),
    "mail": (MAIL, DATE + HEADER + b"\r\n" + b"x" * SMALL_DOCUMENT),
    "json": (JSON, b"[" + b"1," * (SMALL_DOCUMENT // 2) + b"1]"),
    "pdf": ("application/pdf", pdf(b"\n", SMALL_DOCUMENT)),
}


@pytest.mark.parametrize(("expected", "content"), LARGE.values(), ids=LARGE)
def test_a_large_document_is_recognised_from_the_open_file(
    tmp_path: Path, expected: str, content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    os.utime(tmp_path / "file", (1_000_000_000, 1_000_000_000))
    found = read_alone(tmp_path, b"file", LIMIT)
    assert (found.content, found.fingerprint.content_type) == (None, expected)


def test_a_file_that_changes_while_its_type_is_found_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE["docx"][1])
    os.utime(path, (1_000_000_000, 1_000_000_000))
    at = Source.of_file

    def changing(descriptor: int, size: int) -> Source:
        with path.open("r+b") as file:
            file.write(b"PK")
        return at(descriptor, size)

    monkeypatch.setattr(Source, "of_file", changing)
    with pytest.raises(DocumentRejected, match="changed while being read"):
        read_alone(tmp_path, b"file", LIMIT)


@pytest.mark.parametrize(
    "signature",
    [
        b"%PDF-1",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xd8\xff\xe0",
        b"\xff\xd8\xff\xdb",
        b"GIF87a",
        b"GIF89a",
    ],
)
def test_types_found_without_libmagic_equal_those_of_libmagic(signature: bytes) -> None:
    chance = random.Random(7)
    followed = [
        b"",
        bytes(60),
        b"\n1 0 obj",
        b".4\n1 0 obj",
        b".4,1,2\nb,c,d\ne,f,g\n",
        b".4\r1,2\nb,c\nd,e\n",
        b",1,2\nb,c,d\ne,f,g\n",
        *(chance.randbytes(64) for _ in range(300)),
        *(b"\0" + chance.randbytes(200) for _ in range(100)),
        # The beginning of a core file, and of archives whose first member has this name.
        (b"\0" * 8)[len(signature) - 7 :] + b"\xef\x10" + bytes(60),
        *(tar_of(signature, kind)[len(signature) :] for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT)),
    ]
    for more in followed:
        said = recognise(signature + more)
        assert content_type(Source.of(signature + more)) == said, more


def tar_of(name: bytes, kind: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=kind, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo(name.replace(b"\0", b"-").decode("latin-1")))
    return written.getvalue()


def bomb() -> bytes:
    return zip_of(
        {"mimetype": b"\0" * 30_000_000, "[Content_Types].xml": b" " * 30_000_000, "content.xml": b""}
    )


def many_entries() -> bytes:
    one = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", *[0] * 7, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    central = one * 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(central), 4, 0)
    return b"PK\x03\x04" + central + end


def long_chain() -> bytes:
    """An OLE file whose directory and whose list of tables are each other's next, all over."""
    raw = bytearray(ole(["a"], padding=100_000, directory_loops=True))
    raw[68:72] = raw[48:52]
    return bytes(raw)


HARMFUL = {
    "a zip bomb": bomb(),
    "a million entries": many_entries(),
    "a directory that claims 4 GB": zip_of(["a"])[:-12] + b"\xff" * 12,
    "local headers without end": b"PK\x03\x04" * 20_000,
    "names that overlap": b"PK\x03\x04"
    + b"".join(b"PK\x03\x04" + bytes(22) + b"\xff\x7f\0\0" + n.to_bytes(4) for n in range(2000)),
    "a manifest without end": zip_of(
        {"content.xml": b"", "META-INF/manifest.xml": b"<manifest:file-entry full-path='/'" * 10_000}
    ),
    "a separator without end": b"From " + b"@:10" * 5_000_000,
    "spaces in a date": b"Date:" + b" " * 60_000 + b"\nSubject: x\n\n",
    "brackets in a reference": b"In-Reply-To: <" + b"@" * 60_000 + b"\nSubject: x\n\n",
    "a directory in a circle": ole(["a"], directory_loops=True),
    "tables in a circle": long_chain(),
    "an OLE header alone": ole(["a"])[:512],
    "sectors at the end of the world": ole(["a"])[:48] + b"\xf0\xff\xff\xff" * 115,
    "deep JSON": b"[" * 20_000_000 + b"]" * 20_000_000,
    "one line of JSON": b'["' + b"x" * 50_000_000 + b'"]',
    "many small lists": b"[" + b"[]," * 10_000_000 + b"1]",
    "a number of a million digits": b"[" + b"9" * 900_000 + b"]",
    "entities that multiply": b'<!DOCTYPE a [<!ENTITY b "xxxx"><!ENTITY c "'
    + b"&b;" * 9000
    + b'">]><doc>'
    + b"&c;" * 9000
    + b"</doc>",
    "comments without end": b"<!--" * 5_000_000,
    "document types without end": b"<!DOCTYPE a [" * 1_000_000,
    "spaces without end": b"<" + b" " * 5_000_000,
    "a header without end": b"Subject: x\n" + b"X: y\n" * 5_000_000,
    "folds without end": b"Subject: x\n" + b" \n" * 5_000_000,
    "headers of PDFs": b"\0" + b"%PDF-1.4\n" * 5_000_000,
    "comments of a PDF": b"\0%PDF-1.4" + b"\n%" * 5_000_000,
    "line ends of a PDF": b"\0%PDF-1.4" + b"\r\n" * 5_000_000,
}


@pytest.mark.parametrize("content", HARMFUL.values(), ids=HARMFUL)
def test_hostile_documents_cost_bounded_time_and_memory(content: bytes) -> None:
    content_type(Source.of(b"warm"))
    read = 0

    def at(offset: int, length: int) -> bytes:
        nonlocal read
        read += min(length, max(0, len(content) - offset))
        return content[offset : offset + length]

    tracemalloc.start()
    began = time.monotonic()
    assert "/" in content_type(Source(len(content), at))
    took = time.monotonic() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read < 3 * 1024 * 1024
    assert peak < 32 * 1024 * 1024
    assert took < 5


@pytest.mark.parametrize("characters", [500, 5_000, 20_000])
def test_a_long_table_whose_head_ends_inside_a_quoted_field_is_a_table(characters: int) -> None:
    words = "a line, and\nanother one " * (characters // 25)
    row = f'1,"{words}"\n'
    table = "number,text\n" + row * (4 * HEAD_BYTES // len(row))
    assert content_type(Source.of(table.encode())) == "text/csv"


BEGINNINGS = (
    *(
        b"<",
        b"<!DOCTYPE ",
        b"<!DOCTYPE a",
        b"<!DOCTYPE a [",
        b"<!--",
        b"<?xml ",
        b"<?",
        b"<a ",
        b"<a:",
        b"<svg",
    ),
    *(
        b"\n%PDF-1.4",
        b"x\n%PDF-1.4\n%",
        b"x%PDF-1.4\n1 ",
        b"x%PDF-1.4\n1 0 ",
        b"",
        b"a,b\n",
        b"BEGIN:",
        b"{\\rtf",
    ),
    *(
        b"From a@b ",
        b"Received:",
        b"Received: by ",
        b"Subject: x\nFrom: <",
        b"In-Reply-To: ",
        b"Message-ID: <",
    ),
    *(b"{", b"[", b'{"a":', b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04", b"PK\x05\x06", b"A: ", b"A:\n "),
)
FILLINGS = (
    *(b" ", b"a", b"\n", b"\r\n", b"<", b">", b"[", b"{", b'"', b"%", b"1", b"0 ", b",", b":", b"-", b"\n%"),
    *(b"<!--", b"<a>", b"a:", b"\\", b"@", b";", b"\0", b"a: b\n", b"\n a", b"a,b\n", b"[]\n", b"\x80"),
)


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_no_filling_of_a_head_costs_more_than_its_length(beginning: bytes) -> None:
    for filling in FILLINGS:
        document = beginning + filling * (HEAD_BYTES // len(filling))
        started = time.process_time()
        content_type(Source.of(document))
        # An expression that tries all splits of a run takes minutes.
        assert time.process_time() - started < 3, filling
