"""What a document is, by its first bytes and never by its name.

Names were right for 42 % of the files of one real corpus. libmagic comes in the wheel `pylibmagic`,
because a fresh machine has none.
"""

import os
from functools import lru_cache
from importlib import import_module
from typing import Any

# libmagic looks no further for the formats that matter here.
HEAD_BYTES = 64 * 1024
UNKNOWN = "application/octet-stream"


def content_type(head: bytes) -> str:
    """The MIME type of a document that begins with `head`."""
    found: str = _magic().from_buffer(head) if head else UNKNOWN
    # libmagic answers a few formats with words that are no MIME type.
    return found if "/" in found else UNKNOWN


@lru_cache(maxsize=1)
def _magic() -> Any:
    before = dict(os.environ)
    try:
        # Imported first, pylibmagic tells python-magic where its library is: in environment
        # variables, which processes started later must not inherit.
        pylibmagic = import_module("pylibmagic")
        magic = import_module("magic")
    finally:
        os.environ.clear()
        os.environ.update(before)
    # Named, because the system's own database may be of another version than this library.
    return magic.Magic(mime=True, magic_file=str(pylibmagic.data.joinpath("magic.mgc")))
