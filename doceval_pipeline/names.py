"""Names of batches, connections and prompts: which names are equal, and which characters they may contain.

Two names are equal if they have the same normalized form (NFC): macOS writes `ü` as two characters, keyboards
write one. Upper and lower case, ligatures and wide forms stay different. Invisible characters are rejected,
unless a script or an emoji needs them at that position. This module does not use files or databases.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches

LONGEST = 200
# The flags of England, Scotland, Wales and other regions: a black flag followed by invisible letters.
FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{2,6}\U000e007f"
JOINERS = "\u200c\u200d"

_FLAG = re.compile(FLAG)
_NOT_PLAIN = re.compile(f"(?P<flag>{FLAG})|[^ -~]")
# Visible characters of Unicode's category Cf: the signs of Arabic and Syriac numbers and verses.
_VISIBLE = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
# Invisible characters of other categories: fillers, blank symbols, and code points reserved for such
# characters.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\ufff0-\ufff8\U0001d159\U000e0080-\U000e00ff"
    "\U000e01f0-\U000e0fff\ufdd0-\ufdef\ufffe\uffff]"
)
_VARIANTS_OF_SYMBOLS = "\ufe0e\ufe0f"
_VARIANTS_OF_LETTERS = re.compile("[\ufe00-\ufe0d\u180b-\u180d\u180f\U000e0100-\U000e01ef]")
_KEYCAP = re.compile("[0-9#*]\ufe0f\u20e3")


def normal(name: str) -> str:
    """The normalized form (NFC) in which a name is stored and compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def similar(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar, if any is; names that differ only in case come first."""
    folded = {other.casefold(): other for other in known}
    near = get_close_matches(normal(name[:LONGEST]).casefold(), folded, 1)
    return folded[near[0]] if near else None


def normal_in_sql(expression: str) -> str:
    """The SQL expression for `normal`; the database must use UTF-8."""
    return f"normalize({expression}, NFC)"


def skeleton(name: str) -> str:
    """A name without the characters that are visible only in some positions."""
    return normal(name).translate(dict.fromkeys(map(ord, JOINERS + _VARIANTS_OF_SYMBOLS)))


def skeleton_in_sql(expression: str) -> str:
    """The SQL expression for `skeleton`."""
    hidden = "".join(f"\\{ord(char):04X}" for char in JOINERS + _VARIANTS_OF_SYMBOLS)
    return f"translate({normal_in_sql(expression)}, U&'{hidden}', '')"


def printable(text: str) -> str:
    """The text with escapes for characters that are not printable, so that none controls a terminal.

    The joiners and flags that scripts and emoji need are kept.
    """
    return _NOT_PLAIN.sub(lambda match: match["flag"] or _escaped(match[0]), text)


def refusal(name: str) -> str | None:
    """Why a normalized name is invalid, with the character and its position; None if it is valid."""
    if not name:
        return "is empty: give it a name"
    if len(name) > LONGEST:
        return f"has {len(name)} characters: use at most {LONGEST}"
    if unicodedata.category(name[0]).startswith("M"):
        return f"{_character(name, 0)}, which must follow a letter: begin with another character"
    spared = {place for match in _FLAG.finditer(name) for place in range(match.start() + 1, match.end())}
    for place in range(len(name)):
        advice = None if place in spared else _advice(name, place)
        if advice is not None:
            return f"{_character(name, place)}: {advice}"
    return None


def _escaped(char: str) -> str:
    plain = char.isprintable() or char in JOINERS
    return char if plain else char.encode("unicode_escape").decode("ascii")


def _character(name: str, place: int) -> str:
    """The position of a character, counted from 1, its code point and its name."""
    called = unicodedata.name(name[place], "") or _CONTROLS.get(name[place], "")
    return f"character {place + 1} is U+{ord(name[place]):04X} {called}".rstrip()


_CONTROLS = {"\t": "TAB", "\n": "LINE FEED", "\r": "CARRIAGE RETURN"}


def _advice(name: str, place: int) -> str | None:
    """What to do about the character at a position; None if it is allowed there."""
    char, before, after = name[place], name[place - 1 : place], name[place + 1 : place + 2]
    if char == " ":
        if not before or not after:
            return "remove the space at the beginning" if not before else "remove the space at the end"
        return "remove it, because two spaces look like one" if before == " " else None
    category = unicodedata.category(char)
    if category == "Zs":
        return "write an ordinary space, or none at the beginning and end"
    is_allowed = _condition(char, category)
    return None if is_allowed is None or is_allowed(name, place) else "it is invisible, remove it"


def _condition(char: str, category: str) -> Callable[[str, int], bool] | None:
    """The condition under which a character is allowed at a position; None if it is allowed everywhere."""
    if char in JOINERS:
        return _joins
    if char in _VARIANTS_OF_SYMBOLS:
        return _varies_a_symbol
    if _VARIANTS_OF_LETTERS.match(char):
        return lambda name, place: unicodedata.category(name[place - 1]) == "Lo"
    if _INVISIBLE.match(char) or category in ("Cc", "Cs", "Co", "Zl", "Zp"):
        return lambda name, place: False
    return (lambda name, place: False) if category == "Cf" and not _VISIBLE.match(char) else None


def _joins(name: str, place: int) -> bool:
    """Whether a joiner is between two characters and changes how at least one of them looks.

    Between two Latin letters it has no visible effect; after a Latin word it may separate a Persian ending.
    """
    sides = [unicodedata.category(side) for side in name[place - 1 : place + 2 : 2]] if place else []
    if len(sides) < 2 or any(side[0] in "CZ" and side != "Cn" for side in sides):
        return False
    return any(side == "Lo" or side[0] in "MS" or side == "Cn" for side in sides)


def _varies_a_symbol(name: str, place: int) -> bool:
    """Whether a variation selector follows a character with a coloured and a plain form."""
    before = name[place - 1]
    return unicodedata.category(before)[0] in "SP" or bool(_KEYCAP.match(name, place - 1))
