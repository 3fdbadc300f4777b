"""HTML, SVG and other XML: told by the declaration and the first element, as browsers do.

The elements that make a document HTML are those of the MIME Sniffing Standard, section 7.1.
"""

import re
from typing import NoReturn
from xml.parsers import expat

HTML = "text/html"
SVG = "image/svg+xml"
XML = "text/xml"

# Comments, processing instructions and the document type, in front of the first element. Possessive, because
# a long run that two of its parts could share would take the square of its length.
_PROLOGUE = re.compile(
    rb"(?:\s++|<!--(?s:.*?)-->|<\?(?s:.*?)\?>"
    rb"|<!DOCTYPE\s++(?P<type>[^\s>\[]++)[^>\[]*+(?:\[[^\]]*+\]\s*+)?>)*+",
    re.IGNORECASE,
)
_ELEMENT = re.compile(rb"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)(?=[\s/>])")
_HTML_ELEMENTS = frozenset(
    b"html head script iframe h1 div font table a style title b body br p meta link ul ol span".split()
)
_SCRIPTS = (b"<?php", b"<?=", b"<%")


def markup_type(text: bytes, is_whole: bool) -> str | None:
    """The MIME type of a text that begins with `<`, or None where it is none of these.

    `is_whole` says whether `text` is the whole document, and not only its beginning.
    """
    if text.startswith(_SCRIPTS):
        return None
    declared = text[:5].lower() == b"<?xml"
    prologue = _PROLOGUE.match(text)
    element = _ELEMENT.match(text, prologue.end() if prologue else 0)
    root = element[1].lower() if element else b""
    if root == b"svg":
        return SVG
    if root == b"html" or (prologue and (prologue["type"] or b"").lower() == b"html"):
        return HTML
    if declared:
        return XML
    if root in _HTML_ELEMENTS:
        return HTML
    return XML if root and _is_well_formed(text, is_whole) else None


def _refuse(*_: object) -> NoReturn:
    """Entities: they may stand for each other, and so for gigabytes."""
    raise expat.ExpatError


def _is_well_formed(text: bytes, is_whole: bool) -> bool:
    """Whether an XML parser has no complaint about a text that defines no entities."""
    parser = expat.ParserCreate("utf-8")
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(text, is_whole)
    except expat.ExpatError:
        return False
    return True
