"""Webserver and daemon as two services of a service manager, on databases of one's own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, database_url
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval, free_port, until, write_evaluation

URLS = (DOC_EVAL, KNOWLEDGE, DAGSTER)


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="doceval-single-"))
    yield folder
    shutil.rmtree(folder)


@contextmanager
def service(log: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A service that writes to a log, until SIGTERM ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [DOCEVAL, "up", *arguments],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.usefixtures("databases")
def test_two_services_stage_a_batch_and_answer_probes(settings: Settings, home: Path, tmp_path: Path) -> None:
    # The server of the tests, which is a server of somebody else for an installation with another home.
    environment = {database[0]: database_url(settings, database) for database in URLS}
    environment |= {"DOCEVAL_HOME": str(home), "DOCEVAL_LOG_FORMAT": "json"}
    port, logs = free_port(), (tmp_path / "webserver.log", tmp_path / "daemon.log")
    webserver = service(logs[0], "--only", "webserver", "--port", str(port), **environment)
    with webserver, service(logs[1], "--only", "daemon", **environment) as daemon:
        until(lambda: answers(port))
        file = write_evaluation(tmp_path, "by two", documents=1)
        assert doceval("apply", str(file), "--stage", **environment).returncode == 0

        def is_staged() -> bool:
            said = doceval("status", "by two", "--json", **environment)
            return bool(json.loads(said.stdout)[0]["status"] == "STAGED")

        until(is_staged)
        liveness = [str(Path(sys.executable).with_name("dagster-daemon")), "liveness-check"]
        alive = {**os.environ, **environment, "DAGSTER_HOME": str(home / "dagster")}
        assert subprocess.run(liveness, env=alive, check=False, stdout=subprocess.DEVNULL).returncode == 0
        assert daemon.poll() is None
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            assert b'doceval_up{database="dagster"} 1.0' in page.read()
    assert not (home / "postgres").exists()
    for log in logs:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert lines


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_single_service_names_the_urls_that_it_needs(settings: Settings, home: Path) -> None:
    url = database_url(settings, DAGSTER)
    for role in ("webserver", "daemon"):
        ended = doceval("up", "--only", role, DOCEVAL_HOME=str(home), DAGSTER_POSTGRES_URL=url)
        assert ended.returncode == 1
        assert ended.stderr.strip() == (
            f"doceval up --only {role} needs databases of your own: set DOC_EVAL_URL and "
            "KNOWLEDGE_DOCUMENTS_URL, or run doceval up, which runs the embedded server"
        )
    assert list(home.iterdir()) == []


def test_only_a_webserver_of_its_own_listens_elsewhere() -> None:
    ended = doceval("up", "--host", "0.0.0.0")
    assert ended.returncode == 2
    assert "--host goes with --only webserver" in ended.stderr
