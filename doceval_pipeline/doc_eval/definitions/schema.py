"""What people may ask for: connections, prompts, batches and what recurs, and what makes each of them valid.

The same classes stand behind an evaluation file and Dagster's launchpad. No file or database is
touched here; folders are checked in `evaluation_file`.
"""

import json
import re
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import pathspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from doceval_pipeline.names import LONGEST, normal, refusal
from doceval_pipeline.recurrence import problem_of_schedule, problem_of_timezone
from doceval_pipeline.redaction import holds_key

# Names of credentials in any place; only the letters of a name are compared, in lower case.
_SECRET_NAME = re.compile(
    r"apikey|accesskey|privatekey|clientsecret|passw|passphrase|^secrets?$|^authorization$|^bearer"
    r"|^(x?api|access|auth|bearer|refresh|session|id|hf|github|gitlab)?token$"
)
# And of what does so where a processor is told how to reach a model.
_SECRET_SETTING = re.compile(
    _SECRET_NAME.pattern + r"|secret|credential|authorization|bearer|signature|cookie|^(key|sig|auth|pwd)$"
    r"|(subscription|functions?|master|account|shared|storage|admin|service|project|auth)key$"
)
# Prefixes under which well-known services hand out keys, however short what is behind them.
_SECRET_VALUE = re.compile(r"^(sk-|xox[a-z]-|gh[a-z]_|glpat-|AIza|AKIA|eyJ[A-Za-z0-9_-]+\.|Bearer |Basic )")
_HEADER = re.compile(r"\s*([\w-]+)\s*[:=]\s*\S")
# Of intervals, in seconds.
LONGEST_DURATION = 7 * 86400
MOST_DOCUMENTS = 1_000_000_000
# Of a recurring evaluation: each batch has the date, and may have a time and a number, behind it.
LONGEST_RECURRING_NAME = LONGEST - 30
# The type of errors about credentials, which must be known from others: they must not even be kept.
CREDENTIAL = "credential"
_KEY_ADVICE = "keys are never stored: name the environment variable of the key in api_key_env"


def _name(value: str) -> str:
    name = normal(value)
    if problem := refusal(name):
        raise ValueError(problem)
    return name


def _storable(value: str) -> str:
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("holds a NUL or half a surrogate pair, which a database cannot store: take it out")
    return value


def _keyless(value: str) -> str:
    if holds_key(value):
        raise _credential("holds what looks like a key or a password")
    return value


def _visible(value: str) -> str:
    # A zero-width space is printed as nothing, too.
    if not any(char.isprintable() and not char.isspace() for char in value):
        raise ValueError("has nothing that is seen: write the question")
    return value


def _unique(values: list[str]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"names {repeated[0]!r} twice: name it once")
    return values


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
        _require_text_keys(value)
    except PydanticCustomError:
        raise
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must contain only what JSON can: no NaN, infinity or loops") from None
    _storable(encoded)
    # An escaped NUL, and not a backslash that is escaped before the letters u0000.
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", encoded):
        raise ValueError("holds a NUL, which a database cannot store: take it out")
    return value


def _require_text_keys(value: Any) -> None:
    # json turns True, None and numbers into text keys such as "true".
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise PydanticCustomError(
                "key_type", "must have text as keys, in quotes where they look otherwise"
            )
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        _require_text_keys(item)


def _patterns(values: list[str]) -> list[str]:
    for value in values:
        if problem := _problem_of_pattern(value):
            raise ValueError(f"{value!r} {problem}")
    return values


def _problem_of_pattern(value: str) -> str | None:
    """Why a text is not a valid pattern, or cannot match any file; None for a usable one."""
    if not value.strip() or value != value.strip():
        return "is empty, or has a space at its beginning or end: write the pattern alone, such as '*.pdf'"
    if value.startswith("#"):
        return "is a comment in .gitignore: write \\# for a name that begins with #"
    if "[:" in value:
        return "names a class of characters, which are not supported: write [a-z] or the like"
    try:
        with warnings.catch_warnings():
            # Of brackets in brackets, which mean themselves here.
            warnings.simplefilter("ignore", FutureWarning)
            pathspec.PathSpec.from_lines("gitignore", [value])
    except (ValueError, re.error):
        return (
            "is not a valid .gitignore pattern: correct it, such as '*.pdf'; brackets choose one of several "
            "characters, write \\[ for a bracket in a name"
        )
    return None


