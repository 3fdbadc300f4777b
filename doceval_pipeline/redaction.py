"""Recognises API keys and passwords in text, and hides them.

This module has the patterns; callers decide which fields to check. It does not use files or databases.
"""

import re

# Prefixes of the keys of well-known services, followed by enough characters not to be a word; JSON Web
# Tokens; the values after Bearer and Basic; passwords in URLs. The trigger hide_keys of KnowledgeDocuments
# has the same pattern for PostgreSQL, and a test compares both.
KEY = (
    r"(?<![A-Za-z0-9])(?:sk-(?=[\w-]{0,99}\w{16})(?=[A-Za-z_-]{0,99}[0-9])[\w-]{16,}"
    r"|(?:gsk|hf|r8|gh[oprsu]|github_pat|[sr]k_live)_\w{16,}"
    r"|(?:glpat|pplx|nvapi|xai|xox[a-z])-[\w-]{16,}"
    r"|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|eyJ[\w-]{8,250}\.[\w-]{8,}"
    r"|(?:[Bb]earer|[Bb]asic)\s+(?=[A-Za-z._~+/=-]{0,99}[0-9])[A-Za-z0-9._~+/=-]{16,}"
    r"|[a-z][a-z0-9+.-]{0,30}://[^\s/?#@:]*:[^\s/?#@]+@)"
)
# Each match of `KEY` contains one of these, after the character that they contain. Looking for them in a text
# without any takes a sixth of the time of the pattern, which is tried at each character.
_HINTS = (
    ("_", ("gsk_", "hf_", "r8_", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "k_live_")),
    ("-", ("sk-", "glpat-", "pplx-", "nvapi-", "xai-", "xox")),
    ("", ("AIza", "AKIA", "ASIA", "eyJ", "earer", "asic", "://")),
)
NOT_SHOWN = "(key not shown)"
_KEY = re.compile(KEY)


def holds_key(text: str) -> bool:
    """Whether a text contains something that looks like a key or a password; unknown forms are not found."""
    return _may_hold_key(text) and _KEY.search(text) is not None


def without_keys(text: str) -> str:
    """The text with everything that looks like a key or a password replaced by `NOT_SHOWN`."""
    return _KEY.sub(NOT_SHOWN, text) if _may_hold_key(text) else text


def _may_hold_key(text: str) -> bool:
    for character, hints in _HINTS:
        if character in text:
            for hint in hints:
                if hint in text:
                    return True
    return False
