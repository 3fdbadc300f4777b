"""What people may ask for: connections, prompts and batches, and what makes a definition valid.

The same classes stand behind an evaluation file and Dagster's launchpad. No file or database is
touched here; folders are checked in `evaluation_file`.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import pathspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

_SECRET_KEY = re.compile(
    r"apikey|accesskey|privatekey|secret|passw|credential|authorization|bearer|signature"
    r"|^(x?api|access|auth|refresh|session|id)?token$|^(key|sig)$"
)
# Prefixes under which well-known services hand out keys, and JSON Web Tokens.
_SECRET_VALUE = re.compile(r"^(sk-|xox[a-z]-|gh[a-z]_|glpat-|AIza|AKIA|eyJ[A-Za-z0-9_-]+\.|Bearer |Basic )")
_KEY_ADVICE = "keys are never stored: name the environment variable of the key in api_key_env"


def _name(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise ValueError("must not begin or end with a space or hold control characters")
    return value


def _storable(value: str) -> str:
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("holds a NUL or half a surrogate pair, which a database cannot store")
    return value


def _unique(values: list[str]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"names {repeated[0]!r} twice")
    return values


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must hold only what JSON can: no NaN, infinity, dates or loops") from None
    _storable(encoded)
    if "\\u0000" in encoded:
        raise ValueError("holds a NUL, which a database cannot store")
    return value


def _patterns(values: list[str]) -> list[str]:
    for value in values:
        try:
            pathspec.PathSpec.from_lines("gitignore", [value])
        except ValueError:
            raise ValueError(f"{value!r} is no pattern as in .gitignore") from None
    return values


def _moment(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a time such as 2026-12-01T22:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("must say its time zone, such as 2026-12-01T22:00Z or 2026-12-01T23:00+01:00")
    return moment


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_name), AfterValidator(_storable)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(_unique)]
Text = Annotated[str, AfterValidator(_storable)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(_storable)]
Patterns = Annotated[list[Text], AfterValidator(_patterns)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Definition(BaseModel):
    """Base: unknown keys are refused, and types are not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Prices(Definition):
    """What a provider asks; for estimates only, and never part of a sealed configuration."""

    input_per_million: Price = Field(default=0.0, description="For a million tokens that are read.")
    output_per_million: Price = Field(default=0.0, description="For a million tokens that are written.")
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = Field(
        default="USD", description="Three letters, as in ISO 4217."
    )


class Connection(Definition):
    """How a processor reaches a model; never holds a key."""

    name: Name = Field(description="Unique name; an existing connection of this name is updated.")
    provider: Name = Field(description="Kind of provider, such as openai or ollama.")
    model: Name = Field(description="The model's name at the provider.")
    base_url: Text | None = Field(default=None, description="http(s) URL, without credentials.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Port, where the URL has none.")
    api_key_env: str | None = Field(
        default=None,
        max_length=64,
        description="NAME of the environment variable from which the processor reads its key.",
    )
    config: JsonObject = Field(default_factory=dict, description="Settings such as temperature.")
    prices: Prices | None = Field(
        default=None,
        description="For estimates of cost: input_per_million, output_per_million (tokens), currency.",
    )

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable_name(cls, value: str | None) -> str | None:
        # Upper case only, which a key pasted by mistake hardly ever is.
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError("must be the NAME of an environment variable in capitals, not a key")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_a_url_without_credentials(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("must be a URL such as https://api.example.com/v1")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"holds a user name or password; {_KEY_ADVICE}")
        for key, content in parse_qsl(parts.query, keep_blank_values=True):
            _refuse_secret(key, content)
        return value

    @field_validator("config")
    @classmethod
    def _holds_no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        _refuse_secrets(value)
        return value


def objection(connection: Mapping[str, Any]) -> str | None:
    """Why a connection could not be defined like this, a key in it above all; None where it could.

    No value is repeated, since it might be the key.
    """
    try:
        Connection.model_validate(connection)
    except ValidationError as error:
        found = error.errors(include_input=False)[0]
        return f"{found['loc'][0]} {found['msg'].removeprefix('Value error, ')}"
    return None


class Prompt(Definition):
    """What a model is asked about each document."""

    name: Name = Field(description="Unique name; an existing prompt of this name is updated.")
    text: Text = Field(min_length=1, description="The prompt itself.")


class Batch(Definition):
    """One choice of folders, connections and prompts."""

    name: Name = Field(description="Unique name of the batch.")
    description: Text = Field(default="", description="For people.")
    folders: list[Folder] = Field(min_length=1, description="Folders of documents.")
    connections: Names = Field(description="Names of the connections to evaluate with.")
    prompts: Names = Field(description="Names of the prompts to ask.")
    metadata: JsonObject = Field(default_factory=dict, description="Anything worth keeping with it.")
    include: Patterns = Field(
        default_factory=list, description="Patterns as in .gitignore; only files that match are taken."
    )
    exclude: Patterns = Field(
        default_factory=list, description="Patterns as in .gitignore; files that match are left out."
    )
    stage_after: Moment | None = Field(
        default=None,
        description="A time with its zone, such as 2026-12-01T22:00Z; staging then begins by itself.",
    )

    priority: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Share of the processors' work relative to other batches, for rows queued from now on.",
    )

    @field_validator("name")
    @classmethod
    def _is_not_a_number(cls, value: str) -> str:
        if re.fullmatch(r"(batch-)?\d+", value):
            raise ValueError("must not look like a batch number: commands take a number or a name")
        return value


class Evaluation(Definition):
    """Everything one evaluation file, or one launchpad, asks for."""

    connections: list[Connection] = Field(default_factory=list)
    prompts: list[Prompt] = Field(default_factory=list)
    batches: list[Batch] = Field(default_factory=list)


def _refuse_secrets(value: Any) -> None:
    if isinstance(value, dict):
        for key, content in value.items():
            _refuse_secret(str(key), content)
            _refuse_secrets(content)
    elif isinstance(value, list):
        for item in value:
            _refuse_secret("", item)
            _refuse_secrets(item)


def _refuse_secret(key: str, value: Any) -> None:
    # The value is not repeated: this text ends up in terminals and event logs.
    if _SECRET_KEY.search(re.sub(r"[^a-z]", "", key.lower())) and isinstance(value, str):
        raise ValueError(f"{key!r} looks like a credential; {_KEY_ADVICE}")
    if isinstance(value, str) and _SECRET_VALUE.search(value):
        raise ValueError(f"holds a value that looks like a key; {_KEY_ADVICE}")
