"""Canaries in every place where a careless person puts a key: afterwards they are nowhere."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg2 import errors

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import doceval, graphql, query, running_up, until, write_evaluation
from doceval_pipeline_tests.secret_canaries import CARELESS, FORMS, KEY, PASSWORD, with_secret

PORT = "3923"
URLS = {
    "DOC_EVAL_URL": "doc_eval",
    "KNOWLEDGE_DOCUMENTS_URL": "KnowledgeDocuments",
    "DAGSTER_POSTGRES_URL": "dagster",
}
LAUNCH = """
    mutation Launch($job: String!, $config: RunConfigData) {
      launchRun(executionParams: {
        selector: {
          repositoryLocationName: "doceval_pipeline", repositoryName: "__repository__", jobName: $job
        }
        runConfigData: $config
      }) { __typename ... on PythonError { message } }
    }
"""
MESSAGE = f"401: incorrect API key provided: {KEY}; see https://u:{PASSWORD}@h/ (Bearer {KEY})"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """An installation with secrets in its URLs and its environment, which has a receiver to tell."""
    folder = Path(tempfile.mkdtemp(prefix="doceval-keys-")) / "home"
    before = dict(os.environ)
    assert doceval("init", DOCEVAL_HOME=str(folder)).returncode == 0
    server = EmbeddedServer(folder)
    os.environ |= {name: server.url(db).replace("@", f":{PASSWORD}@", 1) for name, db in URLS.items()}
    os.environ |= {"DOCEVAL_HOME": str(folder), "KEY": KEY, "OPENAI_API_KEY": KEY}
    # Nobody listens there, so that it fails again and again.
    os.environ["DOCEVAL_WEBHOOK_URL"] = f"http://u:{PASSWORD}@127.0.0.1:9/{KEY}"
    os.environ["DOCEVAL_WEBHOOK_SECRET"] = f"whsec_{base64.b64encode(KEY.encode()).decode()}"
    yield folder
    os.environ.clear()
    os.environ.update(before)
    server.stop()
    shutil.rmtree(folder.parent)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator["subprocess.Popen[str]"]:
    yield from running_up(home, PORT)


def launch(job: str, config: dict[str, Any]) -> str:
    """Launch a job as the launchpad does; what came of it."""
    launched = graphql(PORT, LAUNCH, job=job, config=config)["launchRun"]
    assert all(form not in str(launched.get("message")) for form in FORMS)
    return str(launched["__typename"])


def put_keys_everywhere(home: Path, folder: Path) -> list[str]:
    """Be careless in every way; what the commands said."""
    said = []
    for number, place in enumerate(list(CARELESS)[::4]):
        path = folder / f"careless-{number}.yaml"
        path.write_text(json.dumps(with_secret(folder, place)))
        said.append(doceval("apply", str(path)))
        assert said[-1].returncode == 1
    for place in ("a setting", "a prompt", "metadata by name", "the name of a batch"):
        content = with_secret(folder, place)
        config = {**content["batches"][0], "new_connections": content["connections"]}
        config["new_prompts"] = content["prompts"]
        assert launch("create_batch", {"ops": {"create": {"config": config}}}) == "PythonError"
    config = {"ops": {"reprocess_cells": {"config": {"mode": KEY}}}}
    assert launch("reprocess_batch", config) == "RunConfigValidationInvalid"
    said.append(doceval("stage", KEY))
    file = write_evaluation(folder, "innocent", documents=2)
    said.append(doceval("apply", str(file), "--stage"))
    until(lambda: query(home, "SELECT 1 FROM llm_responses"))
    for row, token in query(home, "SELECT id, token FROM claim_responses(4, '1 hour', 'w')"):
        with pytest.raises(errors.CheckViolation):
            query(home, "SELECT complete_response(%s, 101, %s)", token, MESSAGE)
        query(home, "SELECT fail_response(%s, %s)", token, f"{row}: {MESSAGE}")
    query(home, "UPDATE llm_responses SET status = 'F', error_message = %s WHERE status <> 'F'", MESSAGE)
    return [part for ended in said for part in (ended.stdout, ended.stderr)]


def told(home: Path) -> list[str]:
    """What every command says that prints anything of a batch, and what it writes."""
    commands = [
        ["init"],
        ["status"],
        ["status", "innocent", "--json"],
        ["documents", "innocent"],
        ["plan", "innocent", "--failed"],
        ["report", "innocent"],
        ["check"],
        ["archive", "innocent"],
        ["status", "--json"],
    ]
    said = [doceval(*command) for command in commands]
    assert [ended.args[1:] for ended in said if ended.returncode != 0] == [], said
    (archive,) = (home / "archives").glob("*.zip")
    said.append(doceval("restore", str(archive)))
    return [part for ended in said for part in (ended.stdout, ended.stderr)]


def kept(home: Path) -> Iterator[tuple[str, str]]:
    """Everything that is kept of an installation, by where it is."""
    tables = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema !~ '^pg_'"
    for database in URLS.values():
        for schema, table in query(home, tables, database=database):
            rows = query(home, f'SELECT t::text FROM "{schema}"."{table}" AS t', database=database)
            yield f"{database}.{table}", "\n".join(row for (row,) in rows)
    for path in home.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield f"{path}/{name}", archive.read(name).decode("latin-1")
    for process in psutil.process_iter(["cmdline"]):
        yield f"process {process.pid}", " ".join(process.info["cmdline"] or [])


def test_a_key_that_somebody_was_careless_with_is_kept_and_told_nowhere(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path
) -> None:
    said = put_keys_everywhere(home, tmp_path)
    ((number,),) = query(home, "SELECT id FROM batches WHERE batch_name = 'innocent'", database="doc_eval")
    until(lambda: list((home / "reports").glob(f"batch-{number:06d}-*.html")))
    not_told = "SELECT 1 FROM webhook_deliveries WHERE last_failure IS NOT NULL"
    until(lambda: query(home, not_told, database="doc_eval"))
    said += told(home)
    places = dict(kept(home))
    assert len(places) > 100
    assert "(key not shown)" in places["KnowledgeDocuments.llm_responses"]
    hits = [(place, form) for place, text in places.items() for form in FORMS if form in text]
    hits += [(text, form) for text in said for form in FORMS if form in text]
    assert hits == []


def test_nobody_else_on_the_machine_can_read_what_an_installation_writes(
    up: "subprocess.Popen[str]", home: Path
) -> None:
    """Of what another user can reach at all, nothing can be read or written."""
    open_to_others = []
    for folder, folders, names in os.walk(home):
        mode = os.stat(folder).st_mode
        if not mode & 0o011:
            folders.clear()
            continue
        open_to_others += [folder] if mode & 0o066 else []
        paths = [os.path.join(folder, name) for name in names]
        open_to_others += [path for path in paths if os.lstat(path).st_mode & 0o077]
    assert open_to_others == []
