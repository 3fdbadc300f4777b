"""Finds the `dagster.yaml` that counts for an installation; docs/configuration.md explains it to users.

In a checkout, Dagster's home has a link to the project's file, so edits take effect at once. Elsewhere it has
a copy that belongs to the user. A regular file in the home takes precedence in both cases.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from doceval_pipeline.dagster_home.merging import merge
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings, project_root

NAME = "dagster.yaml"
# The defaults that the user's file was last updated to.
DEFAULTS = "dagster.defaults.yaml"
# In a checkout a link to the project's file; in a wheel a copy of it.
SHIPPED = Path(__file__).parent.parent / NAME
# Defaults of releases that did not record which defaults they had copied, oldest first.
EARLIER = Path(__file__).parent / "earlier"
# Seconds that Dagster waits for its code server, read from the environment when it is imported. An overloaded
# machine exceeds Dagster's own limit of 60 s, which would end sensor ticks and runs.
GRPC_LIMITS = {
    "DAGSTER_GRPC_TIMEOUT_SECONDS": "180",
    # A code server that is shutting down waits for hanging calls at most this long.
    "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "60",
}
# Names of limits in seconds. Dagster reads them at first use, in a process whose errors are not visible.
_SECONDS = re.compile(r"DAGSTER_(\w+_)?GRPC_(TIMEOUT_SECONDS|SHUTDOWN_GRACE_PERIOD)")


def require_limits(environment: Mapping[str, str]) -> None:
    """Check the environment variables of Dagster's limits.

    Raises
    ------
    ConfigurationError
        A value is not a whole number of seconds.
    """
    for name, value in environment.items():
        if _SECONDS.fullmatch(name) and not re.fullmatch(r"[0-9]{1,6}", value):
            raise ConfigurationError(
                f"{name} is {value[:40]!r}: write a whole number of seconds, or unset it"
            )


def place_configuration(settings: Settings) -> Path:
    """Prepare Dagster's home and return its `dagster.yaml`; edits of users are kept.

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


def effective_configuration(settings: Settings) -> Path:
    """The `dagster.yaml` that is in use, behind any link; the shipped one before Dagster's home exists."""
    file = settings.dagster_home / NAME
    return (file if file.exists() else SHIPPED).resolve()


def read_configuration(file: Path) -> Mapping[str, Any]:
    """The content of a `dagster.yaml`.

    Raises
    ------
    ConfigurationError
        It is not YAML or not a mapping; the error has file and line.
    """
    # Report the file behind a link, which users edit.
    file, shipped = file.resolve(), SHIPPED.resolve()
    fix = "fix it" if file == shipped else f"fix it; {shipped} shows the defaults"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigurationError(f"{file}{line}: not valid YAML ({error.problem}): {fix}") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigurationError(f"{file}: not valid YAML in UTF-8: {fix}") from None
    if not isinstance(content or {}, dict):
        raise ConfigurationError(f"{file}: not a mapping such as `run_queue:`: {fix}")
    return content or {}


def write_if_different(file: Path, content: str) -> None:
    """Write a file atomically unless it already has this content; keeps its permissions."""
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
    if file.exists() and not file.is_symlink() and _update_edited(file):
        return
    root = project_root()
    if root is None or not _link(file, root / NAME):
        _write_defaults(file, SHIPPED.read_text(encoding="utf-8"))


def _update_edited(file: Path) -> bool:
    """Merge this release's defaults into an edited file; False if it was never edited."""
    read_configuration(file)
    mine, now = file.read_text(encoding="utf-8"), SHIPPED.read_text(encoding="utf-8")
    before = _original_defaults(file.with_name(DEFAULTS), mine)
    if mine == before:
        return False
    write_if_different(file, merge(mine, before, now))
    write_if_different(file.with_name(DEFAULTS), now)
    return True


def _original_defaults(defaults: Path, mine: str) -> str:
    """The defaults that a file was copied from; for earlier releases, the matching text of `EARLIER`."""
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


def _link(file: Path, target: Path) -> bool:
    """Link to the project's file; False if it does not exist or links are impossible."""
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
    """Whether a link points to a checkout of this project, which may no longer exist."""
    target = link.readlink()
    return not link.exists() or (target.parent / "doceval_pipeline" / NAME).exists()


def _partial(file: Path) -> Path:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    return partial
