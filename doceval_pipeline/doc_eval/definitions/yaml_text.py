"""Reads YAML 1.2 or JSON as plain data with the location of each value. Knows nothing about evaluations.

Scalars follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), which yamlcore adds to
PyYAML. Size, depth and aliases are bounded, so that every text is read within seconds.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
import yamlcore

Location = tuple[str | int, ...]
# Line and column, both counted from 1.
Mark = tuple[int, int]
# A value counts again for each alias of it.
MOST_VALUES = 50_000
DEEPEST = 50
_MERGE = "tag:yaml.org,2002:merge"
_CORE = ("str", "int", "float", "bool", "null", "seq", "map")
_CORE_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in _CORE)
# Characters that PyYAML reads as line ends, as YAML 1.1 does, or rejects; in JSON and YAML 1.2 they are text.
_NOT_PLAIN = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_DIRECTIVE = re.compile(r"^%YAML\s+(\S+)", re.MULTILINE)
# Patterns of PyYAML's messages, and what to do.
_ADVICE = (
    (r"an alias expected", "a value cannot begin with *: put it in quotes"),
    (r"an anchor expected", "a value cannot begin with &: put it in quotes"),
    (r"a tag|tag handle|tag URI", "a value cannot begin with !: put it in quotes"),
    (r"expected ',' or .* got ':'", "a ': ' is not expected here: put the value in quotes, or add a comma"),
    (r"found character '\\t'", "a tab cannot indent YAML: use spaces"),
    (r"found character '(.)' that", r"a value cannot begin with \1: put it in quotes"),
    (
        r"mapping values are not allowed",
        "a ': ' is not expected here: put the value in quotes, or fix the indentation",
    ),
    (r"expected <block end>", "the indentation does not match the lines above: align it with its neighbours"),
    (r"sequence entries are not allowed", "a '- ' is not expected here: begin it on a line of its own"),
    (r"could not find expected ':'", "a key is not followed by ': ': add it, or fix the indentation"),
    (r"unexpected end of stream", "a quotation mark is never closed: close it"),
    (r"expected ',' or", "a [ or { is not closed, or a comma is missing: close it, or add the comma"),
    (r"expected the node content", "a value is missing or begins with a special character: put it in quotes"),
    (
        r"found undefined alias",
        "an alias (*name) is not defined above: define it with &name, or put the value in quotes",
    ),
    (r"found duplicate anchor", "an anchor (&name) is defined twice: rename one of them"),
    (r"found another document", "a second document begins: keep one document and remove the ---"),
    (r"unknown escape character", r"a \ in double quotes begins an escape: write \\, or use single quotes"),
    (r"escape sequence", r"an escape in double quotes is incomplete: write \\ for a backslash"),
    (r"incompatible YAML document", "the %YAML version is not supported: remove the line"),
)


_HALF = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


@dataclass(frozen=True)
class Mistake:
    """A problem of the value at a location."""

    location: Location
    problem: str


class TextError(Exception):
    """The text is not YAML or JSON, or is too large; `line` counts from 1 and is 0 if unknown."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.problem = line, problem


@dataclass
class PlainData:
    """The content of a text: dicts, lists, text, numbers, booleans and None.

    `marks` has the line and column of every value, `mistakes` the values that could not be read.
    """

    content: Any = None
    marks: dict[Location, Mark] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)


def read_plain(text: str) -> PlainData | None:
    """Read a text; None if it is empty.

    Raises
    ------
    TextError
    """
    is_json = _is_json(text)
    if is_json:
        # In JSON, tabs occur only between values, and the other characters only inside texts.
        text = _NOT_PLAIN.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\t", " "))
    elif match := _NOT_PLAIN.search(text):
        raise TextError(
            text.count("\n", 0, match.start()) + 1,
            f"contains the invisible character U+{ord(match[0]):04X}: delete it, or write "
            f"\\u{ord(match[0]):04x} in double quotes",
        )
    loader, node = _composed(text)
    directive = _DIRECTIVE.search(text)
    if loader.yaml_version not in (None, (1, 2)) and directive:
        line = text.count("\n", 0, directive.start()) + 1
        raise TextError(
            line, f"%YAML {directive[1]} is not supported (files are read as YAML 1.2): remove the line"
        )
    if node is None:
        return None
    reader = _NodeReader(loader, is_json=is_json)
    reader.data.content = reader.read(node, ())
    return reader.data


