"""The schema of an evaluation file: connections, prompts, batches and recurring evaluations.

Evaluation files and Dagster's launchpad use the same classes. This module opens no file and no database;
folders are checked in `evaluation_file`.
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
from doceval_pipeline.object_urls import holds_more_than_a_place
from doceval_pipeline.recurrence import problem_of_schedule, problem_of_timezone
from doceval_pipeline.redaction import holds_key

# Names that mean a credential anywhere. Only the letters of a name are compared, in lower case.
_SECRET_NAME = re.compile(
    r"apikey|accesskey|privatekey|clientsecret|passw|passphrase|^secrets?$|^authorization$|^bearer"
    r"|^(x?api|access|auth|bearer|refresh|session|id|hf|github|gitlab)?token$"
)
# Names that mean a credential in the settings of a connection.
_SECRET_SETTING = re.compile(
    _SECRET_NAME.pattern + r"|secret|credential|authorization|bearer|signature|cookie|^(key|sig|auth|pwd)$"
    r"|(subscription|functions?|master|account|shared|storage|admin|service|project|auth)key$"
)
# Prefixes of the keys of well-known services, whatever their length.
_SECRET_VALUE = re.compile(r"^(sk-|xox[a-z]-|gh[a-z]_|glpat-|AIza|AKIA|eyJ[A-Za-z0-9_-]+\.|Bearer |Basic )")
_HEADER = re.compile(r"\s*([\w-]+)\s*[:=]\s*\S")
# The longest interval, in seconds.
LONGEST_DURATION = 7 * 86400
MOST_DOCUMENTS = 1_000_000_000
# Batches of a recurring evaluation are named after it, followed by the date, and if needed a time and a
# number.
LONGEST_RECURRING_NAME = LONGEST - 30
# The type of errors about credentials. Unlike other invalid values, these must not even be stored.
CREDENTIAL = "credential"
_KEY_ADVICE = "keys are never stored: put the name of the key's environment variable into api_key_env"


def _name(value: str) -> str:
    name = normal(value)
    if problem := refusal(name):
        raise ValueError(problem)
    return name


def _storable(value: str) -> str:
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("contains a NUL or half a surrogate pair, which a database cannot store: remove it")
    return value


def _keyless(value: str) -> str:
    if holds_key(value):
        raise _credential("contains what looks like a key or a password")
    return value


def _place(value: str) -> str:
    if holds_more_than_a_place(value):
        raise PydanticCustomError(
            CREDENTIAL,
            "has a user name, a password, a query string or a fragment in its URL: remove it; keys are "
            "never stored: those for object storage come from environment variables",
        )
    return value


def _visible(value: str) -> str:
    # A zero-width space is invisible too.
    if not any(char.isprintable() and not char.isspace() for char in value):
        raise ValueError("contains no visible text: write the question")
    return value


def _unique(values: list[str]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"contains {repeated[0]!r} twice: remove one")
    return values


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
        _require_text_keys(value)
    except PydanticCustomError:
        raise
    except (TypeError, ValueError, RecursionError):
        raise ValueError(
            "cannot be written as JSON: remove NaN, infinity, references to itself and other types"
        ) from None
    _storable(encoded)
    # An escaped NUL, but not an escaped backslash followed by u0000.
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", encoded):
        raise ValueError("contains a NUL, which a database cannot store: remove it")
    return value


def _require_text_keys(value: Any) -> None:
    # The json module converts True, None and numbers to text keys such as "true".
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise PydanticCustomError("key_type", "has a key that is not text: put the key in quotes")
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        _require_text_keys(item)


def _patterns(values: list[str]) -> list[str]:
    for value in values:
        if problem := _problem_of_pattern(value):
            raise ValueError(f"{value!r} {problem}")
    return values


def _problem_of_pattern(value: str) -> str | None:
    """Why a pattern is invalid or cannot match any file; None if it is usable."""
    if not value.strip() or value != value.strip():
        return "is empty or has a space at its beginning or end: write only the pattern, such as '*.pdf'"
    if value.startswith("#"):
        return "is a comment in .gitignore: write \\# for a name that begins with #"
    if "[:" in value:
        return "uses a named class of characters, which is not supported: write a range such as [a-z]"
    try:
        with warnings.catch_warnings():
            # Python warns of nested brackets, which are literal here.
            warnings.simplefilter("ignore", FutureWarning)
            pathspec.PathSpec.from_lines("gitignore", [value])
    except (ValueError, re.error):
        return (
            "is not a valid .gitignore pattern: fix it; brackets match one of several characters, write \\[ "
            "for "
            "a bracket in a name"
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
        raise ValueError("has no time zone: write it as 2026-12-01T22:00Z or 2026-12-01T23:00+01:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999 in UTC") from None


def _schedule(value: str) -> str:
    if problem := problem_of_schedule(value):
        raise ValueError(problem)
    return " ".join(value.split())


def _timezone(value: str) -> str:
    if problem := problem_of_timezone(value):
        raise ValueError(problem)
    return value


def _seconds(value: Any) -> Any:
    """The seconds of a text such as 90s, 5m, 2h or 1d; other values unchanged."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    if match is None:
        raise ValueError("must be a number of seconds, or a text such as 90s, 5m, 2h or 1d")
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
Folder = Annotated[Text, Field(min_length=1), AfterValidator(_place)]
Patterns = Annotated[list[Text], AfterValidator(_patterns)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Margin = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Reuse = Literal["finished", "nothing"]
Schedule = Annotated[str, AfterValidator(_schedule)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
Duration = Annotated[int, BeforeValidator(_seconds), AfterValidator(_duration)]


class Definition(BaseModel):
    """Base of all definitions: unknown keys are rejected, and values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_clears(cls, given: Any) -> Any:
        """Replace `null` in optional keys by the default; the key counts as given."""
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
    """Prices of a provider, for estimates only; never part of a sealed snapshot."""

    input_per_million: Price | None = Field(
        default=None, description="Price of a million input tokens. If omitted, it is unknown; 0 means free."
    )
    output_per_million: Price | None = Field(
        default=None, description="Price of a million output tokens. If omitted, it is unknown; 0 means free."
    )
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = Field(
        default="USD", description="Three-letter currency code (ISO 4217)."
    )


class NamedDefinition(Definition):
    """A definition that is identified by its name."""

    name: Name

    @property
    def is_complete(self) -> bool:
        """Whether all required keys are given; False for a definition with a mistake."""
        required = {key for key, field in type(self).model_fields.items() if field.is_required()}
        return bool(self.name) and required <= self.model_fields_set


class ConnectionDefinition(NamedDefinition):
    """How a processor reaches a model. Never contains a key."""

    name: Name = Field(description="Unique name. An existing connection of this name is updated.")
    provider: Name = Field(description="Type of provider, such as openai or ollama.")
    model: Name = Field(description="Name of the model at the provider.")
    base_url: Storable | None = Field(
        default=None, description="URL of the endpoint (http or https), without credentials."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Port, if the URL has none.")
    api_key_env: str | None = Field(
        default=None,
        max_length=64,
        description="NAME of the environment variable that contains the API key of the processor. Never the "
        "key.",
    )
    config: JsonObject = Field(
        default_factory=dict, description="Settings of the model, such as temperature."
    )
    prices: Prices | None = Field(
        default=None,
        description="Prices for cost estimates: input_per_million and output_per_million (tokens), currency.",
    )

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value.startswith("$"):
            raise PydanticCustomError(CREDENTIAL, "must be the NAME of an environment variable: remove the $")
        # Capitals only, because a key pasted by mistake is hardly ever in capitals. The table has the same
        # rule.
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and value.upper() != value and not _is_a_key(value):
            raise PydanticCustomError(
                CREDENTIAL,
                "must be in capitals, so that a pasted key is detected: rename the environment variable, for "
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
            # urlsplit removes line breaks and tabs, but an HTTP client may send them.
            valid = value.isprintable() and " " not in value
            valid = valid and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("must be a URL such as https://api.example.com/v1")
        if parts.username is not None or parts.password is not None:
            raise _credential("contains a user name or a password")
        for part in (parts.query, parts.fragment):
            _refuse_secrets(dict(parse_qsl(part, keep_blank_values=True)), _SECRET_SETTING)
        return _keyless(value)

    @field_validator("config")
    @classmethod
    def _holds_no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        _refuse_secrets(value, _SECRET_SETTING)
        return value


def problem_of_connection(connection: Mapping[str, Any]) -> str | None:
    """Why a connection is invalid, for example because it contains a key; None if it is valid.

    The message repeats no value, because it might be the key.
    """
    try:
        ConnectionDefinition.model_validate(connection)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        return f"{first['loc'][0]} {first['msg'].removeprefix('Value error, ')}"
    return None


class PromptDefinition(NamedDefinition):
    """One criterion: the text that a model is asked about each document."""

    name: Name = Field(description="Unique name. An existing prompt of this name is updated.")
    text: PromptText = Field(min_length=1, description="Text of the prompt.")
    threshold: Threshold | None = Field(
        default=None,
        description="Reports list the documents with a lower score, from 0 to 100. Not sealed: the newest "
        "value counts.",
    )
    weight: Weight | None = Field(
        default=None,
        description="Share in the overall ranking, relative to other prompts. Reports rank models across "
        "prompts only if two or more prompts have a weight. Not sealed: the newest value counts.",
    )


class ChoiceDefinition(NamedDefinition):
    """Base of batches and recurring evaluations: a choice of folders, connections and prompts."""

    name: Name = Field(description="Unique name of the batch.")
    description: Text = Field(default="", description="Description for people.")
    folders: list[Folder] = Field(
        min_length=1,
        description="Folders that contain the documents: paths, or URLs such as s3://BUCKET/PREFIX/.",
    )
    connections: Names = Field(description="Names of the connections that evaluate the documents.")
    prompts: Names = Field(description="Names of the prompts to ask about each document.")
    metadata: JsonObject = Field(default_factory=dict, description="Arbitrary JSON to store with it.")
    include: Patterns = Field(
        default_factory=list, description="Patterns as in .gitignore. Only matching files are evaluated."
    )
    exclude: Patterns = Field(
        default_factory=list, description="Patterns as in .gitignore. Matching files are skipped."
    )
    priority: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Share of processing time relative to other batches, from 1 to 100. Applies to rows "
        "queued later.",
    )
    margin: Margin | None = Field(
        default=None,
        description="Points of the mean score. The report says which cheaper or faster models are shown to "
        "be no worse than the leader by this much. Sealed before there are results.",
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
            raise ValueError(
                "looks like a batch number, and commands accept a number or a name: choose another name"
            )
        return value


class BatchDefinition(ChoiceDefinition):
    """A batch: one choice of folders, connections and prompts."""

    stage_after: Moment | None = Field(
        default=None,
        description="Time at which staging starts automatically, with time zone, such as 2026-12-01T22:00Z.",
    )
    reuse: Reuse = Field(
        default="nothing",
        description="finished: reuse results of earlier batches for the same question and document. "
        "nothing: ask again.",
    )


class RecurringDefinition(ChoiceDefinition):
    """A recurring evaluation: creates a batch at each time of a schedule, or when documents arrive."""

    name: Name = Field(description="Unique name. Its batches are named after it and the date.")
    schedule: Schedule | None = Field(
        default=None,
        description="Cron expression of five fields, such as '0 2 * * 1-5': when to create a batch.",
    )
    timezone: TimeZone = Field(default="UTC", description="Time zone of the schedule, such as Europe/Berlin.")
    on_arrival: bool = Field(
        default=False, description="Create a batch when documents arrive, instead of on a schedule."
    )
    interval: Duration = Field(
        default=60,
        description="How often the folders are scanned, in seconds or as a text such as 5m.",
    )
    quiet_for: Duration = Field(
        default=60,
        description="How long nothing must arrive before a batch is created, in seconds or as a text such "
        "as 5m.",
    )
    scope: Literal["changed", "all"] = Field(
        default="changed",
        description="changed: only documents that are new or changed since the last occurrence. all: every "
        "document.",
    )
    skip_if_nothing_new: bool = Field(
        default=True, description="Create no batch if no document is new or changed."
    )
    reuse: Reuse = Field(
        default="finished",
        description="finished: reuse results of earlier batches for the same question and document. "
        "nothing: ask again.",
    )
    max_documents: int | None = Field(
        default=None,
        ge=1,
        le=MOST_DOCUMENTS,
        description="A batch of more documents is paused until it is resumed.",
    )
    max_cost: Price | None = Field(
        default=None, description="A batch with a higher estimated cost is paused until it is resumed."
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
        # A default may come from null, which is allowed.
        if info.data.get("schedule") is not None and value != cls.model_fields[str(info.field_name)].default:
            raise ValueError("applies only with on_arrival: remove it, or use on_arrival instead of schedule")
        return value

    @model_validator(mode="after")
    def _recurs_in_one_way(self) -> Self:
        if self.on_arrival and self.schedule is not None:
            raise ValueError("has both schedule and on_arrival: keep one of them")
        if not self.on_arrival and self.schedule is None:
            raise ValueError(
                'has neither schedule nor on_arrival: add schedule: "0 2 * * *" or on_arrival: true'
            )
        return self


class Evaluation(Definition):
    """The contents of an evaluation file or of the launchpad of `create_batch`."""

    connections: list[ConnectionDefinition] = Field(default_factory=list)
    prompts: list[PromptDefinition] = Field(default_factory=list)
    batches: list[BatchDefinition] = Field(default_factory=list)
    recurring: list[RecurringDefinition] = Field(default_factory=list)


def _is_a_key(name: str) -> bool:
    """Whether a variable's name looks like a key in capitals: long, one word, several digits."""
    digits = sum(char.isdigit() for char in name)
    return holds_key(name) or ("_" not in name and len(name) >= 16 and digits >= 3)


def _refuse_secrets(value: Any, names: re.Pattern[str]) -> None:
    """Reject a credential anywhere in JSON data.

    The message repeats no value, because terminals and event logs show it.
    """
    if isinstance(value, dict):
        for key, content in value.items():
            _refuse_secret(str(key), content, names)
            _refuse_secrets(str(key), names)
            _refuse_secrets(content, names)
        # Headers as a list of objects with a name and a value.
        _refuse_secret(str(value.get("name") or value.get("key")), value.get("value"), names)
    elif isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str):
            _refuse_secret(value[0], value[1], names)
        for item in value:
            _refuse_secrets(item, names)
    elif isinstance(value, str):
        if _SECRET_VALUE.search(value) or holds_key(value):
            raise _credential("contains a value that looks like a key")
        if header := _HEADER.match(value):
            _refuse_secret(header[1], value, names)


def _refuse_secret(name: str, value: Any, names: re.Pattern[str]) -> None:
    # A number may be a password; a boolean or an empty value is not.
    has_content = value not in (None, "", [], {}) and not isinstance(value, bool)
    if has_content and names.search(re.sub(r"[^a-z]", "", name.lower())):
        raise _credential(f"{name!r} looks like a credential")


def _credential(problem: str) -> PydanticCustomError:
    return PydanticCustomError(CREDENTIAL, "{problem}", {"problem": f"{problem}; {_KEY_ADVICE}"})
