"""docs/invariants.md held against the queries: the same names, sentences, fixes and order."""

import re
from pathlib import Path

from doceval_pipeline.batches.invariants.registry import INVARIANTS

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "invariants.md").read_text()
SECTION = re.compile(r"^\*\*(?P<sentence>[^*]+)\.\*\* (?P<why>.+?) What to do: (?P<fix>.+)\.$")


def sections() -> dict[str, str]:
    """The text of each section by its name, on one line."""
    parts = re.split(r"^### (.+)$", DOCUMENT, flags=re.MULTILINE)[1:]
    texts = [re.split(r"^## ", text, flags=re.MULTILINE)[0] for text in parts[1::2]]
    return dict(zip(parts[::2], (" ".join(text.split()) for text in texts), strict=True))


def test_the_sections_are_the_invariants_in_their_order() -> None:
    assert list(sections()) == [invariant.name for invariant in INVARIANTS]


def test_each_section_says_what_must_hold_why_and_what_to_do() -> None:
    texts = sections()
    for invariant in INVARIANTS:
        found = SECTION.match(texts[invariant.name])
        assert found is not None, invariant.name
        assert found["sentence"].lower() == invariant.statement.lower()
        assert found["fix"] == invariant.fix.format(batch_id="BATCH", file="FILE")
