"""Which libraries each command imports, so that none becomes slow unnoticed.

If a test fails because a command imports more: import it in the function that needs it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import click
import pytest

from doceval_pipeline.cli import cli
from doceval_pipeline.cli.command_table import ENTRIES
from doceval_pipeline_tests.cli import imported_modules
from doceval_pipeline_tests.conftest import Sample, write_old

# What a connection to a database takes.
DATABASE = frozenset(("asyncio", "filelock", "psutil", "psycopg2", "sqlalchemy"))
# What reading an evaluation file, and walking its folders, takes.
FILE = frozenset(("cronsim", "pathspec", "pydantic", "yaml", "yamlcore"))
OUTPUT = frozenset(("rich",))
STATISTICS = frozenset(("numpy", "scipy"))
# The help of some commands also imports these, which takes a few milliseconds.
HELP = OUTPUT | {"cronsim", "psutil"}
# Commands that run no job, and what they import besides the database and the output.
RUNS: dict[str, Set[str]] = {
    "status": set(),
    "status 1": set(),
    "status --json": set(),
    "list": set(),
    "documents 1": set(),
    "failures 1": set(),
    "recurring list": set(),
    "plan 1": FILE | {"magic", "pybase64", "pylibmagic"},
    "apply FILE": FILE,
    "apply FILE --json": FILE,
    "leaderboard 1": FILE | STATISTICS | {"jinja2"},
    "check": FILE | STATISTICS | {"httpx", "pybase64"},
}
COMPLETION = {"_DOCEVAL_COMPLETE": "bash_complete"}


def all_commands() -> list[list[str]]:
    """The words of every command, including those of groups."""
    found = []
    for entry in ENTRIES:
        command = cli.commands[entry.name]
        found.append([entry.name])
        if isinstance(command, click.Group):
            found += [[entry.name, name] for name in command.commands]
    return found


def imported(commands: Sequence[Sequence[str]], **environment: str) -> list[set[str]]:
    """The libraries that each command imports."""
    asked = [{"arguments": list(arguments), "environment": environment} for arguments in commands]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", imported_modules.__name__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return [set(names) for names in json.loads(ended.stdout)]


def completed(*words: str) -> dict[str, str]:
    """The environment in which a shell asks to complete a last word that is empty."""
    return {**COMPLETION, "COMP_WORDS": " ".join(("doceval", *words, "")), "COMP_CWORD": str(len(words) + 1)}


@pytest.mark.fast
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["unknown"]])
def test_the_help_of_doceval_imports_only_click(arguments: list[str]) -> None:
    assert imported([arguments]) == [set()]


@pytest.mark.fast
def test_completing_the_name_of_a_command_imports_only_click() -> None:
    assert imported([[]], **completed()) == [set()]


@pytest.mark.fast
def test_the_help_of_a_command_imports_no_database_and_no_dagster() -> None:
    commands = [[*words, "--help"] for words in all_commands()]
    assert len(commands) > 30
    found = dict(zip(map(" ".join, commands), imported(commands), strict=True))
    assert {name: libraries - HELP for name, libraries in found.items() if libraries - HELP} == {}


@pytest.mark.fast
@pytest.mark.parametrize("words", [["status"], ["list", "--status"], ["recurring"], ["stage", "--"]])
def test_completing_the_options_of_a_command_imports_no_dagster(words: list[str]) -> None:
    (found,) = imported([[]], **completed(*words))
    # The states of batches are beside the SQL that filters by them.
    assert found <= HELP | (DATABASE if words == ["list", "--status"] else set())


@pytest.mark.parametrize("typed", RUNS)
def test_a_command_that_runs_no_job_imports_no_dagster(
    typed: str, batch_of: Callable[..., Sample], tmp_path: Path
) -> None:
    batch_of()
    file = tmp_path / "evaluation.yaml"
    folder = tmp_path / "more"
    folder.mkdir()
    write_old(folder / "a.txt", "text")
    content: dict[str, Any] = {
        "connections": [{"name": "another", "provider": "openai", "model": "m"}],
        "prompts": [{"name": "another", "text": "Is it?"}],
        "batches": [
            {"name": "more", "folders": [str(folder)], "connections": ["another"], "prompts": ["another"]}
        ],
    }
    file.write_text(json.dumps(content))
    (found,) = imported([[str(file) if word == "FILE" else word for word in typed.split()]])
    assert "sqlalchemy" in found
    assert found <= DATABASE | OUTPUT | {"cronsim"} | RUNS[typed]
