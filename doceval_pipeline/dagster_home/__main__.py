"""Prepares plain Dagster commands for `make setup`: Dagster's home, and `.env` in the project's root.

Dagster reads `.env` of the folder in which a command is started.
"""

import os
import re
import sys
from pathlib import Path

from doceval_pipeline.dagster_home.configuration import GRPC_LIMITS, place_configuration
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.settings import Settings, project_root

COMMENT = "# Written by make setup, for plain Dagster commands in this folder; exported variables win."
# Characters that end or change a value in a line of `.env`.
UNUSABLE = set('"\\$}`\n\r')


def with_dagster_home(dotenv: str, home: Path) -> str:
    """The text of a `.env` with lines for Dagster's home and limits; the user's own lines stay.

    Raises
    ------
    ConfigurationError
        The path has characters that `.env` cannot contain.
    """
    if UNUSABLE & set(str(home)):
        raise ConfigurationError(
            f"{home} cannot be written into .env because of its special characters: "
            "move the project, or set DOCEVAL_HOME to a folder without them"
        )
    for name, value in {"DAGSTER_HOME": str(home), **GRPC_LIMITS}.items():
        dotenv = _with_variable(dotenv, name, value)
    return dotenv


def _with_variable(dotenv: str, name: str, value: str) -> str:
    line = f'{name}="${{{name}:-{value}}}"'
    ours = re.compile(rf'^{name}="\$\{{{name}:-.*$', re.MULTILINE)
    if ours.search(dotenv):
        return ours.sub(lambda _: line, dotenv)
    if re.search(rf"^\s*(export\s+)?{name}\s*=", dotenv, re.MULTILINE):
        return dotenv
    separator = "" if not dotenv or dotenv.endswith("\n") else "\n"
    comment = "" if COMMENT in dotenv else f"{COMMENT}\n"
    return f"{dotenv}{separator}{comment}{line}\n"


def main() -> None:
    """Prepare Dagster's home of this installation, and write the project's `.env`."""
    # Only this user may read them.
    os.umask(0o077)
    settings = Settings.from_environment()
    place_configuration(settings)
    root = project_root()
    if root is None:
        return
    dotenv = root / ".env"
    try:
        before = dotenv.read_text(encoding="utf-8") if dotenv.exists() else ""
        after = with_dagster_home(before, settings.dagster_home)
        if after != before:
            dotenv.write_text(after, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{dotenv} cannot be written ({error}): fix or remove it") from None


if __name__ == "__main__":
    try:
        main()
    except DocEvalError as error:
        sys.exit(str(error))
