"""Messages for pydantic's errors about definitions: what is wrong, and what to do.

No message repeats a value, because it might be a key.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeGuard, get_args

from pydantic_core import ErrorDetails

from doceval_pipeline.doc_eval.definitions.schema import (
    BatchDefinition,
    ConnectionDefinition,
    Definition,
    Evaluation,
    Prices,
    PromptDefinition,
    RecurringDefinition,
)
from doceval_pipeline.doc_eval.definitions.yaml_text import Location, Mistake

_NOUNS: dict[type[Definition], str] = {
    Evaluation: "an evaluation file",
    ConnectionDefinition: "a connection",
    PromptDefinition: "a prompt",
    BatchDefinition: "a batch",
    RecurringDefinition: "a recurring evaluation",
    Prices: "prices",
}
_MESSAGES = {
    "missing": "is missing: add it",
    "string_type": "must be text: put it in quotes",
    "list_type": "must be a list, such as [first, second]",
    "dict_type": "must be a mapping, such as {{key: value}}",
    "model_type": "must be a mapping, such as {{key: value}}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:,.10g}",
    "greater_than_equal": "must be {ge:,.10g} or more",
    "less_than_equal": "must be {le:,.10g} or less",
    "string_too_short": "is empty: enter text",
    "datetime_type": "must be a time such as 2026-12-01T22:00Z",
    "too_short": "is empty: add at least one item",
    "bool_type": "must be true or false, without quotes",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be three capital letters, such as USD",
}
# How similar a key must be to a known one to count as a misspelling of it (difflib's ratio, 0 to 1).
_SIMILARITY = 0.7


def mistakes_of(errors: Sequence[ErrorDetails]) -> list[Mistake]:
    """One mistake per error; a misspelled key is not reported as missing too."""
    meant = {
        (*error["loc"][:-1], near)
        for error in errors
        if error["type"] == "extra_forbidden" and (near := _nearest(error["loc"]))
    }
    return [
        # pydantic ends the location of an invalid key with "[key]".
        Mistake(tuple(part for part in error["loc"] if part != "[key]"), _reworded(error))
        for error in errors
        if error["type"] != "missing" or error["loc"] not in meant
    ]


def _reworded(error: ErrorDetails) -> str:
    location = error["loc"]
    if location[-1:] == ("[key]",) or error["type"] == "invalid_key":
        return "the key must be text: put the key in quotes"
    if error["type"] == "extra_forbidden":
        return _unknown_key(location)
    if not location:
        return "must be a mapping with the keys connections, prompts, batches and recurring"
    if message := _MESSAGES.get(error["type"]):
        return message.format(**error.get("ctx", {}))
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _unknown_key(location: Location) -> str:
    definition = _definition_at(location[:-1])
    if near := _nearest(location):
        return f"is not a known key: did you mean {near}?"
    homes = [noun for other, noun in _NOUNS.items() if location[-1] in other.model_fields]
    if homes:
        return f"is not a key of {_NOUNS[definition]}: move it to {' or '.join(homes)}"
    known = ", ".join(definition.model_fields)
    if definition is ConnectionDefinition:
        return (
            f"is not a known key: put the model's settings under config (config: {{{location[-1]}: …}}); "
            f"the keys of a connection are {known}"
        )
    return f"is not a known key: the keys of {_NOUNS[definition]} are {known}"


def _nearest(location: Location) -> str | None:
    return _meant(_definition_at(location[:-1]), str(location[-1])[:40])


@lru_cache(maxsize=1000)
def _meant(definition: type[Definition], given: str) -> str | None:
    """The known key that is probably meant: similar spelling, or one of its words, as url in base_url."""
    known = definition.model_fields
    part = next((key for key in known if given in key.split("_")), None)
    letters = {_letters(key): key for key in known}
    near = difflib.get_close_matches(_letters(given), letters, 1, _SIMILARITY)
    return letters[near[0]] if near else part


def _letters(key: str) -> str:
    return "".join(char for char in key.lower() if char.isalnum())


def _definition_at(location: Location) -> type[Definition]:
    """The definition that a location points into."""
    definition: type[Definition] = Evaluation
    for key in location:
        if isinstance(key, str):
            definition = next(_definitions(definition.model_fields[key].annotation))
    return definition


def _definitions(annotation: Any) -> Iterator[type[Definition]]:
    kinds: Iterable[Any] = (annotation, *get_args(annotation))
    return (kind for kind in kinds if _is_definition(kind))


def _is_definition(kind: Any) -> TypeGuard[type[Definition]]:
    return isinstance(kind, type) and issubclass(kind, Definition)
