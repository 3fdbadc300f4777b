"""Suggestions for a command that does not exist."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import doceval_pipeline
from doceval_pipeline.cli import cli
from doceval_pipeline.cli.suggestions import WORDS


def said(*arguments: str) -> str:
    """The last line of a refusal."""
    ended = CliRunner().invoke(cli, arguments)
    assert ended.exit_code == 2
    return ended.output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("word", "suggested"),
    [
        ("retry", "Did you mean doceval reprocess BATCH --failed?"),
        ("RETRY", "Did you mean doceval reprocess BATCH --failed?"),
        ("start", "Did you mean doceval up?"),
        ("stop", "Did you mean doceval down?"),
        ("stauts", "Did you mean doceval status?"),
        ("restor", "Did you mean doceval restore?"),
        ("simulate_processor", "Did you mean doceval simulate-processor?"),
        ("qqqq", "doceval --help lists all commands."),
    ],
)
def test_a_word_is_answered_with_the_command_that_does_what_it_says(word: str, suggested: str) -> None:
    assert said(word).endswith(suggested)


def check_proposal(line: str, where: str) -> None:
    """Refuse a command line of ours whose command or options do not exist."""
    name, *rest = line.split()
    command = cli.commands.get(name)
    assert command is not None, f"{where}: doceval {line}"
    options = {option for parameter in command.params for option in parameter.opts}
    for word in rest:
        if word.startswith("--"):
            assert word.rstrip(".,:;)") in options | {"--help"}, f"{where}: doceval {line}"


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_suggestion_is_a_command_and_no_suggested_word_is_one_itself(word: str) -> None:
    assert word not in cli.commands
    check_proposal(WORDS[word], word)


def test_every_command_that_a_message_proposes_exists_with_its_options() -> None:
    """In code a proposal is the word and what follows on its line, as far as it reads like arguments."""
    package = Path(doceval_pipeline.__file__).parent
    proposals = re.compile(r"doceval ([a-z][a-z-]+(?: (?:\{[^}]*\}|BATCH|FILE|--[a-z-]+|[0-9]+))*)")
    found = 0
    for file in package.rglob("*.py"):
        for proposal in proposals.findall(file.read_text()):
            if proposal.split()[0] in cli.commands or "--" in proposal or "{" in proposal:
                check_proposal(re.sub(r"\{[^}]*\}", "1", proposal), file.name)
                found += 1
    assert found > 50