class _Loader(yamlcore.CoreLoader):  # type: ignore[misc]
    """The core schema plus the merge key `<<`, which many YAML files use."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; fails early if there are too many or they are nested too deeply."""
        self.nodes += 1
        self.depth += 1
        if self.nodes > MOST_VALUES or self.depth > DEEPEST:
            raise _too_large(self.peek_event().start_mark.line + 1, self.depth)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.add_implicit_resolver(_MERGE, re.compile("^<<$"), ["<"])


def _is_json(text: str) -> bool:
    try:
        return text.lstrip()[:1] in ("{", "[") and json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


def _is_not_zero(text: str) -> bool:
    """Whether a number that was read as 0 has digits other than 0."""
    return any(digit in "123456789" for digit in text.lower().partition("e")[0])


def _composed(text: str) -> tuple[_Loader, yaml.Node | None]:
    loader = None
    try:
        loader = _Loader(text)
        return loader, loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        # The mistake is where an unclosed value begins, not at the end of the text.
        opened = "end" in str(error.problem) and "stream" in str(error.problem)
        mark = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
        raise TextError(
            mark.line + 1 if mark else 0, f"is not valid YAML or JSON: {_advice(error)}"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise TextError(
            line, f"contains the control character U+{int(error.character):04X}: delete it"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise TextError(0, f"is not valid YAML or JSON: {str(error).splitlines()[0]}") from None


def _advice(error: yaml.MarkedYAMLError) -> str:
    for pattern, advice in _ADVICE:
        if match := re.search(pattern, f"{error.context} {error.problem}"):
            return match.expand(advice) if "\\1" in advice else advice
    return str(error.problem)


def _too_large(line: int, depth: int) -> TextError:
    if depth > DEEPEST:
        return TextError(
            line, f"is nested deeper than {DEEPEST} levels, or refers to itself: make it flatter"
        )
    return TextError(
        line, f"contains more than {MOST_VALUES:,} values, including repetitions by aliases: split the file"
    )


class _NodeReader:
    """Converts nodes to plain data, once per location."""

    def __init__(self, loader: _Loader, *, is_json: bool) -> None:
        self._loader, self._is_json = loader, is_json
        self._values = 0
        self.data = PlainData()

    def read(self, node: yaml.Node, location: Location) -> Any:
        self._values += 1
        self.data.marks.setdefault(location, _mark(node))
        if len(location) > DEEPEST or self._values > MOST_VALUES:
            raise _too_large(_mark(node)[0], len(location))
        if node.tag in (*_CORE_TAGS, _MERGE):
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*location, position)) for position, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, location)
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, location)
        return self._refuse(location, f"has the tag {node.tag}, which is not supported: remove the tag")

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(location, "has a key that is a list or a mapping: write the key as text")
                continue
            # Keys are always text: 50256, No and 1e3 are names like any other.
            key = self._text(key_node, location)
            inner = (*location, key)
            if inner in self.data.marks:
                self._refuse(inner, f"appears again in line {_mark(key_node)[0]}: keep one of them")
                continue
            self.data.marks[inner] = _mark(key_node)
            value = self.read(value_node, inner)
            if key_node.tag == _MERGE:
                merged = self._merged(value, inner)
            else:
                own[key] = value
        return {**merged, **own}

    def _merged(self, value: Any, location: Location) -> dict[str, Any]:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            self._refuse(location, "merges a value that is not a mapping: merge a mapping, or quote '<<'")
            return {}
        return {key: content for source in reversed(sources) for key, content in source.items()}

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        text = self._text(node, location)
        if self._is_json and node.style is None and text in ("NaN", "Infinity", "-Infinity"):
            return self._refuse(
                location, f"is {text}, which is not valid JSON: put it in quotes, or write null"
            )
        if node.tag in ("tag:yaml.org,2002:str", _MERGE):
            return text
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, KeyError, ValueError):
            kind = node.tag.rpartition(":")[2]
            return self._refuse(location, f"is not a valid {kind}: fix it, or put it in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            problem = "is infinite or not a number, which JSON cannot store: write a finite number, or null"
            return self._refuse(location, problem)
        if value == 0 and isinstance(value, float) and _is_not_zero(text):
            return self._refuse(location, "is too close to zero for a number: write 0, or put it in quotes")
        return value

    def _text(self, node: yaml.ScalarNode, location: Location) -> str:
        try:
            # JSON escapes characters such as emoji as surrogate pairs.
            return str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            half = ord(_HALF.findall(node.value)[0])
            self._refuse(
                location, f"contains half a surrogate pair, \\u{half:04x}: write the character itself"
            )
            return ""

    def _refuse(self, location: Location, problem: str) -> None:
        self.data.mistakes.append(Mistake(location, problem))


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1
