"""What `make setup` does for plain Dagster commands: the home folder, and `.env` at the project's root.

Dagster reads `.env` of the folder in which a command starts.
"""

import os
import re
import sys
from pathlib import Path

from doceval_pipeline.dagster_home.configuration import place_configuration
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.settings import Settings, project_root

COMMENT = "# Written by make setup, for plain Dagster commands in this folder; an exported DAGSTER_HOME wins."
OURS = re.compile(r'^DAGSTER_HOME="\$\{DAGSTER_HOME:-.*$', re.MULTILINE)
ANY = re.compile(r"^\s*(export\s+)?DAGSTER_HOME\s*=", re.MULTILINE)
# What ends or changes a value in such a line.
UNUSABLE = set('"\\$}`\n\r')


def with_dagster_home(dotenv: str, home: Path) -> str:
    """The text of a `.env` with the line that names Dagster's home; a line that a user wrote stays."""
    if UNUSABLE & set(str(home)):
        raise ConfigurationError(
            f"{home} cannot be written into .env because of its special characters: "
            "move the project, or set DOCEVAL_HOME to a folder without them"
        )
    line = f'DAGSTER_HOME="${{DAGSTER_HOME:-{home}}}"'
    if OURS.search(dotenv):
        return OURS.sub(lambda _: line, dotenv)
    if ANY.search(dotenv):
        return dotenv
    separator = "" if not dotenv or dotenv.endswith("\n") else "\n"
    return f"{dotenv}{separator}{COMMENT}\n{line}\n"


def main() -> None:
    """Prepare Dagster's home of this installation and name it in the project's `.env`."""
    # Both are for this user alone.
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
