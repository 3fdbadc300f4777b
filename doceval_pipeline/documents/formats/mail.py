"""Mail, recognised by its header: notes, settings and logs also begin with `Date:` or `Subject:`.

A document is mail if everything up to the first empty line is header fields (RFC 5322), in any order, and
they contain either a field that only mail programs write in this form and one more mail field, or a sender, a
recipient and a subject or content type, spelled as mail programs spell them. A mailbox is mail after a line
`From address date`.
"""

import re

MAIL = "message/rfc822"
MAILBOX = "application/mbox"
MOST_FIELDS = 1000
# A little more than the longest line of a mail; longer values are cut before they are matched.
MOST_CHARACTERS = 1000
_MOST_SEPARATOR = 200

_FIRST_FIELD = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:")
_SEPARATOR = re.compile(rb"From [^\r\n]*[@-][^\r\n]*:\d\d[^\r\n]*\r?\n")
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n|\r\r")
_FOLD = re.compile(rb"(?:\r\n|\n|\r)[ \t]+")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)")

_ADDRESS = re.compile(rb".*\S@\S")
_IN_BRACKETS = re.compile(rb"\s*<[^<>]*>")
_ANY = re.compile(rb".*\S")
_DATE = re.compile(rb"\s*(?:[A-Za-z]{3},)?\s*\d{1,2}\s+[A-Za-z]{3}\s+\d{2,4}\s+\d{1,2}:\d\d")
# Fields that only mail programs write in this form.
_PROOFS = {
    b"received": re.compile(rb".*(?:;|\bby\b|\bfrom\b|\bwith\b)"),
    b"return-path": _IN_BRACKETS,
    b"delivered-to": _ADDRESS,
    b"envelope-to": _ADDRESS,
    b"x-original-to": _ADDRESS,
    b"message-id": _IN_BRACKETS,
    b"in-reply-to": re.compile(rb"[^<]*<[^<>]*>"),
    b"date": _DATE,
    b"mime-version": re.compile(rb"\s*1\.0"),
    b"dkim-signature": _ANY,
    b"received-spf": _ANY,
    b"authentication-results": _ANY,
    b"x-mailer": _ANY,
    b"thread-index": _ANY,
}
# Without one of these the header may belong to something else, such as an HTTP response.
_MAIL_FIELDS = {
    *(b"from", b"to", b"cc", b"bcc", b"subject", b"sender", b"received", b"return-path", b"message-id"),
    *(b"delivered-to", b"envelope-to", b"x-original-to", b"newsgroups"),
}


def mail_type(head: bytes, *, is_whole: bool) -> str | None:
    """`MAIL`, `MAILBOX`, or None; `is_whole` tells whether `head` is the whole document."""
    if _FIRST_FIELD.match(head):
        fields = _fields(head, is_whole=is_whole)
        return MAIL if fields and _are_of_mail(fields) else None
    separator = _SEPARATOR.match(head[:_MOST_SEPARATOR])
    fields = _fields(head[separator.end() :], is_whole=is_whole) if separator else None
    return MAILBOX if fields and len(_MAIL_FIELDS & {name.lower() for name in fields}) > 1 else None


def _fields(head: bytes, *, is_whole: bool) -> dict[bytes, bytes] | None:
    """The first field of each name; None if a line is not a field."""
    end = _EMPTY_LINE.search(head)
    lines = _FOLD.sub(b" ", head[: end.start()] if end else head).splitlines()
    if not end and not is_whole:
        lines = lines[:-1]
    fields: dict[bytes, bytes] = {}
    for line in lines[:MOST_FIELDS]:
        field = _FIELD.match(line)
        if field:
            fields.setdefault(field[1], field[2][:MOST_CHARACTERS])
        elif not line.startswith(b">From "):
            return None
    return fields


def _are_of_mail(fields: dict[bytes, bytes]) -> bool:
    values = {name.lower(): value for name, value in fields.items()}
    proofs = {name for name, form in _PROOFS.items() if name in values and form.match(values[name])}
    if proofs and _MAIL_FIELDS & values.keys():
        return len(proofs | (_MAIL_FIELDS & values.keys())) >= 2
    # Outlook writes this field instead of a date when it quotes a mail.
    if b"sent" in values:
        return False
    addressed = all(_ADDRESS.match(fields.get(name, b"")) for name in (b"From", b"To"))
    return addressed and not fields.keys().isdisjoint((b"Subject", b"Content-Type"))
