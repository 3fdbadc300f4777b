"""The help of `doceval` and of each command: its sections, summaries and examples, and what it imports."""

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner

from doceval_pipeline.cli import cli
from doceval_pipeline.cli.command_table import ENTRIES, CommandEntry, HelpSection
from doceval_pipeline.cli.recurring import recurring
from doceval_pipeline_tests.conftest import Sample

LONGEST_SUMMARY = 50
# Packages that take long to import.
NEVER_AT_STATUS = {"alembic", "dagster", "httpx", "jinja2", "numpy", "pyarrow", "pydantic", "scipy"}
NEVER_AT_HELP = NEVER_AT_STATUS | {"psycopg2", "rich", "sqlalchemy", "yaml"}
# The same command line, which prints the loaded modules at its end, on standard error.
PRINTS_MODULES = """
import sys
from doceval_pipeline.cli import main
try:
    main()
except SystemExit as ended:
    print("MODULES", ended.code, *sys.modules, file=sys.stderr)
"""


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """All commands by what is typed after `doceval`, those of `recurring` too."""
    yield from cli.commands.items()
    for name, command in recurring.commands.items():
        yield f"recurring {name}", command


EACH = pytest.mark.parametrize(
    ("name", "command"), [pytest.param(*each, id=each[0]) for each in all_commands()]
)


def loaded_packages(*arguments: str, code: int = 0) -> set[str]:
    """The packages that a command line has loaded at its end; checks its exit code."""
    ended = subprocess.run(
        [sys.executable, "-c", PRINTS_MODULES, *arguments], capture_output=True, text=True, check=True
    )
    exit_code, *modules = ended.stderr.rpartition("MODULES")[2].split()
    assert exit_code == str(code), ended.stderr
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["-h"], 0), ([], 2), (["--version"], 0), (["stauts"], 2), (["retry"], 2)],
    ids=str,
)
def test_help_and_suggestions_import_no_command(arguments: list[str], code: int) -> None:
    loaded = loaded_packages(*arguments, code=code)
    assert "click" in loaded
    assert loaded & NEVER_AT_HELP == set()


def test_shell_completion_imports_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DOCEVAL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "doceval re")
    monkeypatch.setenv("COMP_CWORD", "1")
    script = PRINTS_MODULES.replace("main()", "cli(prog_name='doceval')").replace("import main", "import cli")
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = [line.partition(",")[2] for line in ended.stdout.splitlines()]
    assert names == ["reprocess", "resume", "recurring", "report", "restore"]
    loaded = {module.partition(".")[0] for module in ended.stderr.split()}
    assert loaded & NEVER_AT_HELP == set()


def test_status_imports_neither_dagster_nor_what_pages_need(batch_of: Callable[..., Sample]) -> None:
    sample = batch_of(documents=1)
    loaded = loaded_packages("status", sample.name)
    assert "sqlalchemy" in loaded
    assert loaded & NEVER_AT_STATUS == set()


@pytest.mark.parametrize("command", ["list", "failures"])
def test_lists_of_batches_and_failures_import_as_little_as_status(
    batch_of: Callable[..., Sample], command: str
) -> None:
    sample = batch_of(documents=1)
    sample.stage()
    sample.knowledge("UPDATE llm_responses SET status = 'F'")
    loaded = loaded_packages(*((command,) if command == "list" else (command, sample.name)))
    # A seal is checked with pydantic, and failures have the names of the seal.
    assert loaded & (NEVER_AT_STATUS - {"pydantic"}) == set()


def test_the_table_has_each_command_once_with_a_short_summary() -> None:
    assert Counter(entry.name for entry in ENTRIES) == Counter(list(cli.commands))
    assert {entry.section for entry in ENTRIES} == set(HelpSection)
    for entry in ENTRIES:
        assert 0 < len(entry.summary) <= LONGEST_SUMMARY, entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_summary_of_a_command_is_the_first_line_of_its_help(entry: CommandEntry) -> None:
    command = entry.load()
    assert command.name == entry.name
    assert (command.help or "").splitlines()[0] == f"{entry.summary}."


@pytest.mark.parametrize("width", [80, 200])
def test_help_shows_every_summary_in_its_section_in_one_line(width: int) -> None:
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=width).output
    sections = re.split(r"^(\w+):\n", shown, flags=re.MULTILINE)
    bodies = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(bodies) == ["Options", *(section.value for section in HelpSection)]
    for section in HelpSection:
        lines = [line.split(maxsplit=1) for line in bodies[section.value].strip().splitlines()]
        assert lines == [[e.name, e.summary] for e in ENTRIES if e.section is section]


@EACH
def test_each_example_is_a_command_line_that_can_be_parsed(name: str, command: click.Command) -> None:
    shown = CliRunner().invoke(cli, [*name.split(), "--help"], terminal_width=80).output
    examples = (command.epilog or "").splitlines()
    assert examples
    heading = "Example:" if len(examples) == 1 else "Examples:"
    assert shown.endswith("\n".join(["", heading, *(f"  {example}" for example in examples), ""]))
    for example in examples:
        (line,) = re.findall(r"doceval [^|)]+", example)
        words = shlex.split(line)[1:]
        assert words[: len(name.split())] == name.split()
        parsed: click.Command = cli
        while isinstance(parsed, click.Group):
            parsed = parsed.commands[words.pop(0)]
        with parsed.make_context(parsed.name, words):
            pass
