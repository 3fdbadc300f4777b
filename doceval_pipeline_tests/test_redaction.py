"""Texts that cannot hold a key are recognised without the pattern of keys."""

import re

import pytest
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


@pytest.mark.parametrize(
    "beginning",
    [
        *("sk-", "gsk_", "hf_", "r8_", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "sk_live_"),
        *("rk_live_", "glpat-", "pplx-", "nvapi-", "xai-", "xoxb-", "xoxp-", "AIza", "AKIA", "ASIA"),
        *("eyJabcdefgh.", "Bearer ", "bearer ", "Basic ", "basic "),
    ],
)
def test_a_key_of_each_kind_is_hidden(beginning: str) -> None:
    rest = "A1B2C3D4E5F6G7H8" + ("" if beginning in ("AKIA", "ASIA") else "A1B2C3D4E5F6G7H8")
    assert without_keys(f"refused: {beginning}{rest} is wrong") == f"refused: {NOT_SHOWN} is wrong"
    assert holds_key(beginning + rest)


def test_a_password_in_an_address_is_hidden() -> None:
    assert without_keys("see postgresql://me:secret@host/db") == f"see {NOT_SHOWN}host/db"
