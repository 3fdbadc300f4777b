"""Finds the `dagster.yaml` that counts for an installation; docs/configuration.md explains it to users.

In a checkout the home holds a link to the project's file, so that edits there count at once. Elsewhere it
holds a copy, which is the user's from then on. A regular file in the home wins in both cases.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from doceval_pipeline.dagster_home.merging import merged
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings, project_root

NAME = "dagster.yaml"
# The defaults that the user's file was last brought up to.
DEFAULTS = "dagster.defaults.yaml"
# In a checkout a link to the project's own file; a wheel holds its text.
SHIPPED = Path(__file__).parent.parent / NAME
# The texts that were copied into the home before it was known what they were made from, oldest first.
EARLIER = Path(__file__).parent / "earlier"
# Seconds for which Dagster waits for its code server, read from the environment when it is imported. Its
# own limit of 60 s is reached on a machine that is too busy, and a sensor's tick or a run is then given up.
GRPC_LIMITS = {
    "DAGSTER_GRPC_TIMEOUT_SECONDS": "180",
    # A code server that is told to end does not wait as long for calls that hang.
    "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60",
}
# Names of limits in seconds. Dagster reads them at their first use, in a process whose refusal nobody sees.
_SECONDS = re.compile(r"DAGSTER_(\w+_)?GRPC_(TIMEOUT_SECONDS|SHUTDOWN_GRACE_PERIOD)")


def require_limits(environment: Mapping[str, str]) -> None:
    """Look at what the environment says of Dagster's limits.

    Raises
    ------
    ConfigurationError
        One is not a whole number of seconds.
    """
    for name, value in environment.items():
        if _SECONDS.fullmatch(name) and not re.fullmatch(r"[0-9]{1,6}", value):
            raise ConfigurationError(
                f"{name} is {value[:40]!r}: write a whole number of seconds, or unset it"
            )


def place_configuration(settings: Settings) -> Path:
    """Make Dagster's home ready and return its `dagster.yaml`; no edit of a user is lost.

    Raises
    ------
    ConfigurationError
        The folder or the file cannot be written or read, or the file is not a YAML mapping.
    """
    file = settings.dagster_home / NAME
    try:
        settings.dagster_home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _place(file)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or file} cannot be used for Dagster's home ({error.strerror}): "
            "fix its permissions, or set DOCEVAL_HOME to another folder"
        ) from None
    read_configuration(file)
    return file


def read_configuration(file: Path) -> Mapping[str, Any]:
    """What a `dagster.yaml` says.

    Raises
    ------
    ConfigurationError
        It is not YAML, or not a mapping; names file and line.
    """
    # People edit the file behind a link.
    file, shipped = file.resolve(), SHIPPED.resolve()
    mend = "fix it" if file == shipped else f"fix it; {shipped} shows the defaults"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigurationError(f"{file}{line}: not valid YAML ({error.problem}): {mend}") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigurationError(f"{file}: not valid YAML in UTF-8: {mend}") from None
    if not isinstance(content or {}, dict):
        raise ConfigurationError(f"{file}: not a mapping such as `run_queue:`: {mend}")
    return content or {}


def write_if_different(file: Path, content: str) -> None:
    """Write a file whole; one with this content is left alone, and permissions stay."""
    with suppress(FileNotFoundError):
        if file.read_text(encoding="utf-8") == content:
            return
    partial = _partial(file)
    partial.write_text(content, encoding="utf-8")
    with suppress(FileNotFoundError):
        partial.chmod(file.stat().st_mode & 0o7777)
    partial.replace(file)


def _place(file: Path) -> None:
    if file.is_symlink() and not _is_ours(file):
        return
    if file.exists() and not file.is_symlink() and _brought_up(file):
        return
    root = project_root()
    if root is None or not _linked(file, root / NAME):
        _write_defaults(file, SHIPPED.read_text(encoding="utf-8"))


def _brought_up(file: Path) -> bool:
    """Bring an edited file up to this release's defaults; False for one that was never edited."""
    read_configuration(file)
    mine, now = file.read_text(encoding="utf-8"), SHIPPED.read_text(encoding="utf-8")
    before = _made_from(file.with_name(DEFAULTS), mine)
    if mine == before:
        return False
    write_if_different(file, merged(mine, before, now))
    write_if_different(file.with_name(DEFAULTS), now)
    return True


def _made_from(defaults: Path, mine: str) -> str:
    """The defaults that a file was made from; for an earlier version, whichever of its texts is the same."""
    if defaults.exists():
        return defaults.read_text(encoding="utf-8")
    earlier = [path.read_text(encoding="utf-8") for path in sorted(EARLIER.iterdir())]
    return mine if mine in earlier else earlier[-1]


def _write_defaults(file: Path, text: str) -> None:
    if file.is_symlink():
        file.unlink()
    # The file first: if this is interrupted, the next start merges the defaults again.
    write_if_different(file, text)
    write_if_different(file.with_name(DEFAULTS), text)


def _linked(file: Path, target: Path) -> bool:
    """Make a link to the project's file; False where there is none, or no links can be made."""
    if not target.is_file():
        return False
    if file.is_symlink() and file.readlink() == target:
        return True
    partial = _partial(file)
    try:
        partial.symlink_to(target)
    except OSError:
        return False
    partial.replace(file)
    file.with_name(DEFAULTS).unlink(missing_ok=True)
    return True


def _is_ours(link: Path) -> bool:
    """Whether a link is one to a checkout of this project, which may be gone."""
    target = link.readlink()
    return not link.exists() or (target.parent / "doceval_pipeline" / NAME).exists()


def _partial(file: Path) -> Path:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    return partial
