"""Brings new defaults into a `dagster.yaml` that a user has edited. Pure functions on texts.

Three texts take part: the user's file, the defaults it was made from, and the defaults of this release. Edits
are made line by line, because libraries that write YAML move or lose comments where a key goes or comes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

# A mapping that names a class: its other keys belong to that class.
IDENTITY = ("module", "class")
# Takes exactly one of several keys.
SELECTOR = "storage"


@dataclass(frozen=True)
class _Entry:
    """A key of a mapping with its value, and the text that it stands in."""

    lines: list[str]
    key: Node
    value: Node

    @property
    def first(self) -> int:
        return int(self.key.start_mark.line)

    @property
    def end(self) -> int:
        """The line after the last one of the value."""
        mark, leaf = self.value.end_mark, _last_leaf(self.value)
        # A block ends where the next token begins, which may be on a line of its own.
        end = int(mark.line) + bool("".join(self.lines[mark.line : mark.line + 1])[: mark.column].strip())
        # What looks like a comment is text where it is part of a block scalar.
        ignored = ("",) if getattr(leaf, "style", None) in ("|", ">") else ("", "#")
        while end > self.first + 1 and self.lines[end - 1].strip()[:1] in ignored:
            end -= 1
        return end

    @property
    def comment(self) -> int:
        """The first line of the comment above the key, or the key's own."""
        line = self.first
        while line > 0 and self.lines[line - 1].lstrip().startswith("#"):
            line -= 1
        return line

    def plain(self) -> Any:
        """The value as Python knows it."""
        return SafeConstructor().construct_document(self.value)

    def entries(self) -> dict[str, "_Entry"] | None:
        """What a mapping in block style holds; None for every other value."""
        return _entries(self.lines, self.value)

    def shifted(self, first: int, column: int) -> list[str]:
        """The lines from `first` on, with the key at this column."""
        shift = column - int(self.key.start_mark.column)
        return [_shift(line, shift) for line in self.lines[first : self.end]]


@dataclass(frozen=True)
class _Edit:
    first: int
    end: int
    lines: list[str]


def merged(mine: str, before: str, now: str) -> str:
    """The user's file with the changes of the defaults since `before`; the user's edits win.

    Values left at the old default follow the new one, and keys that are new in the defaults are added. A
    value that the user changed, a key that the user removed and the user's comments stay. A list counts as
    one value, and so does a mapping in braces. A file with anchors stays as it is, because one of its lines
    may hold several values.

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
    # From the end, so that the numbers of the lines above stay true; of two at one place, the inner one last.
    edits.sort(key=lambda edit: (edit.first, edit.end))
    for edit in reversed(edits):
        lines[edit.first : edit.end] = edit.lines
    return "\n".join(lines) + "\n"


def _edits(
    mine: dict[str, _Entry], old: dict[str, _Entry], new: dict[str, _Entry], lines: list[str]
) -> Iterator[_Edit]:
    for key in old.keys() & mine.keys():
        yield from _step(key, mine[key], old[key], new.get(key))
    end = max((entry.end for entry in mine.values()), default=len(lines))
    column = min((int(entry.key.start_mark.column) for entry in mine.values()), default=0)
    added: list[str] = []
    for key, entry in new.items():
        if key not in old and key not in mine:
            # Blocks of the top level stand apart.
            added += [*([] if column else [""]), *entry.shifted(entry.comment, column)]
    if added:
        yield _Edit(end, end, added)


def _step(key: str, mine: _Entry, old: _Entry, new: _Entry | None) -> Iterator[_Edit]:
    """The edits by which one entry of the user's follows the defaults."""
    if new is None:
        if mine.plain() == old.plain():
            first = mine.first if _own_comment(mine, old) else mine.comment
            yield _Edit(first, mine.end, _own_comments(mine, old))
        return
    inner = (mine.entries(), old.entries(), new.entries())
    if inner[0] and inner[1] and inner[2]:
        if _is_another_thing(key, mine.plain(), old.plain()):
            return
        if _nothing_stays(inner[0], inner[1], inner[2]):
            # Without any key, the value would be null.
            empty = f"{mine.lines[mine.first].partition(':')[0]}: {{}}"
            yield _Edit(mine.first, mine.end, [*_own_comments(mine, old), empty])
        else:
            yield from _edits(inner[0], inner[1], inner[2], mine.lines)
    elif mine.plain() == old.plain() != new.plain():
        yield _replacement(mine, old, new)


def _nothing_stays(mine: dict[str, _Entry], old: dict[str, _Entry], new: dict[str, _Entry]) -> bool:
    left = [key for key in mine if key in new or key not in old or mine[key].plain() != old[key].plain()]
    return not left and new.keys() <= old.keys()


def _replacement(mine: _Entry, old: _Entry, new: _Entry) -> _Edit:
    if isinstance(mine.value, ScalarNode) and isinstance(new.value, ScalarNode):
        line = mine.lines[mine.first]
        start, end = mine.value.start_mark, mine.value.end_mark
        if start.line == end.line == mine.first:
            value = new.lines[new.first][new.value.start_mark.column : new.value.end_mark.column]
            return _Edit(mine.first, mine.first + 1, [line[: start.column] + value + line[end.column :]])
    column = int(mine.key.start_mark.column)
    return _Edit(mine.first, mine.end, [*_own_comments(mine, old), *new.shifted(new.first, column)])


def _own_comments(mine: _Entry, old: _Entry) -> list[str]:
    """Comment lines that the user wrote between the lines of a value."""
    ours = {line.strip() for line in old.lines}
    inside = mine.lines[mine.first + 1 : mine.end]
    return [line for line in inside if line.lstrip().startswith("#") and line.strip() not in ours]


def _own_comment(mine: _Entry, old: _Entry) -> bool:
    """Whether the comment above an entry is not the one of the defaults."""
    above = [line.strip() for line in mine.lines[mine.comment : mine.first]]
    return above != [line.strip() for line in old.lines[old.comment : old.first]]


def _is_another_thing(key: str, mine: Any, old: Any) -> bool:
    """Whether the user chose another class or another kind of storage."""
    return any(mine.get(name) != old.get(name) for name in IDENTITY) or (
        key == SELECTOR and mine.keys() != old.keys()
    )


def _top(text: str) -> dict[str, _Entry] | None:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return {} if root is None else _entries(text.splitlines(), root)


def _entries(lines: list[str], node: Node) -> dict[str, _Entry] | None:
    if not isinstance(node, MappingNode) or node.flow_style:
        return None
    return {str(key.value): _Entry(lines, key, value) for key, value in node.value}


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
