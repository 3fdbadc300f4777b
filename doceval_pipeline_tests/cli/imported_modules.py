"""Which libraries commands import: `python -P imported_modules.py` reads command lines as JSON, writes JSON.

Each command runs in a fork of a process that has imported nothing but the entry point. The end of a command,
also by an error, is not an error here.
"""

import json
import os
import sys
from contextlib import suppress
from io import StringIO
from typing import Any

from doceval_pipeline.cli import cli

# Libraries that take more than 2 ms of CPU time to import.
LIBRARIES = (
    "alembic",
    "asyncio",
    "cronsim",
    "dagster",
    "dagster_graphql",
    "dagster_postgres",
    "filelock",
    "httpx",
    "jinja2",
    "magic",
    "numpy",
    "openpyxl",
    "pandas",
    "pathspec",
    "psutil",
    "psycopg2",
    "pyarrow",
    "pybase64",
    "pydantic",
    "pylibmagic",
    "rich",
    "scipy",
    "sqlalchemy",
    "xlsxwriter",
    "yaml",
    "yamlcore",
)


def imported_by(arguments: list[str], environment: dict[str, str]) -> list[str]:
    """The libraries that a command has imported when it ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with suppress(BaseException):
            os.environ.update(environment)
            sys.stdout = sys.stderr = StringIO()
            cli(arguments, prog_name="doceval")
        os.write(writing, json.dumps([name for name in LIBRARIES if name in sys.modules]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        found: list[str] = json.load(answer)
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    asked: list[dict[str, Any]] = json.load(sys.stdin)
    print(json.dumps([imported_by(each["arguments"], each["environment"]) for each in asked]))