def _moment(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a time such as 2026-12-01T22:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("must say its time zone, such as 2026-12-01T22:00Z or 2026-12-01T23:00+01:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time in the years 1 to 9999 of UTC") from None


def _schedule(value: str) -> str:
    if problem := problem_of_schedule(value):
        raise ValueError(problem)
    return " ".join(value.split())


def _timezone(value: str) -> str:
    if problem := problem_of_timezone(value):
        raise ValueError(problem)
    return value


def _seconds(value: Any) -> Any:
    """Seconds of a text such as 90s, 5m, 2h or 1d."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    if match is None:
        raise ValueError("must be seconds without quotes, or a text such as 90s, 5m, 2h or 1d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _duration(value: int) -> int:
    if not 1 <= value <= LONGEST_DURATION:
        raise ValueError("must be between 1s and 7d")
    return value


Storable = Annotated[str, AfterValidator(_storable)]
Text = Annotated[Storable, AfterValidator(_keyless)]
PromptText = Annotated[Text, AfterValidator(_visible)]
Name = Annotated[Text, AfterValidator(_name)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(_unique)]
Folder = Annotated[Text, Field(min_length=1)]
Patterns = Annotated[list[Text], AfterValidator(_patterns)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Reuse = Literal["finished", "nothing"]
Schedule = Annotated[str, AfterValidator(_schedule)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
Duration = Annotated[int, BeforeValidator(_seconds), AfterValidator(_duration)]


class Definition(BaseModel):
    """Base: unknown keys are refused, and types are not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_clears(cls, given: Any) -> Any:
        """What is `null` and may be left out has its default, and counts as given."""
        if not isinstance(given, dict):
            return given
        optional = {name: field for name, field in cls.model_fields.items() if not field.is_required()}
        return {
            key: optional[key].get_default(call_default_factory=True)
            if value is None and key in optional
            else value
            for key, value in given.items()
        }


class Prices(Definition):
    """What a provider asks; for estimates only, and never part of a sealed configuration."""

    input_per_million: Price | None = Field(
        default=None, description="For a million tokens that are read; unknown if left out, and 0 is free."
    )
    output_per_million: Price | None = Field(
        default=None, description="For a million tokens that are written; unknown if left out."
    )
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = Field(
        default="USD", description="Three letters, as in ISO 4217."
    )


class NamedDefinition(Definition):
    """A definition that is known by its name."""

    name: Name

    @property
    def is_complete(self) -> bool:
        """Whether all that is required is given, which is not so where a mistake was found."""
        required = {key for key, field in type(self).model_fields.items() if field.is_required()}
        return bool(self.name) and required <= self.model_fields_set


class ConnectionDefinition(NamedDefinition):
    """How a processor reaches a model; never holds a key."""

    name: Name = Field(description="Unique name; an existing connection of this name is updated.")
    provider: Name = Field(description="Kind of provider, such as openai or ollama.")
    model: Name = Field(description="The model's name at the provider.")
    base_url: Storable | None = Field(default=None, description="http(s) URL, without credentials.")
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
        if value is None:
            return None
        if value.startswith("$"):
            raise PydanticCustomError(
                CREDENTIAL, "is the NAME of an environment variable: write it without the $"
            )
        # Only capitals, which a key pasted by mistake hardly ever is; the table has the same rule.
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and value.upper() != value and not _is_a_key(value):
            raise PydanticCustomError(
                CREDENTIAL,
                "must be in capitals, so that a pasted key is noticed: rename the environment variable, for "
                "example to OPENAI_API_KEY",
            )
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value) or _is_a_key(value):
            raise PydanticCustomError(
                CREDENTIAL,
                "must be the NAME of an environment variable, such as OPENAI_API_KEY (capitals, digits, _), "
                "never a key",
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _is_a_url_without_credentials(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            # The parser removes line breaks and tabs, which a client of HTTP may send.
            valid = value.isprintable() and " " not in value
            valid = valid and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("must be a URL such as https://api.example.com/v1")
        if parts.username is not None or parts.password is not None:
            raise _credential("holds a user name or password")
        for part in (parts.query, parts.fragment):
            _refuse_secrets(dict(parse_qsl(part, keep_blank_values=True)), _SECRET_SETTING)
        return _keyless(value)

    @field_validator("config")
    @classmethod
    def _holds_no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        _refuse_secrets(value, _SECRET_SETTING)
        return value


def problem_of_connection(connection: Mapping[str, Any]) -> str | None:
    """Why a connection could not be defined like this, a key in it above all; None where it could.

    No value is repeated, since it might be the key.
    """
    try:
        ConnectionDefinition.model_validate(connection)
    except ValidationError as error:
        found = error.errors(include_input=False)[0]
        return f"{found['loc'][0]} {found['msg'].removeprefix('Value error, ')}"
    return None


class PromptDefinition(NamedDefinition):
    """What a model is asked about each document."""

    name: Name = Field(description="Unique name; an existing prompt of this name is updated.")
    text: PromptText = Field(min_length=1, description="The prompt itself.")


class ChoiceDefinition(NamedDefinition):
    """What is evaluated by what: folders, connections and prompts."""

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
    priority: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Share of the processors' work relative to other batches, for rows queued from now on.",
    )

    @field_validator("metadata")
    @classmethod
    def _holds_no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        _refuse_secrets(value, _SECRET_NAME)
        return value

    @field_validator("name")
    @classmethod
    def _is_not_a_number(cls, value: str) -> str:
        if re.fullmatch(r"(batch-)?\d+", value):
            raise ValueError("must not look like a batch number: commands take a number or a name")
        return value


class BatchDefinition(ChoiceDefinition):
    """One choice of folders, connections and prompts."""

    stage_after: Moment | None = Field(
        default=None,
        description="A time with its zone, such as 2026-12-01T22:00Z; staging then begins by itself.",
    )
    reuse: Reuse = Field(
        default="nothing",
        description="finished: take results that earlier batches have for the same question and document.",
    )


class RecurringDefinition(ChoiceDefinition):
    """A batch for each time of a schedule, or for what arrives in folders."""

    name: Name = Field(description="Unique name; batches are named after it and the date.")
    schedule: Schedule | None = Field(
        default=None, description="When a batch is made, as five fields of cron such as '0 2 * * 1-5'."
    )
    timezone: TimeZone = Field(default="UTC", description="Time zone of the schedule, such as Europe/Berlin.")
    on_arrival: bool = Field(
        default=False, description="Make a batch of what arrives, instead of by a schedule."
    )
    interval: Duration = Field(
        default=60,
        description="How often the folders are looked at; seconds, or a text such as 5m.",
    )
    quiet_for: Duration = Field(
        default=60,
        description="Seconds without new arrivals before a batch is made; or a text such as 5m.",
    )
    scope: Literal["changed", "all"] = Field(
        default="changed", description="changed: new and changed documents since the last occurrence; or all."
    )
    skip_if_nothing_new: bool = Field(
        default=True, description="Make no batch where nothing is new or changed."
    )
    reuse: Reuse = Field(
        default="finished",
        description="finished: take results that earlier batches have for the same question and document.",
    )
    max_documents: int | None = Field(
        default=None,
        ge=1,
        le=MOST_DOCUMENTS,
        description="A batch of more documents is paused until somebody resumes it.",
    )
    max_cost: Price | None = Field(
        default=None, description="A batch that is expected to cost more is paused until somebody resumes it."
    )

    @field_validator("name")
    @classmethod
    def _leaves_room_for_a_date(cls, value: str) -> str:
        if len(value) > LONGEST_RECURRING_NAME:
            raise ValueError(
                f"has {len(value)} characters: use at most {LONGEST_RECURRING_NAME}, because "
                "batches are named after it and the date"
            )
        return value

    @field_validator("interval", "quiet_for")
    @classmethod
    def _is_of_arrivals(cls, value: int, info: ValidationInfo) -> int:
        # The default may be what null stands for.
        if info.data.get("schedule") is not None and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError(
                "applies only with on_arrival: leave it out, or write on_arrival instead of schedule"
            )
        return value

    @model_validator(mode="after")
    def _recurs_in_one_way(self) -> Self:
        if self.on_arrival and self.schedule is not None:
            raise ValueError("has a schedule and on_arrival: keep one of them")
        if not self.on_arrival and self.schedule is None:
            raise ValueError(
                'has neither schedule nor on_arrival: add schedule: "0 2 * * *" or on_arrival: true'
            )
        return self


class Evaluation(Definition):
    """Everything one evaluation file, or one launchpad, asks for."""

    connections: list[ConnectionDefinition] = Field(default_factory=list)
    prompts: list[PromptDefinition] = Field(default_factory=list)
    batches: list[BatchDefinition] = Field(default_factory=list)
    recurring: list[RecurringDefinition] = Field(default_factory=list)


def _is_a_key(name: str) -> bool:
    """Whether the name of a variable is rather a key in capitals: long, of one word, with many digits."""
    digits = sum(char.isdigit() for char in name)
    return holds_key(name) or ("_" not in name and len(name) >= 16 and digits >= 3)


def _refuse_secrets(value: Any, names: re.Pattern[str]) -> None:
    """Refuse a credential anywhere in data as of JSON; no value is repeated.

    What is refused is told in terminals and event logs.
    """
    if isinstance(value, dict):
        for key, content in value.items():
            _refuse_secret(str(key), content, names)
            _refuse_secrets(str(key), names)
            _refuse_secrets(content, names)
        # Headers as lists of such objects.
        _refuse_secret(str(value.get("name") or value.get("key")), value.get("value"), names)
    elif isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str):
            _refuse_secret(value[0], value[1], names)
        for item in value:
            _refuse_secrets(item, names)
    elif isinstance(value, str):
        if _SECRET_VALUE.search(value) or holds_key(value):
            raise _credential("holds a value that looks like a key")
        if header := _HEADER.match(value):
            _refuse_secret(header[1], value, names)


def _refuse_secret(name: str, value: Any, names: re.Pattern[str]) -> None:
    # A number may be a password; what is switched on or off, or empty, is none.
    holds_something = value not in (None, "", [], {}) and not isinstance(value, bool)
    if holds_something and names.search(re.sub(r"[^a-z]", "", name.lower())):
        raise _credential(f"{name!r} looks like a credential")


def _credential(problem: str) -> PydanticCustomError:
    return PydanticCustomError(CREDENTIAL, "{problem}", {"problem": f"{problem}; {_KEY_ADVICE}"})
