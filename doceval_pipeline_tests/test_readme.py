"""The documentation held against the code: its commands run, its tables name what there is."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from sqlalchemy import text

from doceval_pipeline.batches.completion import look
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli import cli
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import doceval, read_json

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text()
ARCHIVE = (PROJECT / "docs" / "archive.md").read_text()
MANIFEST = ARCHIVE.split("`manifest.json`:")[1].split("```python")[0]
PROCESSORS = (PROJECT / "docs" / "processors.md").read_text()
CONTRACTS = PROJECT / "doceval_pipeline" / "sample" / "contracts"


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def test_the_commands_for_documents_of_ones_own_work_in_their_order(
    databases: Databases, tmp_path: Path
) -> None:
    (evaluation,) = blocks(README, "yaml")
    (tmp_path / "evaluation.yaml").write_text(evaluation)
    shutil.copytree(CONTRACTS, tmp_path / "contracts")
    (commands,) = [block for block in blocks(README, "console") if "doceval apply" in block]
    ran = []
    for line in commands.splitlines():
        command = shlex.split(line.removeprefix("$ "), comments=True)
        if command[1] == "up":
            continue  # runs until it is ended: tests of its own
        if "--watch" in command:
            assert doceval("simulate-processor", "--until-empty", "--latency", "0").returncode == 0
            look(databases)
        arguments = [str(tmp_path / word) if word.endswith(".yaml") else word for word in command[1:]]
        ended = doceval(*arguments)
        assert ended.returncode == 0, (line, ended.stderr)
        ran.append(command[1])
    assert ran == ["apply", "stage", "status", "documents", "report", "check"]
    (later,) = [block for block in blocks(README, "console") if "doceval reprocess" in block]
    for line in later.replace("--failed", "--all").splitlines():
        ended = doceval(*shlex.split(line.removeprefix("$ "), comments=True)[1:])
        assert ended.returncode == 0, (line, ended.stderr)
    (away,) = [block for block in blocks(README, "console") if "doceval archive" in block]
    archived = read_json("archive", "contracts-q4")["archive"]["path"]
    assert re.sub(r"-.*\.", "-.", Path(archived).name) == "batch-.zip"
    for line in re.sub(r"batch-\S*\.zip", archived, away).splitlines():
        ended = doceval(*shlex.split(line.removeprefix("$ "), comments=True)[1:])
        assert ended.returncode == 0, (line, ended.stderr)


def test_the_reader_of_archives_in_the_documentation_reads_one(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "evaluation.yaml").write_text(blocks(README, "yaml")[0])
    shutil.copytree(CONTRACTS, tmp_path / "contracts")
    doceval("apply", str(tmp_path / "evaluation.yaml"))
    doceval("stage", "contracts-q4")
    doceval("simulate-processor", "--until-empty", "--latency", "0")
    path = Path(read_json("archive", "contracts-q4")["archive"]["path"])
    (reader,) = blocks(ARCHIVE, "python")
    ended = subprocess.run(
        [sys.executable, "-I", "-c", reader, str(path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "contracts-q4 2 attempts at 2 documents\n"
    named = set(re.findall(r"`([a-z]+\.(?:json|jsonl|html))`", ARCHIVE))
    with ZipFile(path) as archive:
        assert {name for name in archive.namelist() if not name.startswith("documents/")} == named
        keys = json.loads(archive.read("manifest.json")).keys()
    assert keys == set(
        re.findall(r"`([a-z_]+)`", " ".join(re.findall(r"^\| (.*?) \|", MANIFEST, re.MULTILINE)))
    )


def test_the_statements_of_the_contract_claim_and_answer(databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "evaluation.yaml").write_text(blocks(README, "yaml")[0])
    shutil.copytree(CONTRACTS, tmp_path / "contracts")
    doceval("apply", str(tmp_path / "evaluation.yaml"))
    doceval("stage", "contracts-q4")
    (statements,) = blocks(README, "sql")
    claim, answer = (part for part in statements.split(";") if part.strip())
    with databases.knowledge.begin() as connection:
        assert len(connection.exec_driver_sql(claim).all()) == 1
        assert connection.exec_driver_sql(answer).rowcount == 1
        assert (
            connection.execute(text("SELECT count(*) FROM llm_responses WHERE overall_score = 87.5")).scalar()
            == 1
        )
        (several,) = blocks(PROCESSORS, "sql")
        claimed = connection.exec_driver_sql(several.replace("$1", "'t'").replace("$2", "10"))
        assert len(claimed.all()) == 1, "all that was left"
        prompt = re.search(r"`(SELECT p ->> 'text'.*?)`", PROCESSORS, re.DOTALL)
        assert prompt is not None
        asked = prompt[1].replace("batch_id = …", "true").replace("p ->> 'id' = …", "true")
        assert "Score the clarity" in str(connection.exec_driver_sql(asked).scalar())


def test_every_command_and_make_target_that_is_named_exists() -> None:
    documents = README + PROCESSORS + ARCHIVE + (PROJECT / "CHANGELOG.md").read_text()
    named = set(re.findall(r"`doceval ([a-z-]+)", documents)) | set(
        re.findall(r"\$ doceval ([a-z-]+)", documents)
    )
    assert named <= set(cli.commands)
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)`", documents)) | set(
        re.findall(r"\$ make ([a-z-]+)", documents)
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_table_of_variables_is_complete_and_tells_the_defaults() -> None:
    source = (PROJECT / "doceval_pipeline" / "settings.py").read_text()
    used = set(re.findall(r'"((?:DOC|KNOWLEDGE|DAGSTER)[A-Z_]+)"', source))
    described = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert used == described
    assert str(Settings.max_document_bytes) in README


@pytest.mark.parametrize("path", ["examples/evaluation.yaml", "doceval_pipeline/sample/evaluation.yaml"])
def test_the_examples_can_be_applied(databases: Databases, path: str) -> None:
    ended = doceval("apply", str(PROJECT / path))
    assert ended.returncode == 0, ended.stderr
    assert yaml.safe_load((PROJECT / path).read_text())["batches"][0]["name"] in ended.stdout


def test_every_link_and_picture_is_there() -> None:
    for document in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)
