"""Runs on real Celery workers over a real Redis: they work side by side, die, and are cancelled."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg2
import pytest

from doceval_pipeline.batches.databases import _reachable_engine
from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline_tests.cli.running import graphql, until, write_evaluation
from doceval_pipeline_tests.outsiders.celery_installation import (
    REDIS_PASSWORD,
    CeleryInstallation,
    celery_installation,
    kill,
)
from doceval_pipeline_tests.outsiders.debian_server import PASSWORD, DebianServer

pytestmark = pytest.mark.outsiders
# The longest time after which a run of a dead worker is reported as failed.
SECONDS_TO_FREE = 90
RUNS = """
    query ($tags: [ExecutionTag!]) {
        runsOrError(filter: {tags: $tags}) { ... on Runs { results { id status } } }
    }
"""
EVENTS = "SELECT event FROM event_logs WHERE run_id = '{}'"
LOCK = "SELECT 1 FROM live_runs WHERE run_id = '{}'"
QUEUED = EVENTS + " AND dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key LIKE '%queue_rows%'"
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"


@pytest.fixture(scope="module")
def installation(debian_server: DebianServer) -> Iterator[CeleryInstallation]:
    with celery_installation(debian_server) as installed:
        yield installed


def stage(installation: CeleryInstallation, folder: Path, name: str) -> int:
    """Request the staging of a new batch; its number."""
    ended = installation.doceval("apply", str(write_evaluation(folder / name, name)), "--stage", "--json")
    assert ended.returncode == 0, ended.stderr
    return int(status(installation, name)["batch"])


def status(installation: CeleryInstallation, name: str) -> Any:
    ended = installation.doceval("status", name, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)[0]


def check(installation: CeleryInstallation) -> None:
    """No invariant is violated."""
    checked = installation.doceval("check")
    assert checked.returncode == 0, checked.stdout


def runs(installation: CeleryInstallation, batch: int) -> list[dict[str, str]]:
    """The runs of a batch, newest first."""
    tags = [{"key": "dagster/partition", "value": partition_key(batch)}]
    found: list[dict[str, str]] = graphql(installation.port, RUNS, tags=tags)["runsOrError"]["results"]
    return found


@contextmanager
def documents_locked(server: DebianServer) -> Iterator[None]:
    """While it lasts, no run can store a document."""
    opened = psycopg2.connect(server.url("celery_KnowledgeDocuments").replace("+psycopg2", ""))
    with closing(opened) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def process_of(server: DebianServer, batch: int) -> str | None:
    """The process of the run that works on a batch."""
    rows = server.execute(f"SELECT process FROM live_runs WHERE batch_id = {batch}", "celery_doc_eval")
    return rows[0][0] if rows else None


def test_two_batches_are_staged_side_by_side_on_two_workers(
    installation: CeleryInstallation, debian_server: DebianServer, tmp_path: Path
) -> None:
    with installation.worker("one"), installation.worker("two"):
        with documents_locked(debian_server):
            batches = [stage(installation, tmp_path, name) for name in ("left", "right")]
            until(lambda: all(process_of(debian_server, batch) for batch in batches))
            assert len({process_of(debian_server, batch) for batch in batches}) == 2
        for name in ("left", "right"):
            until(lambda name=name: status(installation, name)["status"] == "STAGED")
    check(installation)


def test_a_worker_that_is_killed_frees_its_batch_for_another_worker(
    installation: CeleryInstallation, debian_server: DebianServer, tmp_path: Path
) -> None:
    with installation.worker("dying") as dying, documents_locked(debian_server):
        batch = stage(installation, tmp_path, "killed")
        until(lambda: process_of(debian_server, batch))
        kill(dying)
    until(lambda: [run["status"] for run in runs(installation, batch)] == ["FAILURE"], SECONDS_TO_FREE)
    with installation.worker("next"):
        stage(installation, tmp_path, "killed")
        until(lambda: status(installation, "killed")["status"] == "STAGED")
    check(installation)


def test_a_run_that_is_cancelled_in_the_ui_ends_as_cancelled(
    installation: CeleryInstallation, debian_server: DebianServer, tmp_path: Path
) -> None:
    with installation.worker("patient"):
        with documents_locked(debian_server):
            batch = stage(installation, tmp_path, "cancelled")
            until(lambda: process_of(debian_server, batch))
            (run,) = runs(installation, batch)
            answer = graphql(installation.port, TERMINATE, id=run["id"])
            assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess", answer
        # The staging was requested, so that a later run may have begun already.
        until(lambda: {"id": run["id"], "status": "CANCELED"} in runs(installation, batch))
        until(lambda: not debian_server.execute(LOCK.format(run["id"]), "celery_doc_eval"))
    assert not debian_server.execute(QUEUED.format(run["id"]), "celery_dagster")


def test_no_password_is_in_events_files_or_command_lines(
    installation: CeleryInstallation, debian_server: DebianServer, tmp_path: Path
) -> None:
    secrets = (PASSWORD, REDIS_PASSWORD)
    with installation.worker("discreet") as worker:
        batch = stage(installation, tmp_path, "discreet")
        until(lambda: status(installation, "discreet")["status"] == "STAGED")
        (run,) = runs(installation, batch)
        parent = psutil.Process(worker.pid)
        files = [path for path in installation.folder.rglob("*") if path.is_file()]
        shown = [path.read_text(errors="replace") for path in files]
        shown += [" ".join(process.cmdline()) for process in (parent, *parent.children())]
        shown += [str(row) for row in debian_server.execute(EVENTS.format(run["id"]), "celery_dagster")]
        shown += [str(row) for row in debian_server.execute("SELECT run_body FROM runs", "celery_dagster")]
    assert any(run["id"] in text for text in shown)
    assert not [text for text in shown if any(secret in text for secret in secrets)]


def test_a_machine_that_is_gone_loses_its_locks_within_half_a_minute(debian_server: DebianServer) -> None:
    database = f"gone_{uuid4().hex[:8]}"
    debian_server.make_database(database)
    engine = _reachable_engine(debian_server.url(database), "DOC_EVAL_URL")
    names = ("idle", "interval", "count")
    with engine.connect() as connection:
        idle, interval, count = (
            int(connection.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar_one()) for name in names
        )
    engine.dispose()
    assert idle + interval * count <= 30
