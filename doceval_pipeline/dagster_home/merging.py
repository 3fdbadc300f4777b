"""Merges new defaults into a `dagster.yaml` that a user has edited. Pure functions on texts.

The inputs are the user's file, the defaults it was copied from, and the defaults of this release. Edits work
line by line, because YAML writers move or lose comments next to added and removed keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

# Keys that name a class; the other keys of the mapping belong to that class.
IDENTITY = ("module", "class")
# Allows exactly one of several keys.
SELECTOR = "storage"


@dataclass(frozen=True)
class _YamlEntry:
    """A key of a mapping with its value, and the lines of the file."""

    lines: list[str]
    key: Node
    value: Node

    @property
    def first(self) -> int:
        return int(self.key.start_mark.line)

    @property
    def end(self) -> int:
        """The line after the last line of the value."""
        mark, leaf = self.value.end_mark, _last_leaf(self.value)
        # A block ends at the next token, which may be on a separate line.
        end = int(mark.line) + bool("".join(self.lines[mark.line : mark.line + 1])[: mark.column].strip())
        # In a block scalar, lines that look like comments are text.
        ignored = ("",) if getattr(leaf, "style", None) in ("|", ">") else ("", "#")
        while end > self.first + 1 and self.lines[end - 1].strip()[:1] in ignored:
            end -= 1
        return end

    @property
    def comment(self) -> int:
        """The first line of the comment above the key, or the line of the key."""
        line = self.first
        while line > 0 and self.lines[line - 1].lstrip().startswith("#"):
            line -= 1
        return line

    def plain(self) -> Any:
        """The value as a Python object."""
        return SafeConstructor().construct_document(self.value)

    def entries(self) -> dict[str, "_YamlEntry"] | None:
        """The entries of a mapping in block style; None for every other value."""
        return _entries(self.lines, self.value)

    def shifted(self, first: int, column: int) -> list[str]:
        """The lines from `first` on, indented so that the key is at `column`."""
        shift = column - int(self.key.start_mark.column)
        return [_shift(line, shift) for line in self.lines[first : self.end]]


@dataclass(frozen=True)
class _Edit:
    first: int
    end: int
    lines: list[str]


def merge(mine: str, before: str, now: str) -> str:
    """The user's file with the changes of the defaults since `before`; the user's edits win.

    Values that still have the old default get the new one, and new keys are added. Changed values, removed
    keys and the user's comments stay. A list counts as one value, and so does a mapping in braces. A file
    with anchors is not changed, because one of its lines may define several values.

    Raises
    ------
    yaml.YAMLError
        One of the texts is not YAML.
    """
    edited, old, new = (_top(text) for text in (mine, before, now))
    if edited is None or old is None or new is None or _has_anchors(mine):
        return mine
    lines = mine.splitlines()
    edits = list(_edits(edited, old, new, lines))
    if not edits:
        return mine
    # From the end, so that earlier line numbers stay valid; of two edits at one place, the inner one last.
    edits.sort(key=lambda edit: (edit.first, edit.end))
    for edit in reversed(edits):
        lines[edit.first : edit.end] = edit.lines
    return "\n".join(lines) + "\n"


def _edits(
    mine: dict[str, _YamlEntry], old: dict[str, _YamlEntry], new: dict[str, _YamlEntry], lines: list[str]
) -> Iterator[_Edit]:
    for key in old.keys() & mine.keys():
        yield from _step(key, mine[key], old[key], new.get(key))
    end = max((entry.end for entry in mine.values()), default=len(lines))
    column = min((int(entry.key.start_mark.column) for entry in mine.values()), default=0)
    added: list[str] = []
    for key, entry in new.items():
        if key not in old and key not in mine:
            # Top-level blocks are separated by an empty line.
            added += [*([] if column else [""]), *entry.shifted(entry.comment, column)]
    if added:
        yield _Edit(end, end, added)


def _step(key: str, mine: _YamlEntry, old: _YamlEntry, new: _YamlEntry | None) -> Iterator[_Edit]:
    """The edits that update one entry of the user to the defaults."""
    if new is None:
        if mine.plain() == old.plain():
            first = mine.first if _own_comment(mine, old) else mine.comment
            yield _Edit(first, mine.end, _own_comments(mine, old))
        return
    inner = (mine.entries(), old.entries(), new.entries())
    if inner[0] and inner[1] and inner[2]:
        if _is_other_class(key, mine.plain(), old.plain()):
            return
        if _becomes_empty(inner[0], inner[1], inner[2]):
            # Without keys, the value would be null.
            empty = f"{mine.lines[mine.first].partition(':')[0]}: {{}}"
            yield _Edit(mine.first, mine.end, [*_own_comments(mine, old), empty])
        else:
            yield from _edits(inner[0], inner[1], inner[2], mine.lines)
    elif mine.plain() == old.plain() != new.plain():
        yield _replacement(mine, old, new)


def _becomes_empty(
    mine: dict[str, _YamlEntry], old: dict[str, _YamlEntry], new: dict[str, _YamlEntry]
) -> bool:
    left = [key for key in mine if key in new or key not in old or mine[key].plain() != old[key].plain()]
    return not left and new.keys() <= old.keys()


def _replacement(mine: _YamlEntry, old: _YamlEntry, new: _YamlEntry) -> _Edit:
    if isinstance(mine.value, ScalarNode) and isinstance(new.value, ScalarNode):
        line = mine.lines[mine.first]
        start, end = mine.value.start_mark, mine.value.end_mark
        if start.line == end.line == mine.first:
            value = new.lines[new.first][new.value.start_mark.column : new.value.end_mark.column]
            return _Edit(mine.first, mine.first + 1, [line[: start.column] + value + line[end.column :]])
    column = int(mine.key.start_mark.column)
    return _Edit(mine.first, mine.end, [*_own_comments(mine, old), *new.shifted(new.first, column)])


def _own_comments(mine: _YamlEntry, old: _YamlEntry) -> list[str]:
    """Comment lines of the user between the lines of a value."""
    ours = {line.strip() for line in old.lines}
    inside = mine.lines[mine.first + 1 : mine.end]
    return [line for line in inside if line.lstrip().startswith("#") and line.strip() not in ours]


def _own_comment(mine: _YamlEntry, old: _YamlEntry) -> bool:
    """Whether the comment above an entry differs from the default one."""
    above = [line.strip() for line in mine.lines[mine.comment : mine.first]]
    return above != [line.strip() for line in old.lines[old.comment : old.first]]


def _is_other_class(key: str, mine: Any, old: Any) -> bool:
    """Whether the user chose another class or another kind of storage."""
    return any(mine.get(name) != old.get(name) for name in IDENTITY) or (
        key == SELECTOR and mine.keys() != old.keys()
    )


def _top(text: str) -> dict[str, _YamlEntry] | None:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return {} if root is None else _entries(text.splitlines(), root)


def _entries(lines: list[str], node: Node) -> dict[str, _YamlEntry] | None:
    if not isinstance(node, MappingNode) or node.flow_style:
        return None
    return {str(key.value): _YamlEntry(lines, key, value) for key, value in node.value}


def _has_anchors(text: str) -> bool:
    return any(getattr(event, "anchor", None) for event in yaml.parse(text, Loader=yaml.SafeLoader))


def _last_leaf(node: Node) -> Node:
    while isinstance(node, MappingNode | SequenceNode) and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node


def _shift(line: str, columns: int) -> str:
    if columns >= 0:
        return " " * columns + line if line.strip() else line
    return line[min(-columns, len(line) - len(line.lstrip())) :]
