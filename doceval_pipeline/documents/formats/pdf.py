"""PDFs behind other bytes: a server's warning, a print job's header, an empty line.

Readers accept `%PDF-` within the first 1,024 bytes. So that neither a text about PDFs nor a program that
holds one becomes a PDF, an object must follow the header; and where all is plain text, the number after
the last `startxref` must lead to a table of objects, which a quotation's does not.
"""

import re

from doceval_pipeline.documents.source import Source

PDF = "application/pdf"
_WITHIN = 1024
# Possessive, because a long run of spaces that two of its parts could share would take hours.
_HEADER = re.compile(rb"%PDF-\d\.\d[^\r\n]*+(?:[\r\n]++%[^\r\n]*+)*+\s++\d++\s++\d++\s++obj\b")
_TAIL = 1024
_START = re.compile(rb"startxref\s+(\d{1,12})\s+%%EOF\s*\Z")
_TABLE = re.compile(rb"\s*(?:xref\b|\d+\s+\d+\s+obj\b)")


def is_pdf_behind_others(source: Source, head: bytes, is_text: bool) -> bool:
    """Whether a PDF begins within the first 1,024 bytes of a document that has no other type."""
    header = head.find(b"%PDF-", 0, _WITHIN + 5)
    if header < 0 or not _HEADER.match(head, header):
        return False
    return not is_text or _leads_to_objects(source, header)


def _leads_to_objects(source: Source, header: int) -> bool:
    start = _START.search(source.at(max(0, source.size - _TAIL), _TAIL))
    # Counted from the header, or from the first byte of all.
    return bool(start) and any(
        _TABLE.match(source.at(int(start[1]) + before, 64)) for before in (header, 0) if start
    )
