"""Recognises keys and passwords in text that somebody wrote, and hides them.

What is here is what keys look like. Which fields must not hold any is the business of those who own the
fields. Knows no file and no database.
"""

import re

# Prefixes under which well-known services hand out keys, with enough behind them not to be a word; JSON
# Web Tokens; what follows Bearer and Basic; passwords in URLs. PostgreSQL reads the same pattern: the
# trigger hide_keys of KnowledgeDocuments holds it too, and a test holds the two together.
KEY = (
    r"(?<![A-Za-z0-9])(?:sk-(?=[\w-]{0,99}\w{16})(?=[A-Za-z_-]{0,99}[0-9])[\w-]{16,}"
    r"|(?:gsk|hf|r8|gh[oprsu]|github_pat|[sr]k_live)_\w{16,}"
    r"|(?:glpat|pplx|nvapi|xai|xox[a-z])-[\w-]{16,}"
    r"|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|eyJ[\w-]{8,250}\.[\w-]{8,}"
    r"|(?:[Bb]earer|[Bb]asic)\s+(?=[A-Za-z._~+/=-]{0,99}[0-9])[A-Za-z0-9._~+/=-]{16,}"
    r"|[a-z][a-z0-9+.-]{0,30}://[^\s/?#@:]*:[^\s/?#@]+@)"
)
NOT_SHOWN = "(key not shown)"
_KEY = re.compile(KEY)


def holds_key(text: str) -> bool:
    """Whether something in a text looks like a key or a password; a key of no known form does not."""
    return _KEY.search(text) is not None


def without_keys(text: str) -> str:
    """The text with `NOT_SHOWN` in the place of everything that looks like a key or a password."""
    return _KEY.sub(NOT_SHOWN, text)
