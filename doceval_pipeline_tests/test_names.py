"""Names in every script are accepted; invisible characters are refused with their position."""

import pytest

from doceval_pipeline.names import normal, printable, refusal
from doceval_pipeline.reports.sanitize import visible_name

ORDINARY = [
    "contracts-q4",
    "Prüfung",
    "Pru\u0308fung",
    "می‌خواهم",
    "PDF‌های قرارداد",
    "क्‍ष समीक्षा",
    "ശ്രീ",
    "한국어 검토",
    "日本語の契約",
    "葛󠄀城市",
    "עברית",
    "👨‍👩‍👧‍👦 family",
    "❤️‍🔥",
    "👍🏽",
    "🏳️‍🌈",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 England",
    "1️⃣ first",
    "©️ notices",
    "🇩🇪 Verträge",
    "\U0001fae8",
    "a" * 200,
    "👨" * 200,
]


@pytest.mark.parametrize("name", ORDINARY)
def test_a_name_in_any_script_is_taken_and_shown_as_it_is(name: str) -> None:
    assert refusal(normal(name)) is None
    assert visible_name(name) == name
    if name.isascii() or "\U0001fae8" not in name:
        assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "is empty: give it a name"),
        ("a" * 201, "has 201 characters: use at most 200"),
        (" a", "character 1 is U+0020 SPACE: remove the space at the beginning"),
        ("a ", "character 2 is U+0020 SPACE: remove the space at the end"),
        ("a  b", "character 3 is U+0020 SPACE: remove it, because two spaces look like one"),
        (
            "a\u00a0b",
            "character 2 is U+00A0 NO-BREAK SPACE: write an ordinary space, or none at the beginning and end",
        ),
        ("a\u3000b", "character 2 is U+3000 IDEOGRAPHIC SPACE: write an ordinary space, or none at "),
        ("a\nb", "character 2 is U+000A LINE FEED: it is invisible, remove it"),
        ("a\x07b", "character 2 is U+0007: it is invisible, remove it"),
        ("abcd\u202ee", "character 5 is U+202E RIGHT-TO-LEFT OVERRIDE: it is invisible, remove it"),
        # Places are those of the name as it is read.
        ("u\u0308bc\u200b", "character 4 is U+200B ZERO WIDTH SPACE: it is invisible, remove it"),
        ("a\u2060", "character 2 is U+2060 WORD JOINER: "),
        ("\ufeffa", "character 1 is U+FEFF ZERO WIDTH NO-BREAK SPACE: "),
        ("a\u00adb", "character 2 is U+00AD SOFT HYPHEN: "),
        ("Prü\u200dfung", "character 4 is U+200D ZERO WIDTH JOINER: "),
        ("می\u200c", "character 3 is U+200C ZERO WIDTH NON-JOINER: "),
        ("می\u200c\u200cخ", "character 3 is U+200C ZERO WIDTH NON-JOINER: "),
        ("\u200dक", "character 1 is U+200D ZERO WIDTH JOINER: "),
        ("a\ufe0fb", "character 2 is U+FE0F VARIATION SELECTOR-16: "),
        ("1\ufe0f", "character 2 is U+FE0F VARIATION SELECTOR-16: "),
        ("a\U000e0041b", "character 2 is U+E0041 TAG LATIN CAPITAL LETTER A: "),
        ("🏴\U000e0067", "character 2 is U+E0067 TAG LATIN SMALL LETTER G: "),
        (
            "\u0301a",
            "character 1 is U+0301 COMBINING ACUTE ACCENT, which must follow a letter: begin with",
        ),
        ("a\u034fb", "character 2 is U+034F COMBINING GRAPHEME JOINER: "),
        ("a\u3164", "character 2 is U+3164 HANGUL FILLER: "),
        ("\u2800", "character 1 is U+2800 BRAILLE PATTERN BLANK: "),
        ("a\ue000", "character 2 is U+E000: "),
        ("a\ufffe", "character 2 is U+FFFE: "),
        ("a\u2028b", "character 2 is U+2028 LINE SEPARATOR: "),
    ],
)
def test_invisible_characters_are_refused_with_their_position(name: str, expected: str) -> None:
    found = refusal(normal(name))
    assert found is not None
    assert found.startswith(expected)
    assert found.isprintable()


def test_the_normal_form_keeps_what_people_see_apart() -> None:
    assert normal("Pru\u0308fung") == normal("Prüfung")
    assert normal("\u212b") == normal("Å")
    for one, other in (("Clarity", "clarity"), ("ﬁ", "fi"), ("Ａ", "A"), ("①", "1"), ("Straße", "Strasse")):
        assert normal(one) != normal(other)
