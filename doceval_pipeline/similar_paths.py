"""Finds a path that exists only in another spelling: another Unicode form, or other upper and lower case."""

import os

from doceval_pipeline.names import normal


def similar_path(path: str) -> str | None:
    """An existing path that differs from an absolute one in Unicode form, or upper and lower case, only.

    None where there is none, or where several are. Folders that cannot be read have no similar names.
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
    """What to do about an absolute path that does not exist, in words that follow a colon."""
    similar = similar_path(path)
    if similar == path:
        return "a folder on the way to it does not, correct the path"
    if similar is None:
        return "create it or correct the path"
    if normal(similar) == normal(path):
        return f"one whose name is in another Unicode form does, write {spelled_out(similar)}"
    return f"one whose name differs in upper and lower case does, write {spelled_out(similar)}"


def spelled_out(name: str) -> str:
    r"""A name in quotes, with what is not ASCII as escapes: "Pru\u0308fung". YAML reads it."""
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
