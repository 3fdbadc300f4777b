"""Reads an evaluation file and finds its mistakes, without a database. Writes nothing.

`apply` adds the mistakes that only the database reveals, such as undefined names, to the same list.
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

from doceval_pipeline.doc_eval.definitions.pydantic_messages import mistakes_of
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
from doceval_pipeline.object_urls import looks_like_url, parse_object_url
from doceval_pipeline.paths import expanded, real_path
from doceval_pipeline.redaction import holds_key, without_keys
from doceval_pipeline.similar_paths import remedy_for_missing

# Why an absolute folder cannot be a folder of documents; None if it can.
ProblemOfFolder = Callable[[str], str | None]
LARGEST_FILE = 4 * 1024 * 1024
LONGEST_LINE = 1000
_NOT_A_FILE = "is not a regular file: save the evaluation as a file, because relative folders start from it"
_KINDS: dict[str, type[Definition]] = {
    "connections": ConnectionDefinition,
    "prompts": PromptDefinition,
    "batches": BatchDefinition,
    "recurring": RecurringDefinition,
}
# The keys of definitions that choose folders, connections and prompts.
CHOICES = ("batches", "recurring")


@dataclass(frozen=True)
class Located:
    """An evaluation with the locations of its parts and its mistakes so far.

    `where` describes a location for people. If there are mistakes, `evaluation` has only the readable parts,
    to find further mistakes: it must not be written.
    """

    evaluation: Evaluation
    where: Callable[[Location], str]
    mistakes: Sequence[Mistake] = ()
    marks: Mapping[Location, Mark] = field(default_factory=dict)

    def refuse(self, more: Iterable[Mistake] = ()) -> None:
        """Raise an error with all mistakes, each once, in the order of their lines; does nothing if none.

        Raises
        ------
        EvaluationFileError
        """
        lines: dict[object, tuple[Mark, str]] = {}
        for mistake in (*self.mistakes, *more):
            known = _known(mistake.location, self.marks)
            mark = self.marks.get(known, (0, 0))
            # A value that aliases repeat has one location in the file.
            place = (mark, mistake.location[len(known) :]) if self.marks else mistake.location
            line = _one_line(f"{self.where(mistake.location)}: {mistake.problem}")
            lines.setdefault((place, mistake.problem), (mark, line))
        if lines:
            raise EvaluationFileError([line for _, line in sorted(lines.values(), key=lambda one: one[0])])


def load_evaluation_file(path: Path, problem_of_folder: ProblemOfFolder = lambda folder: None) -> Located:
    """Read and validate an evaluation file; relative folders start from the real folder of the file.

    Raises
    ------
    EvaluationFileError
        It is not readable as YAML or JSON. All other mistakes are in the result.
    """
    try:
        plain = read_plain(_text(path))
    except TextError as error:
        place = f"{path}:{error.line}" if error.line else f"{path}"
        raise EvaluationFileError([_one_line(f"{place}: {error.problem}")]) from None
    if plain is None:
        raise EvaluationFileError([f"{path}: is empty: add connections, prompts and batches"])
    marks = plain.marks

    def where(location: Location) -> str:
        return f"{path}:{marks[_known(location, marks)][0]}: {key_path(location)}".removesuffix(": ")

    base = os.path.dirname(os.path.realpath(path))
    return locate(plain.content, base, where, problem_of_folder, plain.mistakes, marks)


def locate(
    content: Any,
    base: str | None,
    where: Callable[[Location], str],
    problem_of_folder: ProblemOfFolder = lambda folder: None,
    mistakes: Sequence[Mistake] = (),
    marks: Mapping[Location, Mark] | None = None,
) -> Located:
    """Validate plain data and resolve its folders.

    Parameters
    ----------
    content
        The content of a YAML file or a launchpad.
    base
        The folder that relative folders start from; None rejects relative folders.
    where
        Describes a location in `content` for people.
    problem_of_folder
        Why an absolute folder cannot be a folder of documents; None if it can.
    mistakes, marks
        The mistakes of the text itself, and the line and column of each location.
    """
    evaluation, invalid = _validated(content)
    # A value that could not be read is not reported as being of the wrong type too.
    unread = {mistake.location for mistake in mistakes}
    unreadable = unread | {mistake.location for mistake in invalid}
    all_mistakes = [
        *mistakes,
        *(mistake for mistake in invalid if mistake.location not in unread),
        *_repeated_names(content),
    ]
    resolved: dict[str, list[Definition]] = {kind: [] for kind in CHOICES}
    for kind in CHOICES:
        for number, choice in enumerate(getattr(evaluation, kind)):
            given = _items(content, kind)[number]
            folders, problems = _folders(given, (kind, number), base, problem_of_folder, unreadable)
            all_mistakes += problems
            resolved[kind].append(choice.model_copy(update={"folders": folders}))
    return Located(evaluation.model_copy(update=resolved), where, all_mistakes, marks or {})


def refuse_credentials(content: Any, where: Callable[[Location], str]) -> None:
    """Reject keys and passwords in plain data before it is stored; ignores all other mistakes.

    Raises
    ------
    EvaluationFileError
        Each location that contains one, without repeating it.
    """
    try:
        Evaluation.model_validate(content)
    except ValidationError as error:
        errors = [e for e in error.errors(include_input=False) if e["type"] == CREDENTIAL]
        Located(Evaluation(), where).refuse(mistakes_of(errors))
    # pydantic does not check a value after another mistake in it.
    if holds_key(str(content)):
        raise EvaluationFileError(["config: contains what looks like a key or a password: remove it"])


def key_path(location: Location) -> str:
    """A location as text, such as `batches[0].folders[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _one_line(text: str) -> str:
    """The text as one line of bounded length; names and keys may contain line breaks."""
    shown = printable(without_keys(text))
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]}…"


def _known(location: Location, marks: Mapping[Location, Mark]) -> Location:
    """The innermost location around the given one that has a mark."""
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
        raise TextError(0, "is a folder: give the path of a file") from None
    except OSError as error:
        raise TextError(0, _NOT_A_FILE if str(path) == "-" else _unreachable(path, error)) from None
    if len(content) > LARGEST_FILE:
        raise TextError(0, f"is larger than {LARGEST_FILE >> 20} MiB: check the path, or split the file")
    return content


def _unreachable(path: str | Path, error: OSError) -> str:
    """Why a file or folder cannot be opened, and what to do."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            return "is a broken link: fix the link"
        return "does not exist: check the path"
    if error.errno == errno.ELOOP:
        return "is a loop of links: fix the links"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: give this user permission to read it and to enter the folders above it"
    return f"cannot be read ({error.strerror}): check the path"


def _validated(content: Any) -> tuple[Evaluation, list[Mistake]]:
    """The evaluation, or its readable parts, and its mistakes."""
    try:
        return Evaluation.model_validate(content), []
    except ValidationError as error:
        readable: dict[str, Any] = {
            kind: [_readable(definition, item) for item in _items(content, kind)]
            for kind, definition in _KINDS.items()
        }
        return Evaluation.model_construct(**readable), mistakes_of(error.errors(include_input=False))


def _readable(definition: type[Definition], item: Any) -> Definition:
    """A definition; if it is invalid, only its name and the names it refers to."""
    try:
        return definition.model_validate(item)
    except ValidationError:
        given = item if isinstance(item, dict) else {}
        if issubclass(definition, ChoiceDefinition):
            # Without a name it is not compared with the existing definition.
            used: dict[str, Any] = {kind: _texts(given.get(kind)) for kind in ("connections", "prompts")}
            return definition.model_construct(name="", folders=[], **used)
        named: dict[str, Any] = {"name": given.get("name")}
        return definition.model_construct(**named)


def _texts(value: Any) -> list[str | None]:
    """The texts of a list; None for items that are not text."""
    items = value if isinstance(value, list) else []
    return [item if isinstance(item, str) else None for item in items]


def _items(content: Any, kind: str) -> list[Any]:
    items = content.get(kind) if isinstance(content, dict) else None
    return items if isinstance(items, list) else []


def _repeated_names(content: Any) -> Iterator[Mistake]:
    for kind in _KINDS:
        names: set[str] = set()
        for number, item in enumerate(_items(content, kind)):
            name = item.get("name") if isinstance(item, dict) else None
            if isinstance(name, str) and name and normal(name) in names:
                yield Mistake((kind, number, "name"), f"{normal(name)!r} is defined twice: keep one of them")
            elif isinstance(name, str):
                names.add(normal(name))


def _folders(
    choice: Any,
    place: Location,
    base: str | None,
    problem_of_folder: ProblemOfFolder,
    unreadable: set[Location],
) -> tuple[list[str], list[Mistake]]:
    """The folders of a definition as they are stored, by real paths or URLs, and the mistakes in them."""
    paths: list[str] = []
    mistakes: list[Mistake] = []
    given = choice.get("folders") if isinstance(choice, dict) else None
    seen: dict[tuple[int, int] | str, str] = {}
    for position, folder in enumerate(_texts(given)):
        location = (*place, "folders", position)
        if folder is None or location in unreadable:
            continue
        try:
            # Added even if the folder does not exist, so that a sealed batch does not seem to change as well.
            identity: tuple[int, int] | str
            if looks_like_url(folder):
                paths.append(identity := str(parse_object_url(folder)))
            else:
                paths.append(_folder_path(folder, base))
                identity = _require_folder(folder, base, paths[-1])
        except PathError as error:
            mistakes.append(Mistake(location, str(error)))
            continue
        if (problem := problem_of_folder(paths[-1])) is not None:
            mistakes.append(Mistake(location, f"folder {folder!r} {problem}"))
        if identity in seen:
            same = "" if seen[identity] == folder else f", also as {seen[identity]!r}"
            mistakes.append(Mistake(location, f"folder {folder!r} is listed twice{same}: remove one"))
        seen.setdefault(identity, folder)
    return paths, mistakes


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
    """Device and inode of a folder, which do not depend on the path.

    Raises
    ------
    PathError
        It is not a readable folder.
    """
    shown_path = "" if path == folder else f" ({path})"
    try:
        # The path as written: with `..` after a missing folder the kernel fails, and real_path does not.
        status = os.stat(os.path.join(base or "", expanded(folder)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise PathError(
                f"folder {folder!r} does not exist{shown_path}: {remedy_for_missing(path)}"
            ) from None
        raise PathError(f"folder {folder!r}{shown_path} {_unreachable(path, error)}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise PathError(f"{folder!r} is not a folder: name the folder that holds the documents")
    if not os.access(path, os.R_OK | os.X_OK):
        raise PathError(f"folder {folder!r} cannot be read: give this user read and execute permission")
    return status.st_dev, status.st_ino
