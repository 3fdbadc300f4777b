"""HTML, SVG and other XML, recognised by the declaration and the first element, as in browsers.

The elements that make a document HTML are those of the MIME Sniffing Standard, section 7.1.
"""

import re
from typing import NoReturn
from xml.parsers import expat

HTML = "text/html"
SVG = "image/svg+xml"
XML = "text/xml"

# Comments, processing instructions and the document type before the first element. Possessive quantifiers,
# because a long run that two parts could match would take quadratic time.
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


def markup_type(text: bytes, *, is_whole: bool) -> str | None:
    """The MIME type of a text that begins with `<`; None if it is not markup.

    `is_whole` tells whether `text` is the whole document or only its beginning.
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
    return XML if root and _is_well_formed(text, is_whole=is_whole) else None


def _refuse(*_: object) -> NoReturn:
    """Reject entities, which may refer to each other and expand to gigabytes."""
    raise expat.ExpatError


def _is_well_formed(text: bytes, *, is_whole: bool) -> bool:
    """Whether a text is well-formed XML without entity definitions."""
    parser = expat.ParserCreate("utf-8")
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(text, is_whole)
    except expat.ExpatError:
        return False
    return True
