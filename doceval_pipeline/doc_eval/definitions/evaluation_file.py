"""Reads an evaluation file and finds its mistakes. Writes nothing, asks no database.

What only the database knows, such as names that are not defined, `apply` adds to the same list.
"""

import codecs
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from doceval_pipeline.doc_eval.definitions.error_messages import mistakes_of
from doceval_pipeline.doc_eval.definitions.schema import (
    CREDENTIAL,
    BatchDefinition,
    ChoiceDefinition,
    ConnectionDefinition,
    Definition,
    Evaluation,
    PromptDefinition,
    RecurringDefinition,
)
from doceval_pipeline.doc_eval.definitions.yaml_text import Location, Mark, Mistake, TextError, read_plain
from doceval_pipeline.errors import EvaluationFileError, PathError
from doceval_pipeline.names import normal, printable
from doceval_pipeline.paths import expanded, real_path
from doceval_pipeline.redaction import holds_key, without_keys
from doceval_pipeline.similar_paths import remedy_for_missing

WhyNot = Callable[[str], str | None]
LARGEST_FILE = 4 * 1024 * 1024
LONGEST_LINE = 1000
_NOT_A_FILE = "is not a regular file: save the evaluation as a file, because folders count from it"
_KINDS: dict[str, type[Definition]] = {
    "connections": ConnectionDefinition,
    "prompts": PromptDefinition,
    "batches": BatchDefinition,
    "recurring": RecurringDefinition,
}
# The kinds that choose folders, connections and prompts.
CHOICES = ("batches", "recurring")


@dataclass(frozen=True)
class Located:
    """An evaluation, the words that lead a person to any place in it, and its mistakes so far.

    With mistakes, `evaluation` has what could be read, for finding more of them: it must not be written.
    """

    evaluation: Evaluation
    where: Callable[[Location], str]
    mistakes: Sequence[Mistake] = ()
    marks: Mapping[Location, Mark] = field(default_factory=dict)

    def refuse(self, more: Iterable[Mistake] = ()) -> None:
        """Refuse the evaluation if there are mistakes, by place and each once.

        Raises
        ------
        EvaluationFileError
        """
        told: dict[object, tuple[Mark, str]] = {}
        for mistake in (*self.mistakes, *more):
            known = _known(mistake.location, self.marks)
            mark = self.marks.get(known, (0, 0))
            # A value that aliases repeat has one place in the file.
            place = (mark, mistake.location[len(known) :]) if self.marks else mistake.location
            line = _one_line(f"{self.where(mistake.location)}: {mistake.problem}")
            told.setdefault((place, mistake.problem), (mark, line))
        if told:
            raise EvaluationFileError([line for _, line in sorted(told.values(), key=lambda one: one[0])])


def load_evaluation_file(path: Path, why_not: WhyNot = lambda folder: None) -> Located:
    """Read and validate an evaluation file; relative folders count from the folder of the real file.

    Raises
    ------
    EvaluationFileError
        It cannot be read as YAML or JSON. All other mistakes are in the result.
    """
    try:
        plain = read_plain(_text(path))
    except TextError as error:
        place = f"{path}:{error.line}" if error.line else f"{path}"
        raise EvaluationFileError([_one_line(f"{place}: {error.problem}")]) from None
    if plain is None:
        raise EvaluationFileError([f"{path}: is empty: write connections, prompts and batches"])
    marks = plain.marks

    def where(location: Location) -> str:
        return f"{path}:{marks[_known(location, marks)][0]}: {key_path(location)}".removesuffix(": ")

    base = os.path.dirname(os.path.realpath(path))
    return locate(plain.content, base, where, why_not, plain.mistakes, marks)


