"""Reads an evaluation file and says where each mistake stands. Writes nothing, asks no database."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from doceval_pipeline.credentials import holds_key
from doceval_pipeline.doc_eval.definitions import CREDENTIAL, Definition, Evaluation
from doceval_pipeline.errors import EvaluationFileError
from doceval_pipeline.unicode_names import remedy_for_missing

Location = tuple[str | int, ...]
# Aliases of aliases grow without bound.
MOST_PLACES = 200_000


@dataclass(frozen=True)
class Located:
    """An evaluation, and for any place in it the words that lead a person there."""

    evaluation: Evaluation
    where: Callable[[Location], str]


def load_evaluation_file(path: Path) -> Located:
    """Read, validate and resolve an evaluation file; relative folders count from the file.

    Raises
    ------
    EvaluationFileError
        Every mistake in it, each with file, line and key.
    """
    node = _compose(path)
    if node is None:
        raise EvaluationFileError([f"{path}: is empty: write connections, prompts and batches"])
    lines: dict[Location, int] = {}
    problems = [f"{path}:{line}: {message}" for line, message in _walk(node, (), lines)]
    if problems:
        raise EvaluationFileError(problems)

    def where(location: Location) -> str:
        known = location
        while known not in lines:
            known = known[:-1]
        return f"{path}:{lines[known]}: {key_path(location)}".removesuffix(": ")

    return Located(resolve(_construct(path, node), path.absolute().parent, where), where)


def resolve(content: Any, base: Path | None, where: Callable[[Location], str]) -> Evaluation:
    """Validate plain data and make its folders absolute.

    Parameters
    ----------
    content
        What a YAML file or a launchpad holds.
    base
        The folder that relative folders count from; None refuses them.
    where
        Words for a place in `content`.

    Raises
    ------
    EvaluationFileError
        Every mistake; no value is repeated that might be a key.
    """
    try:
        evaluation = Evaluation.model_validate(content)
    except ValidationError as error:
        raise EvaluationFileError(_told(error.errors(include_input=False), where)) from None
    problems = list(_repeated_names(evaluation, where))
    batches = []
    for number, batch in enumerate(evaluation.batches):
        folders: list[str] = []
        for position, folder in enumerate(batch.folders):
            resolved, problem = _resolve_folder(folder, base)
            if problem is None and resolved in folders:
                problem = f"folder {folder!r} is named twice: name it once"
            if problem is not None:
                problems.append(f"{where(('batches', number, 'folders', position))}: {problem}")
            folders.append(resolved)
        batches.append(batch.model_copy(update={"folders": folders}))
    if problems:
        raise EvaluationFileError(problems)
    return evaluation.model_copy(update={"batches": batches})


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
        if found:
            raise EvaluationFileError(_told(found, where)) from None
    # Where something else was wrong first.
    if holds_key(str(content)):
        raise EvaluationFileError(["config: holds what looks like a key or a password: take it out"])


def key_path(location: Location) -> str:
    """Write a location as people write it, such as `batches[0].folders[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


class _Loader(yaml.SafeLoader):
    """YAML without dates: a date in metadata stays the text that was written."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML declares it as an instance-less dict too
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _compose(path: Path) -> yaml.Node | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise EvaluationFileError([f"{path}: does not exist: check the path"]) from None
    except IsADirectoryError:
        raise EvaluationFileError([f"{path}: is a folder: name the file in it"]) from None
    except UnicodeDecodeError:
        raise EvaluationFileError([f"{path}: is not UTF-8 text: save it as UTF-8"]) from None
    except OSError as error:
        raise EvaluationFileError([f"{path}: cannot be read ({error.strerror})"]) from None
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise EvaluationFileError([f"{path}:{line}: is not valid YAML: {error.problem}"]) from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationFileError([f"{path}: is not valid YAML: {reason}"]) from None


def _construct(path: Path, node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    except (yaml.MarkedYAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "a value cannot be read"
        raise EvaluationFileError([f"{path}:{mark.line + 1 if mark else 1}: {problem}"]) from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, location: Location, lines: dict[Location, int]) -> Iterator[tuple[int, str]]:
    """Note the line of every place below `node`; yield keys that stand twice and nodes in loops."""
    lines[location] = node.start_mark.line + 1
    if len(location) > 50 or len(lines) > MOST_PLACES:
        yield lines[location], "is too large, nested too deeply, or refers to itself"
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from _walk(item, (*location, position), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*location, str(key.value))
            if inner in lines:
                yield key.start_mark.line + 1, f"{key_path(inner)}: stands twice: keep one of them"
            yield from _walk(value, inner, lines)
            lines[inner] = key.start_mark.line + 1


def _told(errors: Sequence[ErrorDetails], where: Callable[[Location], str]) -> list[str]:
    return [f"{where(error['loc'])}: {_reworded(error['msg'], error['loc'])}" for error in errors]


def _reworded(message: str, location: Location) -> str:
    message = message.removeprefix("Value error, ")
    if message == "Extra inputs are not permitted":
        return f"is not a known key, those are {', '.join(_keys_at(location[:-1]))}: check its spelling"
    if message == "Field required":
        return "is missing"
    return message[0].lower() + message[1:]


def _keys_at(location: Location) -> Iterable[str]:
    """The keys that a definition at this place may have."""
    definition: type[Definition] = Evaluation
    for key in location:
        if isinstance(key, str):
            said = definition.model_fields[key].annotation
            definition = next(kind for kind in (said, *get_args(said)) if _is_definition(kind))
    return definition.model_fields


def _is_definition(kind: Any) -> TypeGuard[type[Definition]]:
    return isinstance(kind, type) and issubclass(kind, Definition)


def _repeated_names(evaluation: Evaluation, where: Callable[[Location], str]) -> Iterator[str]:
    for kind in ("connections", "prompts", "batches"):
        seen: set[str] = set()
        for number, item in enumerate(getattr(evaluation, kind)):
            if item.name in seen:
                yield f"{where((kind, number, 'name'))}: {item.name!r} is defined twice: keep one of them"
            seen.add(item.name)


def _resolve_folder(folder: str, base: Path | None) -> tuple[str, str | None]:
    """Give the absolute path of a folder, and what is wrong with it."""
    path = Path(folder).expanduser()
    if not path.is_absolute():
        if base is None:
            return folder, f"folder {folder!r} is relative: write its absolute path"
        path = base / path
    resolved = os.path.normpath(path)
    try:
        resolved.encode()
    except UnicodeEncodeError:
        return "", "the folder's path is not UTF-8: move the documents to a folder with a UTF-8 path"
    if not os.path.exists(resolved):
        return resolved, f"folder {folder!r} does not exist: {remedy_for_missing(resolved)}"
    if not os.path.isdir(resolved):
        return resolved, f"{folder!r} is not a folder: name the folder that holds the documents"
    if not os.access(resolved, os.R_OK | os.X_OK):
        return resolved, f"folder {folder!r} cannot be read: give this user read and execute permission"
    return resolved, None
