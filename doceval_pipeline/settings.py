"""The settings of an installation, read from environment variables in one place.

The rest of the package reads the environment only for the system's folders and for variables of other
programs. This module opens no file and no connection.
"""

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from doceval_pipeline.errors import ConfigurationError, PathError
from doceval_pipeline.paths import real_path

MIB = 1024 * 1024
# One PostgreSQL field holds less than 1 GiB, and base64 makes 4 bytes of 3.
LARGEST_STORABLE_DOCUMENT = 768_000_000
# PostgreSQL's programs accept paths of up to 1,023 bytes, including those of the files in its data folder.
LONGEST_HOME = 800
DRIVER = "postgresql+psycopg2://"
# The form and size of a webhook's secret, as https://www.standardwebhooks.com requires.
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret
SECRET_BYTES = range(24, 65)
# While a secret is being replaced, messages are signed with the old and the new one.
MOST_SECRETS = 2
MOST_OWNERS = 20
MOST_HOSTS = 50
PLAIN_LOGS, JSON_LOGS = "plain", "json"
# A name whose last label is not a number: browsers read 127.1 as an address.
_HOST_NAME = re.compile(
    r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?![0-9]+$|0x)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
)
MOST_READERS = 256
# The owners that Dagster accepts, in a length that its pages can show.
_OWNER = re.compile(
    r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,100}\.[A-Za-z]{2,7}|team:[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}"
)


@dataclass(frozen=True)
class Settings:
    """The settings of one installation.

    Parameters
    ----------
    home
        `DOCEVAL_HOME`: the embedded server's data, Dagster's home, reports, archives.
    doc_eval_url, knowledge_documents_url, dagster_url
        `DOC_EVAL_URL`, `KNOWLEDGE_DOCUMENTS_URL`, `DAGSTER_POSTGRES_URL`; None means a database on
        the embedded server. They may contain passwords and are left out of the repr.
    max_document_bytes
        `DOCEVAL_MAX_DOCUMENT_BYTES`: larger files are rejected with the reason `too large`.
    readers
        `DOCEVAL_READERS`: how many objects on object storage are read at once.
    stage_cron, audit_cron
        `DOCEVAL_STAGE_CRON`, `DOCEVAL_AUDIT_CRON`: cron expressions, in UTC, of the schedules
        `stage_saved_batches` and `nightly_audit`.
    keep_days
        `DOCEVAL_KEEP_DAYS`: how long Dagster's run logs and the progress samples are kept.
    webhook_url, webhook_secret
        `DOCEVAL_WEBHOOK_URL`, `DOCEVAL_WEBHOOK_SECRET`: the address that is notified of completed batches,
        and the secret that signs the messages, or two separated by a space while one replaces the other. None
        disables notifications. Both are left out of the repr, because the URL may contain a token.
    ui_url
        `DOCEVAL_UI_URL`: the address of Dagster's UI, for links, without a slash at the end.
    migrates
        False with `DOCEVAL_MIGRATE=never`: this process neither creates nor upgrades tables, and starts no
        embedded server.
    owners_given
        `DOCEVAL_OWNERS`: the owners of the assets in Dagster's catalog, not yet parsed; see `owners`.
    ui_hosts_given
        `DOCEVAL_UI_HOSTS`: names of the webserver besides the loopback, not yet parsed; see `ui_hosts`.
    log_format
        `DOCEVAL_LOG_FORMAT`: `plain` or `json`, for the logs of Dagster's processes.
    """

    home: Path
    doc_eval_url: str | None = field(default=None, repr=False)
    knowledge_documents_url: str | None = field(default=None, repr=False)
    dagster_url: str | None = field(default=None, repr=False)
    max_document_bytes: int = 50 * MIB
    readers: int = 32
    stage_cron: str = "0 * * * *"
    audit_cron: str = "30 2 * * *"
    keep_days: int = 30
    webhook_url: str | None = field(default=None, repr=False)
    webhook_secret: str | None = field(default=None, repr=False)
    ui_url: str | None = None
    owners_given: str = ""
    ui_hosts_given: str = ""
    log_format: str = PLAIN_LOGS
    migrates: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables; an empty variable counts as unset.

        Raises
        ------
        ConfigurationError
            A variable has an invalid value. The message repeats no URL and no secret.
        """
        env = os.environ if environment is None else environment
        webhook_url = _web_address(env, "DOCEVAL_WEBHOOK_URL")
        return cls(
            home=_home(env.get("DOCEVAL_HOME", "")),
            doc_eval_url=_url(env, "DOC_EVAL_URL"),
            knowledge_documents_url=_url(env, "KNOWLEDGE_DOCUMENTS_URL"),
            dagster_url=_url(env, "DAGSTER_POSTGRES_URL"),
            max_document_bytes=_document_limit(env.get("DOCEVAL_MAX_DOCUMENT_BYTES", "")),
            readers=_readers(env.get("DOCEVAL_READERS", "")),
            stage_cron=env.get("DOCEVAL_STAGE_CRON", "").strip() or cls.stage_cron,
            audit_cron=env.get("DOCEVAL_AUDIT_CRON", "").strip() or cls.audit_cron,
            keep_days=_days(env.get("DOCEVAL_KEEP_DAYS", "")),
            webhook_url=None if webhook_url is None else _protected(webhook_url),
            webhook_secret=None if webhook_url is None else _secrets(env.get("DOCEVAL_WEBHOOK_SECRET", "")),
            migrates=_migrates(env.get("DOCEVAL_MIGRATE", "").strip()),
            owners_given=env.get("DOCEVAL_OWNERS", ""),
            ui_hosts_given=env.get("DOCEVAL_UI_HOSTS", ""),
            log_format=_log_format(env.get("DOCEVAL_LOG_FORMAT", "")),
            ui_url=(_web_address(env, "DOCEVAL_UI_URL") or "").rstrip("/") or None,
        )

    @property
    def owners(self) -> tuple[str, ...]:
        """The owners of the assets in Dagster's catalog.

        Parsed on demand, because only the catalog needs them.

        Raises
        ------
        ConfigurationError
            Dagster does not accept an owner.
        """
        return _owners(self.owners_given)

    @property
    def ui_hosts(self) -> frozenset[str]:
        """Names and addresses besides the loopback under which the webserver answers, as in a Host header.

        In lower case and without a port; IPv6 addresses are in brackets. Parsed on demand, because only the
        webserver needs them.

        Raises
        ------
        ConfigurationError
            A value is not a name or an address.
        """
        return _hosts(self.ui_hosts_given)

    @property
    def reports(self) -> Path:
        """The folder of completion reports."""
        return self.home / "reports"

    @property
    def archives(self) -> Path:
        """The folder of the archives of batches."""
        return self.home / "archives"

    @property
    def cache(self) -> Path:
        """The folder of cached data; anything missing is created again."""
        return self.home / "cache"

    @property
    def dagster_home(self) -> Path:
        """Dagster's home: its `dagster.yaml`, and the files of assets that are not stored in a database."""
        return self.home / "dagster"

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """The folders in `home` that contain only files of this installation."""
        names = ("archives", "cache", "dagster", "logs", "postgres", "reports", "run")
        return tuple(self.home / name for name in names)