def locate(
    content: Any,
    base: str | None,
    where: Callable[[Location], str],
    why_not: WhyNot = lambda folder: None,
    mistakes: Sequence[Mistake] = (),
    marks: Mapping[Location, Mark] | None = None,
) -> Located:
    """Validate plain data and resolve its folders.

    Parameters
    ----------
    content
        What a YAML file or a launchpad contains.
    base
        The folder that relative folders count from; None refuses them.
    where
        Words for a place in `content`.
    why_not
        Why an absolute folder cannot be one of documents; None where it can.
    mistakes, marks
        What was wrong with the text itself, and the line and column of each place.
    """
    evaluation, invalid = _validated(content)
    # A value that could not be read is not also of the wrong type.
    unread = {mistake.location for mistake in mistakes}
    unreadable = unread | {mistake.location for mistake in invalid}
    found = [
        *mistakes,
        *(mistake for mistake in invalid if mistake.location not in unread),
        *_repeated_names(content),
    ]
    resolved: dict[str, list[Definition]] = {kind: [] for kind in CHOICES}
    for kind in CHOICES:
        for number, choice in enumerate(getattr(evaluation, kind)):
            given = _items(content, kind)[number]
            folders, problems = _folders(given, (kind, number), base, why_not, unreadable)
            found += problems
            resolved[kind].append(choice.model_copy(update={"folders": folders}))
    return Located(evaluation.model_copy(update=resolved), where, found, marks or {})


def refuse_credentials(content: Any, where: Callable[[Location], str]) -> None:
    """Look for keys and passwords in plain data, before anybody keeps it; judge nothing else.

    Raises
    ------
    EvaluationFileError
        Each place that holds one, without repeating it.
    """
    try:
        Evaluation.model_validate(content)
    except ValidationError as error:
        found = [e for e in error.errors(include_input=False) if e["type"] == CREDENTIAL]
        Located(Evaluation(), where).refuse(mistakes_of(found))
    # Where something else was wrong first.
    if holds_key(str(content)):
        raise EvaluationFileError(["config: holds what looks like a key or a password: take it out"])


def key_path(location: Location) -> str:
    """Write a location as people write it, such as `batches[0].folders[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _one_line(text: str) -> str:
    """A line of bounded length; names and keys may contain line breaks."""
    shown = printable(without_keys(text))
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]}…"


def _known(location: Location, marks: Mapping[Location, Mark]) -> Location:
    """The innermost place around a location that the text has."""
    while location and location not in marks:
        location = location[:-1]
    return location


def _text(path: Path) -> str:
    content = _bytes(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        raise TextError(0, "is UTF-16 or UTF-32 text: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextError(line, "is not UTF-8 text: save the file as UTF-8") from None


def _bytes(path: Path) -> bytes:
    try:
        # A FIFO without a writer would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TextError(0, _NOT_A_FILE)
            content = file.read(LARGEST_FILE + 1)
    except IsADirectoryError:
        raise TextError(0, "is a folder: name the file in it") from None
    except OSError as error:
        raise TextError(0, _NOT_A_FILE if str(path) == "-" else _unreachable(path, error)) from None
    if len(content) > LARGEST_FILE:
        raise TextError(0, f"is larger than {LARGEST_FILE >> 20} MiB: name the evaluation file, or split it")
    return content


def _unreachable(path: str | Path, error: OSError) -> str:
    """Why a file or a folder cannot be opened, and what to do."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            return "is a link to something that does not exist: correct the link"
        return "does not exist: check the path"
    if error.errno == errno.ELOOP:
        return "is a loop of links: correct the links"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: give this user permission to read it and to enter the folders above it"
    return f"cannot be read ({error.strerror}): check the path"


def _validated(content: Any) -> tuple[Evaluation, list[Mistake]]:
    """The evaluation, or as much of it as helps to find more mistakes, and what is invalid."""
    try:
        return Evaluation.model_validate(content), []
    except ValidationError as error:
        readable: dict[str, Any] = {
            kind: [_readable(definition, item) for item in _items(content, kind)]
            for kind, definition in _KINDS.items()
        }
        return Evaluation.model_construct(**readable), mistakes_of(error.errors(include_input=False))


