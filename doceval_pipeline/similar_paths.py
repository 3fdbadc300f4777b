"""Finds paths that exist in another spelling: another Unicode form or another letter case."""

import os

from doceval_pipeline.names import normal


def similar_path(path: str) -> str | None:
    """The existing path that differs from an absolute path only in Unicode form or letter case.

    None if there is none or more than one. Folders that cannot be read count as empty.
    """
    similar = os.sep
    for part in path.split(os.sep):
        exact = os.path.join(similar, part)
        if os.path.lexists(exact):
            similar = exact
            continue
        names = [name for name in _names(similar) if _key(name) == _key(part)]
        if len(names) != 1:
            return None
        similar = os.path.join(similar, names[0])
    return similar


def remedy_for_missing(path: str) -> str:
    """What to do about an absolute path that does not exist, as the part of a message after the colon."""
    similar = similar_path(path)
    if similar == path:
        return "one of its parent folders does not exist, fix the path"
    if similar is None:
        return "create it or fix the path"
    if normal(similar) == normal(path):
        return f"a path in another Unicode form exists, write {spelled_out(similar)}"
    return f"a path in another letter case exists, write {spelled_out(similar)}"


def spelled_out(name: str) -> str:
    r"""A name in quotes with ASCII escapes that YAML reads: "Pru\u0308fung"."""
    escaped = "".join(_escaped(character) for character in name)
    return f'"{escaped}"'


def _key(name: str) -> str:
    return normal(normal(name).casefold())


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
