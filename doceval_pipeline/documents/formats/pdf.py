"""PDFs that begin after other bytes: a server's warning, a print job's header, an empty line.

Readers accept `%PDF-` within the first 1,024 bytes. So that neither a text about PDFs nor a program that
contains one counts as a PDF, an object must follow the header. In plain text, the number after the last
`startxref` must also lead to a table of objects, which it does not in a quotation.
"""

import re

from doceval_pipeline.documents.source import Source

PDF = "application/pdf"
_WITHIN = 1024
# Possessive quantifiers, because a long run of spaces that two parts could match would take hours.
_HEADER = re.compile(rb"%PDF-\d\.\d[^\r\n]*+(?:[\r\n]++%[^\r\n]*+)*+\s++\d++\s++\d++\s++obj\b")
_TAIL = 1024
_START = re.compile(rb"startxref\s+(\d{1,12})\s+%%EOF\s*\Z")
_TABLE = re.compile(rb"\s*(?:xref\b|\d+\s+\d+\s+obj\b)")


def is_pdf_after_other_bytes(source: Source, head: bytes, *, is_text: bool) -> bool:
    """Whether a PDF begins within the first 1,024 bytes of a document that has no other type."""
    header = head.find(b"%PDF-", 0, _WITHIN + 5)
    if header < 0 or not _HEADER.match(head, header):
        return False
    return not is_text or _leads_to_objects(source, header)


def _leads_to_objects(source: Source, header: int) -> bool:
    start = _START.search(source.at(max(0, source.size - _TAIL), _TAIL))
    # Offsets count from the header or from the first byte of the file.
    return bool(start) and any(
        _TABLE.match(source.at(int(start[1]) + before, 64)) for before in (header, 0) if start
    )
