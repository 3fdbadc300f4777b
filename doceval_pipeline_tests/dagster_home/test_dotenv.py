"""`make setup` names Dagster's home in .env, and leaves what users wrote there alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from doceval_pipeline.dagster_home.__main__ import with_dagster_home
from doceval_pipeline.dagster_home.configuration import GRPC_LIMITS
from doceval_pipeline.errors import ConfigurationError

HOME = Path("/srv/my project/.doceval/dagster")


def read(tmp_path: Path, text: str) -> dict[str, str | None]:
    (tmp_path / ".env").write_text(text)
    found = dict(dotenv_values(tmp_path / ".env"))
    return {name: value for name, value in found.items() if name not in GRPC_LIMITS}


def test_the_home_is_named_unless_one_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    text = with_dagster_home("", HOME)
    assert read(tmp_path, text) == {"DAGSTER_HOME": str(HOME)}
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")
    assert read(tmp_path, text) == {"DAGSTER_HOME": "/elsewhere"}


def test_a_shell_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(with_dagster_home("", HOME))
    script = '. ./.env; printf %s "$DAGSTER_HOME"'
    said = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    assert said.stdout == str(HOME)


def test_only_our_line_is_added_and_refreshed() -> None:
    mine = "OPENAI_API_KEY=x\n# DAGSTER_HOME=/old"
    first = with_dagster_home(mine, Path("/first"))
    assert first.startswith(mine + "\n")
    assert with_dagster_home(first, Path("/first")) == first
    assert with_dagster_home(first + "LAST=1\n", HOME) == first.replace("/first", str(HOME)) + "LAST=1\n"


@pytest.mark.parametrize("line", ["DAGSTER_HOME=/mine", "export DAGSTER_HOME = '/mine'"])
def test_a_home_that_the_user_chose_stays(line: str) -> None:
    text = with_dagster_home(f"A=1\n{line}\n", HOME)
    assert text.startswith(f"A=1\n{line}\n")
    assert text.count("DAGSTER_HOME") == 1


def test_dagster_waits_as_long_for_its_code_server_as_under_doceval_up(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(with_dagster_home("DAGSTER_GRPC_TIMEOUT_SECONDS=7\n", HOME))
    found = dotenv_values(tmp_path / ".env")
    assert {name: found[name] for name in GRPC_LIMITS} == {**GRPC_LIMITS, "DAGSTER_GRPC_TIMEOUT_SECONDS": "7"}


@pytest.mark.parametrize("name", ["a}b", 'a"b', "a$b", "a\\b", "a`b", "a\nb"])
def test_a_path_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be written into \.env"):
        with_dagster_home("", Path("/srv") / name)


def test_make_setup_needs_no_dagster(tmp_path: Path) -> None:
    """It says so too where a variable is wrong, in one line."""
    script = "import sys, doceval_pipeline.dagster_home.__main__; assert 'dagster' not in sys.modules"
    environment = {**os.environ, "DOCEVAL_HOME": str(tmp_path / "home")}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0
    environment["DOC_EVAL_URL"] = "mysql://x"
    command = [sys.executable, "-m", "doceval_pipeline.dagster_home"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr.startswith("DOC_EVAL_URL is not a PostgreSQL URL")
    assert said.stderr.count("\n") == 1