def _readable(definition: type[Definition], item: Any) -> Definition:
    """A definition; of an invalid one only the names that it has and uses."""
    try:
        return definition.model_validate(item)
    except ValidationError:
        given = item if isinstance(item, dict) else {}
        if issubclass(definition, ChoiceDefinition):
            # Without its name, it is not compared with the one that exists.
            used: dict[str, Any] = {kind: _texts(given.get(kind)) for kind in ("connections", "prompts")}
            return definition.model_construct(name="", folders=[], **used)
        named: dict[str, Any] = {"name": given.get("name")}
        return definition.model_construct(**named)


def _texts(value: Any) -> list[str | None]:
    """The texts of a list, each at its position."""
    items = value if isinstance(value, list) else []
    return [item if isinstance(item, str) else None for item in items]


def _items(content: Any, kind: str) -> list[Any]:
    items = content.get(kind) if isinstance(content, dict) else None
    return items if isinstance(items, list) else []


def _repeated_names(content: Any) -> Iterator[Mistake]:
    for kind in _KINDS:
        seen: set[str] = set()
        for number, item in enumerate(_items(content, kind)):
            name = item.get("name") if isinstance(item, dict) else None
            if isinstance(name, str) and name and normal(name) in seen:
                yield Mistake((kind, number, "name"), f"{normal(name)!r} is defined twice: keep one of them")
            elif isinstance(name, str):
                seen.add(normal(name))


def _folders(
    choice: Any, place: Location, base: str | None, why_not: WhyNot, unreadable: set[Location]
) -> tuple[list[str], list[Mistake]]:
    """The folders of a choice as they are stored, each by its one real path."""
    found: list[str] = []
    mistakes: list[Mistake] = []
    given = choice.get("folders") if isinstance(choice, dict) else None
    seen: dict[tuple[int, int], str] = {}
    for position, folder in enumerate(_texts(given)):
        location = (*place, "folders", position)
        if folder is None or location in unreadable:
            continue
        try:
            # Also of a folder that does not exist, so that a sealed batch is not said to change besides.
            found.append(_folder_path(folder, base))
            identity = _require_folder(folder, base, found[-1])
        except PathError as error:
            mistakes.append(Mistake(location, str(error)))
            continue
        if (problem := why_not(found[-1])) is not None:
            mistakes.append(Mistake(location, f"folder {folder!r} {problem}"))
        if identity in seen:
            same = "" if seen[identity] == folder else f", also as {seen[identity]!r}"
            mistakes.append(Mistake(location, f"folder {folder!r} is named twice{same}: name it once"))
        seen.setdefault(identity, folder)
    return found, mistakes


def _folder_path(folder: str, base: str | None) -> str:
    """The real path of a folder.

    Raises
    ------
    PathError
    """
    if base is None and not folder.startswith(("/", "~")):
        raise PathError(f"folder {folder!r} is relative: write its absolute path")
    path = str(real_path(folder, base or ""))
    try:
        path.encode()
    except UnicodeEncodeError:
        raise PathError(
            "the folder's path is not UTF-8: move the documents to a folder with a UTF-8 path"
        ) from None
    return path


def _require_folder(folder: str, base: str | None, path: str) -> tuple[int, int]:
    """Device and inode of a folder, which are the same for each of its names.

    Raises
    ------
    PathError
        It is not a folder that can be read.
    """
    looked_at = "" if path == folder else f" ({path})"
    try:
        # As it is written: the kernel does not go up from what does not exist, real_path does.
        found = os.stat(os.path.join(base or "", expanded(folder)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise PathError(
                f"folder {folder!r} does not exist{looked_at}: {remedy_for_missing(path)}"
            ) from None
        raise PathError(f"folder {folder!r}{looked_at} {_unreachable(path, error)}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise PathError(f"{folder!r} is not a folder: name the folder that holds the documents")
    if not os.access(path, os.R_OK | os.X_OK):
        raise PathError(f"folder {folder!r} cannot be read: give this user read and execute permission")
    return found.st_dev, found.st_ino
