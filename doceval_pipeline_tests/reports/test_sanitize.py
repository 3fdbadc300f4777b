"""Foreign text, made safe."""

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from doceval_pipeline.reports.sanitize import cut, markdown_name, visible, visible_name
from doceval_pipeline_tests.reports.sample_reports import HOSTILE

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "␛[31m"),
        ("a\x00b", "a␀b"),
        ("\x7f\x9b", "␡⟨U+009B⟩"),
        ("invoice\u202efdp.exe", "invoice⟨U+202E⟩fdp.exe"),
        ("\u2066\u2069\u200f\u061c", "⟨U+2066⟩⟨U+2069⟩⟨U+200F⟩⟨U+061C⟩"),
        ("a\u200bb\ufeff", "a⟨U+200B⟩b⟨U+FEFF⟩"),
        ("bad\udcff", "bad⟨U+DCFF⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("one\r\ntwo\n\tthree\rfour", "one\ntwo\n\tthree␍four"),
        ("key sk-proj-0123456789abcdef", "key (key not shown)"),
        ("שלום, naïve, 日本, 👩‍🔬", "שלום, naïve, 日本, 👩‍🔬"),
    ],
)
def test_what_would_act_unseen_is_seen(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_name_stays_in_one_line() -> None:
    assert visible_name("a\nb\tc\r\nd\u2028e") == "a␊b␉c␍␊d⟨U+2028⟩e"


@given(text=ANY_TEXT)
def test_nothing_that_controls_or_cannot_be_written_is_left(text: str) -> None:
    shown = visible(text)
    assert shown.encode().decode() == shown
    controls = {c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert controls <= {"\n", "\t"}
    orders = {c for c in shown if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI")}
    assert not orders


def test_a_cut_text_ends_in_an_ellipsis() -> None:
    assert (cut("abcd", 4), cut("abcde", 4)) == ("abcd", "abc…")


class TextOnly(HTMLParser):
    """Collects the text of a page and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(name=ANY_TEXT)
def test_a_name_in_markdown_is_only_text(name: str) -> None:
    table = f"| a | b |\n|---|---|\n| {markdown_name(name)} | last |\n"
    page = TextOnly(MarkdownIt("commonmark").enable("table").render(table))
    assert page.elements == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.text.split()[-1] == "last"


@pytest.mark.parametrize(
    "name", ["http://evil.invalid", "HTTPS://evil.invalid", "WWW.evil.invalid", "a@evil.invalid"]
)
def test_a_name_in_markdown_is_no_link_even_after_its_entities_are_read(name: str) -> None:
    shown = TextOnly(MarkdownIt("commonmark").render(markdown_name(name))).text
    assert not any(sign in shown.lower() for sign in ("://", "www.", "@e"))
    assert shown.replace("\u2060", "").strip() == name


def test_an_empty_name_in_markdown_still_says_something() -> None:
    assert markdown_name("") == "(no name)"
