"""Makes foreign text safe to read: names, messages and responses.

The template engine escapes HTML. This module handles what escaping leaves alone: characters that are
invisible, reorder their surroundings or have no UTF-8 form, and API keys that a response quotes.
"""

import re

from doceval_pipeline.names import FLAG
from doceval_pipeline.redaction import without_keys

# Controls, soft hyphen, bidirectional and zero-width characters (not the joiners U+200C and U+200D,
# which scripts and emoji need), line separators, byte order mark, lone surrogates, tags outside of flags.
_INVISIBLE = re.compile(
    f"(?P<flag>{FLAG})|"
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_IN_NAMES = str.maketrans({"\n": "␊", "\t": "␉", "\r": "␍"})
_MARKDOWN = re.compile(r"[!-,/:-@\[-`{-~]")
# GitHub's markdown links these even if the punctuation is escaped.
_AUTOLINK = re.compile(r"(?::(?=//)|@|www(?=\.))", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def visible(text: str) -> str:
    """A text with invisible characters made visible and keys hidden; line ends and tabs stay."""
    shown = without_keys(text).replace("\r\n", "\n")
    # All that `_INVISIBLE` matches is not printable, and this takes a tenth of its time.
    if shown.replace("\n", " ").replace("\t", " ").isprintable():
        return shown
    return _INVISIBLE.sub(_symbol, shown)


def visible_name(name: str) -> str:
    """A name in one line, with invisible characters made visible and keys hidden."""
    return visible(name.translate(_IN_NAMES))


def cut(text: str, characters: int) -> str:
    """A text, cut to `characters` with an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def markdown_name(name: str, characters: int = 80) -> str:
    """A name as plain text in markdown: no link, image, code, HTML, table cell or autolink."""
    inert = _AUTOLINK.sub(lambda match: match[0] + _WORD_JOINER, visible_name(cut(name, characters)))
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", inert) or "(no name)"


def _symbol(match: re.Match[str]) -> str:
    if match["flag"]:
        return match["flag"]
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
