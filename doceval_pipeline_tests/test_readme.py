"""The README held against the code: its length, its five commands, its statements."""

import shutil
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval
from doceval_pipeline_tests.documentation import (
    CONTRACTS,
    PROJECT,
    README,
    block,
    blocks,
    doceval_commands,
    stage_contracts,
)

MOST_LINES = 120
COMMANDS = block(README, "console", "doceval apply")


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_five_commands_work_in_their_order(databases: Databases, tmp_path: Path) -> None:
    (evaluation,) = blocks(README, "yaml")
    (tmp_path / "evaluation.yaml").write_text(evaluation)
    shutil.copytree(CONTRACTS, tmp_path / "contracts")
    assert len(COMMANDS.splitlines()) == 5
    ran = []
    for words in doceval_commands(COMMANDS):
        if words[0] == "up":
            continue  # runs until it is ended: tests of its own
        if words[0] == "report":
            assert doceval("simulate-processor", "--until-empty", "--latency", "0").returncode == 0
            poll(databases)
        ended = doceval(*(str(tmp_path / word) if word.endswith(".yaml") else word for word in words))
        assert ended.returncode == 0, (words, ended.stderr)
        ran.append(words[0])
    assert ran == ["apply", "stage", "report"]


def test_the_command_that_starts_a_processor_finds_the_queue(databases: Databases) -> None:
    (line,) = [line for line in COMMANDS.splitlines() if "doceval env" in line]
    script = line.removeprefix("$ ").partition("#")[0].rstrip() + " --until-empty"
    script = script.replace(".venv/bin/python", sys.executable).replace("doceval env", f"{DOCEVAL} env")
    ended = subprocess.run(
        ["bash", "-ec", script], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_the_statements_claim_and_answer(databases: Databases, tmp_path: Path) -> None:
    stage_contracts(tmp_path)
    (statements,) = blocks(README, "sql")
    claim, answer = (part for part in statements.split(";") if part.strip())
    with databases.knowledge.begin() as connection:
        claimed = connection.execute(text(claim)).one()
    assert "Score the clarity" in claimed.prompt_text
    with databases.knowledge.begin() as connection:
        assert connection.execute(text(answer), {"token": claimed.token}).one().changed