def project_root() -> Path | None:
    """The project's folder in a checkout; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def _home(value: str) -> Path:
    # Resolved, so that every process uses the same path for the embedded server.
    try:
        home = real_path(value if value.strip() else os.path.join(project_root() or "", ".doceval"))
    except (PathError, OSError) as error:
        raise ConfigurationError(f"DOCEVAL_HOME cannot be used: {error}") from None
    if any(ord(character) < 32 or ord(character) == 127 for character in str(home)):
        raise ConfigurationError(
            f"DOCEVAL_HOME contains a control character, such as a line break ({str(home)!r}): remove it"
        )
    if len(os.fsencode(home)) > LONGEST_HOME:
        raise ConfigurationError(
            f"DOCEVAL_HOME is {len(os.fsencode(home)):,} bytes long, and PostgreSQL accepts "
            f"{LONGEST_HOME:,}: choose a shorter path"
        )
    return home


def _url(env: Mapping[str, str], name: str) -> str | None:
    value = env.get(name, "").strip()
    if not value:
        return None
    for prefix in (DRIVER, "postgresql://", "postgres://"):
        if value.startswith(prefix):
            return DRIVER + value.removeprefix(prefix)
    raise ConfigurationError(f"{name} is not a PostgreSQL URL: write {DRIVER}USER@HOST:PORT/DATABASE")


def _document_limit(value: str) -> int:
    if not value:
        return Settings.max_document_bytes
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= LARGEST_STORABLE_DOCUMENT:
        raise ConfigurationError(
            "DOCEVAL_MAX_DOCUMENT_BYTES must be a whole number of bytes from 1 to "
            f"{LARGEST_STORABLE_DOCUMENT:,}".replace(",", "_")
            + ", the most that a PostgreSQL field can hold"
        )
    return int(value)


def _migrates(value: str) -> bool:
    if value not in ("", "never"):
        raise ConfigurationError(
            f"DOCEVAL_MIGRATE is {value[:40]!r}: write never, or unset it to upgrade schemas on first use"
        )
    return not value


def _readers(value: str) -> int:
    if not value:
        return Settings.readers
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= MOST_READERS:
        raise ConfigurationError(f"DOCEVAL_READERS must be a whole number from 1 to {MOST_READERS}")
    return int(value)


def _days(value: str) -> int:
    if not value:
        return Settings.keep_days
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= 36_500:
        raise ConfigurationError("DOCEVAL_KEEP_DAYS must be a whole number of days from 1 to 36500")
    return int(value)


def _owners(value: str) -> tuple[str, ...]:
    owners = tuple(dict.fromkeys(filter(None, (part.strip() for part in value.split(",")))))
    wrong = [owner for owner in owners if not _OWNER.fullmatch(owner)]
    if wrong or len(owners) > MOST_OWNERS:
        problem = f"contains {wrong[0][:80]!r}" if wrong else f"names {len(owners)} owners"
        raise ConfigurationError(
            f"DOCEVAL_OWNERS {problem}: write up to {MOST_OWNERS} owners separated by commas, each an e-mail "
            "address or team:NAME, such as ann@example.org,team:legal"
        )
    return owners


def _log_format(value: str) -> str:
    if value.strip() not in ("", PLAIN_LOGS, JSON_LOGS):
        raise ConfigurationError(f"DOCEVAL_LOG_FORMAT is {value[:40]!r}: write {PLAIN_LOGS} or {JSON_LOGS}")
    return value.strip() or PLAIN_LOGS


def _hosts(value: str) -> frozenset[str]:
    given = list(filter(None, (part.strip() for part in value.split(","))))
    hosts = [_host(part) for part in given]
    wrong = [part for part, host in zip(given, hosts, strict=True) if host is None]
    if wrong or len(given) > MOST_HOSTS:
        problem = f"contains {wrong[0][:80]!r}" if wrong else f"names {len(given)} hosts"
        raise ConfigurationError(
            f"DOCEVAL_UI_HOSTS {problem}: write up to {MOST_HOSTS} host names or IP addresses separated by "
            "commas, without scheme, port or wildcard, such as doceval.example.org,10.0.0.7"
        )
    return frozenset(filter(None, hosts))


def _host(value: str) -> str | None:
    """A host name or address as in a Host header; None if it is neither, or means every address."""
    name = value.lower()
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name if len(name) <= 253 and _HOST_NAME.fullmatch(name) else None
    if address.is_unspecified or (isinstance(address, ipaddress.IPv6Address) and address.scope_id):
        return None
    return f"[{address}]" if address.version == 6 else name


def _web_address(env: Mapping[str, str], name: str) -> str | None:
    value = env.get(name, "").strip()
    if not value:
        return None
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or not value.isascii():
        raise ConfigurationError(f"{name} is not a web address: write https://HOST/PATH")
    return value


def _split(value: str) -> SplitResult | None:
    try:
        parts = urlsplit(value)
        return (
            parts if parts.port != 0 and not any(c.isspace() or not c.isprintable() for c in value) else None
        )
    except ValueError:
        return None


def _protected(webhook_url: str) -> str:
    parts = urlsplit(webhook_url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            "DOCEVAL_WEBHOOK_URL is not encrypted: use https://, or the address of a proxy on this machine"
        )
    return webhook_url


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine: localhost, loopback or unspecified."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _secrets(value: str) -> str:
    secrets = value.split()
    if not 0 < len(secrets) <= MOST_SECRETS or not all(map(_is_secret, secrets)):
        raise ConfigurationError(
            f"DOCEVAL_WEBHOOK_SECRET must be {SECRET_PREFIX} followed by {SECRET_BYTES[0]} to "
            f"{SECRET_BYTES[-1]} random bytes in base64, or two such secrets separated by a space, because "
            f"DOCEVAL_WEBHOOK_URL is set: create one with echo {SECRET_PREFIX}$(openssl rand -base64 32)"
        )
    return " ".join(secrets)


def _is_secret(value: str) -> bool:
    try:
        key = base64.b64decode(value.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return value.startswith(SECRET_PREFIX) and len(key) in SECRET_BYTES
