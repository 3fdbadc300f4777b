"""`doceval up` with Dagster's real daemon: sensors, run queue, the report by itself, and a clean end."""

import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from doceval_pipeline.cli.supervision import supervisor
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import (
    browser_that_notes,
    doceval,
    query,
    running_up,
    status,
    until,
    write_evaluation,
)

PORT = "3917"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Not below pytest's own folder, whose path may be too long to hold sockets.
    folder = Path(tempfile.mkdtemp(prefix="doceval-up-"))
    yield folder
    EmbeddedServer(folder).stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator["subprocess.Popen[str]"]:
    yield from running_up(home, PORT)


def test_a_batch_applied_with_stage_is_staged_completed_and_reported_by_itself(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path
) -> None:
    """An outside process that knows nothing of Dagster writes S and F in all the ways it may."""
    file = write_evaluation(tmp_path, "by itself", documents=2)
    doceval("apply", str(file), "--stage", DOCEVAL_HOME=str(home))
    until(lambda: status(home, "by itself")["status"] == "STAGED")
    rows = [row[0] for row in query(home, "SELECT id FROM llm_responses ORDER BY id")]
    query(home, "UPDATE llm_responses SET status = 'S', overall_score = 0 WHERE id = %s", rows[0])
    query(home, "UPDATE llm_responses SET status = 'P', task_id = 't' WHERE id = %s", rows[1])
    until(lambda: status(home, "by itself")["status"] == "ANALYZING")
    query(home, "UPDATE llm_responses SET status = 'F', error_message = 'no' WHERE task_id = 't'")
    query(home, "UPDATE llm_responses SET status = 'S', overall_score = 80 WHERE status = 'QUEUED'")
    number = (
        until(lambda: status(home, "by itself")["status"] == "COMPLETED")
        and status(home, "by itself")["batch"]
    )
    (report,) = until(lambda: list((home / "reports").glob(f"batch-{number:06d}-*.html")))
    assert "1 of 8 evaluations failed" in report.read_text()

    # A late change gives a second report, and the same state never a second one.
    query(home, "UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE task_id = 't'")
    until(lambda: len(list((home / "reports").glob(f"batch-{number:06d}-*.html"))) == 2)
    assert status(home, "by itself")["cells"]["succeeded"] == 8
    dagster = EmbeddedServer(home).url("dagster").replace("+psycopg2", "")
    connection = psycopg2.connect(dagster)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pipeline_name, count(*) FROM runs GROUP BY 1 ORDER BY 1")
        assert cursor.fetchall() == [("report_batch", 2), ("stage_batch", 1)]
    connection.close()


def test_the_newest_report_opens_through_the_webserver(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path
) -> None:
    found = status(home, "by itself")
    newest = max(
        (home / "reports").glob(f"{found['partition']}-*.html"), key=lambda file: file.stat().st_mtime
    )
    assert found["report"] == str(newest)
    assert found["report_url"] == f"http://127.0.0.1:{PORT}/reports/{newest.name}"
    assert found["report_url"] in doceval("status", DOCEVAL_HOME=str(home)).stdout
    browser, opened = browser_that_notes(tmp_path)
    ended = doceval(
        "open", "by itself", DOCEVAL_HOME=str(home), BROWSER=browser, http_proxy="http://127.0.0.1:1"
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, found["report_url"])
    assert opened.read_text().split() == [found["report_url"]]
    with urllib.request.urlopen(found["report_url"], timeout=10) as answer:
        assert answer.read() == newest.read_bytes()
        assert "sandbox allow-scripts" in answer.headers["Content-Security-Policy"]


def test_a_batch_whose_folder_vanished_becomes_failed_staging(
    up: "subprocess.Popen[str]", home: Path, tmp_path: Path
) -> None:
    file = write_evaluation(tmp_path, "vanished")
    doceval("apply", str(file), DOCEVAL_HOME=str(home))
    shutil.rmtree(tmp_path / "documents")
    doceval("apply", str(file), "--stage", DOCEVAL_HOME=str(home))
    assert doceval("stage", "vanished", DOCEVAL_HOME=str(home)).returncode == 1
    found = status(home, "vanished")
    assert found["status"] == "FAILED_STAGING"
    assert "does not exist" in found["reason"]


def test_the_webserver_answers_on_loopback_only(up: "subprocess.Popen[str]") -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/server_info", timeout=10) as answer:
        assert answer.status == 200
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1"}


def test_the_webserver_does_nothing_for_a_page_of_another_site(up: "subprocess.Popen[str]") -> None:
    """Dagster takes mutations by GET: without this, the address of a picture could start a run."""
    mutation = f"http://127.0.0.1:{PORT}/graphql?query=mutation%7BsetNuxSeen%7D"
    foreign = {"Sec-Fetch-Site": "cross-site"}
    for headers, refusal in ((foreign, 403), ({"Host": "[::1"}, 403), ({}, 405)):
        with pytest.raises(urllib.error.HTTPError, match=str(refusal)):
            urllib.request.urlopen(urllib.request.Request(mutation, headers=headers), timeout=10)
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/graphql?query=%7Bversion%7D", timeout=10) as answer:
        assert answer.status == 200


def test_a_second_up_on_the_same_home_is_refused(up: "subprocess.Popen[str]", home: Path) -> None:
    ended = doceval("up", "--port", "3918", DOCEVAL_HOME=str(home))
    assert ended.returncode == 1
    assert f"doceval up already runs for {home} (pid {up.pid}, http://127.0.0.1:{PORT}): " in ended.stderr


def test_a_killed_database_server_comes_back(up: "subprocess.Popen[str]", home: Path) -> None:
    server = EmbeddedServer(home)
    psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0])).kill()
    until(server.is_running)
    assert up.poll() is None


def test_down_leaves_no_process_behind(up: "subprocess.Popen[str]", home: Path) -> None:
    started = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
    assert len(started) >= 3
    assert "stopped" in doceval("down", DOCEVAL_HOME=str(home)).stdout
    assert up.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not EmbeddedServer(home).is_running()
    assert "nothing was running" in doceval("down", DOCEVAL_HOME=str(home)).stdout


def test_a_schedule_that_cannot_be_read_is_said_in_one_line_before_anything_starts(home: Path) -> None:
    ended = doceval("up", "--port", PORT, DOCEVAL_HOME=str(home), DOCEVAL_AUDIT_CRON="at night")
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "DOCEVAL_AUDIT_CRON: 'at night' is not a valid cron expression: write five fields such as '0 2 * * *'"
    )


def test_a_log_that_is_too_long_is_moved_aside_while_its_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_LIMIT", 10)
    log = tmp_path / "daemon.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"0123456789")
        supervisor.keep_short(log)
        assert log.read_bytes() == b"0123456789"
        writer.write(b"!")
        supervisor.keep_short(log)
        writer.write(b"next")
    assert log.read_bytes() == b"next"
    assert (tmp_path / "daemon.log.1").read_bytes() == b"0123456789!"


def test_a_taken_port_is_said_in_one_line(home: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = doceval("up", "--port", str(taken.getsockname()[1]), DOCEVAL_HOME=str(home))
    assert ended.returncode == 1
    assert "is taken by another program: doceval up --port" in ended.stderr
    assert ended.stderr.count("\n") == 1
