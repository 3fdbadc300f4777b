"""What a document is, by its first bytes and never by its name.

Names were right for 42 % of the files of one real corpus. libmagic comes in the wheel `pylibmagic`,
because a fresh machine has none.
"""

import os
import re
import threading
from functools import cache
from importlib import import_module
from typing import Any

HEAD_BYTES = 64 * 1024
UNKNOWN = "application/octet-stream"

# A zip file or OLE container is told from others by what it holds, further down.
_CONTAINERS = (b"PK", b"\xd0\xcf\x11\xe0")
_ENOUGH_FOR_OTHERS = 4 * 1024
# What begins like this is told by its beginning; more bytes cost libmagic twice the time.
_SIGNED = (b"%PDF-", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
_ENOUGH_FOR_SIGNED = 64
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
# Text that says what it is: markup, scripts, mail, calendars.
_TELLING = re.compile(
    rb"\xef\xbb\xbf|\s*(?:<|\{\\rtf|%!|#!|From |Received:|Return-Path:|MIME-Version:|BEGIN:)", re.IGNORECASE
)


def content_type(head: bytes) -> str:
    """The MIME type of a document that begins with `head`, of at most `HEAD_BYTES`.

    Plain text is `text/plain`, `text/csv` or `application/json`. libmagic also guesses programming
    languages, by regular expressions that cost 2 to 4 ms a file, more than all the rest of storing
    it; such guesses are not asked for (docs/decisions.md).
    """
    if not head:
        return UNKNOWN
    magic = _recognisers()
    if not head.startswith(_SIGNED) and _is_text(head) and not _TELLING.match(head):
        found: str = magic.of_text.from_buffer(head)
    else:
        found = magic.of_anything.from_buffer(head[: _enough(head)])
    # libmagic answers a few formats with words that are no MIME type.
    return found if "/" in found else UNKNOWN


def _enough(head: bytes) -> int:
    """How many bytes libmagic needs of it."""
    if head.startswith(_SIGNED):
        return _ENOUGH_FOR_SIGNED
    return HEAD_BYTES if head.startswith(_CONTAINERS) else _ENOUGH_FOR_OTHERS


def _is_text(head: bytes) -> bool:
    """Whether this is the beginning of UTF-8 without control characters."""
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut.
        if len(head) < HEAD_BYTES or error.start <= HEAD_BYTES - 4:
            return False
    return _CONTROL.search(head) is None


class _Recognisers(threading.local):
    """libmagic's handles, which only one thread may use at a time."""

    def __init__(self) -> None:
        library, database = _load()
        self.of_anything = library.Magic(mime=True, magic_file=database)
        self.of_text = library.Magic(mime=True, magic_file=database)
        flags = library.MAGIC_MIME_TYPE | library.MAGIC_NO_CHECK_SOFT
        library.magic_setflags(self.of_text.cookie, flags)


@cache
def _recognisers() -> _Recognisers:
    return _Recognisers()


@cache
def _load() -> tuple[Any, str]:
    before = set(os.environ)
    # Imported first, pylibmagic tells python-magic where its library is: in environment variables,
    # which processes started later must not inherit.
    pylibmagic = import_module("pylibmagic")
    magic = import_module("magic")
    for variable in set(os.environ) - before:
        del os.environ[variable]
    # Named, because the system's own database may be of another version than this library.
    return magic, str(pylibmagic.data.joinpath("magic.mgc"))
