"""Runs the real command line in processes of its own, as people do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.conftest import write_old

_LAUNCH_BACKFILL = """
    mutation ($params: LaunchBackfillParams!) {
        launchPartitionBackfill(backfillParams: $params) {
            __typename
            ... on LaunchBackfillSuccess { backfillId }
            ... on PythonError { message }
        }
    }
"""
DOCEVAL = str(Path(sys.executable).with_name("doceval"))


def doceval(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [DOCEVAL, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def read_json(*arguments: str, **environment: str) -> Any:
    """Run a command that must succeed, and read what it prints with --json."""
    ended = doceval(*arguments, "--json", **environment)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return json.loads(ended.stdout)


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait for what another process does; what it gives is the answer."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return answer


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def running_up(home: Path, port: str) -> Iterator["subprocess.Popen[str]"]:
    """`doceval up` on a home of its own, from when it answers until its clean end.

    Started with Ctrl-C ignored, as a script does with what it leaves in the background.
    """
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" "$@"', DOCEVAL, "up", "--port", port],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DOCEVAL_HOME": str(home)},
        start_new_session=True,
    )
    try:
        until(lambda: process.stdout is not None and "Dagster is at" in process.stdout.readline())
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def browser_that_notes(folder: Path) -> tuple[str, Path]:
    """A value of the variable BROWSER, and the file that gets the address of each page it is to open."""
    folder.mkdir(exist_ok=True)
    program, addresses = folder / "browser", folder / "addresses"
    program.write_text(f'#!/bin/sh\necho "$1" >> "{addresses}"\n')
    program.chmod(0o755)
    return f"{program} %s", addresses


def graphql(port: str, question: str, **variables: Any) -> dict[str, Any]:
    """What Dagster's webserver answers to a query or mutation; a refusal is an answer too."""
    body = json.dumps({"query": question, "variables": variables}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"}
    )
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        return dict(json.load(answer)["data"])


def launch_backfill(
    port: str, keys: Sequence[str], assets: Sequence[str], config: Mapping[str, Any] | None = None
) -> str:
    """Launch a backfill of assets as Dagster's dialog does; its id."""
    params = {
        "assetSelection": [{"path": [asset]} for asset in assets],
        "partitionNames": list(keys),
        "runConfigData": json.dumps(config or {}),
    }
    launched = graphql(port, _LAUNCH_BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def query(home: Path, statement: str, *parameters: Any, database: str = "KnowledgeDocuments") -> list[Any]:
    """Run a statement as an outside process would, in a transaction of its own."""
    connection = psycopg2.connect(host=str(EmbeddedServer(home).sockets), user="postgres", dbname=database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def status(home: Path, batch: str) -> dict[str, Any]:
    """What `doceval status --json` says of a batch."""
    (found,) = read_json("status", batch, DOCEVAL_HOME=str(home))
    return dict(found)


def write_evaluation(
    folder: Path, name: str, documents: int = 3, extra: Mapping[str, Any] | None = None
) -> Path:
    """An evaluation file over a folder of small documents, 2 connections and 2 prompts."""
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        write_old(folder / "documents" / f"{number}.txt", f"document {number} of {name}")
    connections = [{"name": f"c{n}", "provider": "p", "model": f"m{n}", "api_key_env": "KEY"} for n in "12"]
    content = {
        "connections": connections,
        "prompts": [{"name": f"p{n}", "text": f"Question {n}?"} for n in "12"],
        "batches": [
            {
                "name": name,
                "folders": ["./documents"],
                "connections": ["c1", "c2"],
                "prompts": ["p1", "p2"],
                **(extra or {}),
            }
        ],
    }
    path = folder / "evaluation.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path
