"""Texts that cannot hold a key are recognised without the pattern of keys."""

import re

from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.redaction import KEY, NOT_SHOWN, holds_key, without_keys

KEYS = st.from_regex(re.compile(KEY), fullmatch=True)
TEXTS = st.text(st.sampled_from("sk-ghAIzaKSeyJ_:/@ Basicpx9") | st.characters(), max_size=60)


@given(key=KEYS, before=TEXTS, after=TEXTS)
def test_a_key_is_found_wherever_the_pattern_finds_it(key: str, before: str, after: str) -> None:
    for text in (key, before + key + after, before + " " + key, before):
        assert without_keys(text) == re.sub(KEY, NOT_SHOWN, text)
        assert holds_key(text) == bool(re.search(KEY, text))
