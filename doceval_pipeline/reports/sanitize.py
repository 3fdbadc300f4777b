"""Makes text that others wrote inert to read: names, messages and responses. Knows no HTML template.

Escaping for HTML is the template engine's; what is here is what escaping leaves alone: characters
that are invisible, reorder their surroundings, or cannot be written as UTF-8; and keys that a response
quotes, which a report would carry further.
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
# GitHub's markdown makes links of these even where the punctuation is escaped.
_AUTOLINK = re.compile(r"(?::(?=//)|@|www(?=\.))", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def visible(text: str) -> str:
    """Show every character that would act unseen, and no key; line ends and tabs stay."""
    return _INVISIBLE.sub(_symbol, without_keys(text).replace("\r\n", "\n"))


def visible_name(name: str) -> str:
    """Show a name in one line, with every character that would act unseen."""
    return visible(name.translate(_IN_NAMES))


def cut(text: str, characters: int) -> str:
    """The beginning of a text, with an ellipsis where something is left out."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def markdown_name(name: str, characters: int = 80) -> str:
    """A name as markdown that is only text: no link, image, code, HTML, table cell or autolink."""
    inert = _AUTOLINK.sub(lambda match: match[0] + _WORD_JOINER, visible_name(cut(name, characters)))
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", inert) or "(no name)"


def _symbol(match: re.Match[str]) -> str:
    if match["flag"]:
        return match["flag"]
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
