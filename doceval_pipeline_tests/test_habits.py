"""What contributors run before each commit: the hooks, the commit message, the fast tests."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from doceval_pipeline_tests.commit_message import problem_of
from doceval_pipeline_tests.fresh_clone import PROJECT


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("Keep one name\n\nTwo were in use.\n", None),
        ("# a comment of git\nKeep one name\n\nTwo were in use.\n# another\n", None),
        ("Merge branch 'x'\n", None),
        ("x" * 72 + "\n\nBecause.\n", None),
        ("x" * 73 + "\n\nBecause.\n", "the subject has 73 characters: shorten it to 72"),
        ("Keep one name\n", "the body is missing: say why the change is made"),
        (
            "Keep one name\nTwo were in use.\n",
            "the second line is not empty: separate the subject from the body",
        ),
        ("", "the first line is empty: write a subject of at most 72 characters"),
        ("\n\nBecause.\n", "the first line is empty: write a subject of at most 72 characters"),
    ],
)
def test_a_commit_message_has_a_short_subject_and_a_body(message: str, problem: str | None) -> None:
    assert problem_of(message) == problem


def test_the_hook_refuses_a_message_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "message").write_text("Keep one name\n")
    command = [sys.executable, "-m", "doceval_pipeline_tests.commit_message", str(tmp_path / "message")]
    refused = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == "commit message: the body is missing: say why the change is made\n"


def test_the_hooks_run_what_make_check_runs() -> None:
    """Formatting and lint also fix what they can; nothing is checked in one place only."""
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks} - {"python"}
    checks = (PROJECT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    checked = {word.removeprefix("$(BIN)/") for word in checks.replace("@", "").split() if "$(BIN)/" in word}
    assert tools == checked
    assert all(Path(sys.executable).with_name(tool).exists() for tool in tools)


def test_pre_commit_takes_the_configuration() -> None:
    command = [
        sys.executable,
        "-m",
        "pre_commit",
        "validate-config",
        str(PROJECT / ".pre-commit-config.yaml"),
    ]
    subprocess.run(command, check=True, capture_output=True)
