"""The real command line in a process of its own: what it prints, its exit codes, and its one line."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.cli import cli
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.names import printable
from doceval_pipeline_tests.cli.running import browser_that_notes, doceval, query, read_json, write_evaluation
from doceval_pipeline_tests.conftest import Sample, write_old

pytestmark = pytest.mark.usefixtures("databases")
PROJECT = Path(__file__).parents[2]
# Of `doceval documents --json`: a public interface.
DOCUMENT_KEYS = {"folder", "path", "state", "reason", "size", "sha256", "content_type", "stored_as"}


def test_the_commands_are_exactly_what_is_promised() -> None:
    assert set(cli.commands) == {
        "init",
        "up",
        "down",
        "env",
        "demo",
        "apply",
        "try",
        "stage",
        "status",
        "documents",
        "report",
        "export",
        "check",
        "simulate-processor",
        "conformance",
        "reprocess",
        "pause",
        "resume",
        "cancel",
        "plan",
        "compare",
        "archive",
        "restore",
        "open",
        "recurring",
        "list",
        "failures",
        "docs",
        "leaderboard",
    }


def test_status_without_batches_says_how_to_create_one() -> None:
    shown = doceval("status")
    assert shown.returncode == 0
    assert shown.stdout == (
        "no batches yet: create one with doceval apply evaluation.yaml, or see upcoming ones with "
        "doceval recurring list\n"
    )
    assert read_json("status") == []


def test_apply_says_what_it_changes_and_what_that_affects(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "Prüfung")
    (number,) = read_json("apply", str(file))["numbers"].values()
    content = json.loads(file.read_text())
    connection, prompt = content["connections"][0], content["prompts"][0]
    connection |= {"port": 8080, "prices": {"input_per_million": 2}}
    before, prompt["text"] = prompt["text"], "Something else?"
    content["batches"][0]["name"] = "Pru\u0308fung"
    file.write_text(json.dumps(content, ensure_ascii=False))
    changed = doceval("apply", str(file))
    key = f"batch-{number:06d}"
    assert changed.stdout.splitlines()[5:8] == [
        f"connection {connection['name']!r}: port none → 8080; affects {key}",
        f"connection {connection['name']!r}: prices none → "
        '{"currency": "USD", "input_per_million": 2.0, "output_per_million": null}; affects ' + key,
        f'prompt {prompt["name"]!r}: text {json.dumps(before)} → "Something else?"; affects {key}',
    ]
    connection["prices"] = None
    file.write_text(json.dumps(content))
    assert read_json("apply", str(file))["changes"] == [
        {
            "kind": "connection",
            "name": connection["name"],
            "key": "prices",
            "old": {"currency": "USD", "input_per_million": 2.0, "output_per_million": None},
            "new": None,
            "batches": [number],
            "recurring": [],
        }
    ]
    for word in ("Pru\u0308fung", "Pru\u0308*", "Prü*"):
        assert [batch["name"] for batch in read_json("status", word)] == ["Prüfung"]


def test_a_batch_goes_from_a_file_to_its_report(tmp_path: Path) -> None:
    file = str(write_evaluation(tmp_path, "q4"))
    applied = read_json("apply", file)
    assert applied["batches"]["created"] == ["q4"]
    assert applied["changed"] is True
    number = applied["numbers"]["q4"]
    assert read_json("apply", file)["changed"] is False
    assert "nothing changed" in doceval("apply", file).stdout

    staged = read_json("stage", "q4")
    assert (staged["files"], staged["notes"]) == ({"skipped": {}, "rejected": {}}, [])
    assert staged["cells"] == {
        "expected": 12,
        "waiting": 12,
        "running": 0,
        "paused": 0,
        "succeeded": 0,
        "failed": 0,
        "unknown": 0,
    }
    assert doceval("stage", str(number)).returncode == 0
    newest = "(SELECT run_id FROM runs ORDER BY id DESC LIMIT 1)"
    tags = query(
        Path(os.environ["DOCEVAL_HOME"]),
        f"SELECT key, value FROM run_tags WHERE run_id = {newest}",
        database="dagster",
    )
    assert {"doceval/batch": "q4", "dagster/priority": "10"}.items() <= dict(tags).items()
    (status,) = read_json("status")
    assert {key: status[key] for key in ("batch", "name", "status", "documents")} == {
        "batch": number,
        "name": "q4",
        "status": "STAGED",
        "documents": {"assigned": 0, "staged": 3, "skipped": 0, "rejected": 0, "distinct": 3},
    }
    files = read_json("documents", "q4")
    assert [file["path"] for file in files] == ["0.txt", "1.txt", "2.txt"]
    assert {file["content_type"] for file in files} == {"text/plain"}
    assert set(files[0]) == DOCUMENT_KEYS

    ended = doceval("simulate-processor", "--until-empty", "--latency", "0", "--failure-rate", "0.3")
    assert "no LLM was called" in ended.stdout
    assert "12 evaluations answered" in ended.stdout
    ended = doceval("open", "q4")
    assert (ended.returncode, ended.stderr.strip()) == (
        1,
        f"batch-{number:06d} has no report: run doceval report {number}",
    )
    browser, opened = browser_that_notes(tmp_path / "browser")
    report = read_json("report", "q4", "--open", BROWSER=browser)
    # No webserver runs.
    address = Path(report["path"]).as_uri()
    ended = doceval("open", str(number), BROWSER=browser)
    assert (ended.returncode, ended.stdout.strip()) == (0, address)
    assert opened.read_text().split() == [address, address]
    (status,) = read_json("status")
    assert (status["report"], status["report_url"]) == (report["path"], None)
    assert report["path"] in doceval("status").stdout
    assert Path(report["path"]).name.startswith(f"batch-{number:06d}")
    assert "no LLM was called" in Path(report["path"]).read_text()
    assert read_json("check") == []


def test_commands_that_stage_end_with_the_files_that_are_left_out_by_reason(tmp_path: Path) -> None:
    file = str(write_evaluation(tmp_path, "q4", documents=1, extra={"exclude": ["*.bak"]}))
    for name in (".a", ".b", "~$c.docx", "Thumbs.db", "d.bak", "e.BAK"):
        write_old(tmp_path / "documents" / name, "x")
    (tmp_path / "documents" / "empty").touch()
    left_out = "6 files skipped: 2 hidden, 2 temporary, 1 empty, 1 excluded by pattern"
    applied = doceval("apply", file, "--stage")
    assert f"found now: 2 usable files; {left_out}\n" in applied.stdout
    assert "such as 'e.BAK': add to exclude: '*.BAK'" in applied.stderr
    staged = doceval("stage", "q4")
    assert staged.stdout.endswith(f"2 documents staged, 8 of 8 evaluations queued; {left_out}\n")
    assert "such as 'e.BAK': create a batch with another name whose exclude has '*.BAK'" in staged.stderr
    (tmp_path / "documents" / "f.bak").touch()
    reprocessed = read_json("reprocess", "q4", "--rescan")
    skipped = {"excluded by pattern": 2, "hidden": 2, "temporary": 2, "empty": 1}
    assert reprocessed["files"] == {"skipped": skipped, "rejected": {}}


def test_a_batch_is_paused_resumed_cancelled_and_reprocessed(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    assert "is SAVED and has nothing to reprocess" in doceval("reprocess", "q4").stderr
    doceval("stage", "q4")
    assert read_json("pause", "q4")["done"] == {"rows_held": 12}
    assert "STAGED: 12 rows released" in doceval("resume", "q4").stdout
    assert "cannot be resumed: possible now: pause, cancel" in doceval("resume", "q4").stderr
    assert read_json("cancel", "q4")["done"] == {"rows_closed": 12}
    again = read_json("reprocess", "q4", "--failed")
    assert again["done"]["new_attempts"] == 12
    (tmp_path / "documents" / "late.txt").write_text("late")
    assert read_json("reprocess", "q4", "--rescan")["done"]["files_new"] == 1
    assert again["cells"]["waiting"] == 12


def test_a_plan_tells_what_would_be_done_and_what_it_would_take(tmp_path: Path, databases: Databases) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    shown = doceval("plan", "q4")
    assert shown.returncode == 0, shown.stderr
    assert "3 to store" in shown.stdout
    assert "12 (12 new bytes)" in shown.stdout
    assert "none finished yet: rough figures from the sizes of documents" in shown.stdout
    assert "with 3 documents no difference between models will show" in shown.stderr
    assert read_json("status", "q4")[0]["status"] == "SAVED"
    doceval("stage", "q4")
    doceval("simulate-processor", "--until-empty", "--latency", "0")
    poll(databases)
    again = read_json("plan", "q4", "--all")
    assert again["cells"]["superseded"] == {"succeeded": 12, "failed": 0}
    assert [e["experience"] for e in again["estimates"]] == [6, 6]
    assert len(again["estimates"][0]["input_tokens"]) == 3
    assert "stage it first" not in doceval("plan", "q4", "--rescan").stderr


def test_the_status_shows_throughput_and_stalls(tmp_path: Path, databases: Databases) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4", documents=10)))
    doceval("stage", "q4")
    poll(databases)
    with databases.doc_eval.begin() as connection:
        connection.execute(text("UPDATE batch_progress SET observed_at = now() - interval '10 minutes'"))
    (stalled,) = read_json("status", "q4")
    assert stalled["movement"]["movement"] == "nobody takes rows"
    assert "40 rows waiting, and no row was taken for 10 min" in doceval("status").stderr
    with databases.knowledge.begin() as connection:
        connection.execute(
            text("UPDATE llm_responses SET status = 'S' WHERE id IN (SELECT id FROM llm_responses LIMIT 20)")
        )
    poll(databases)
    (moving,) = read_json("status", "q4")
    assert moving["pace"]["cells_per_hour"] == pytest.approx(120, rel=0.05)
    low, high = moving["pace"]["seconds_left"]
    assert low < 600 < high
    assert "min to" in doceval("status").stdout


def test_a_changed_sealed_batch_is_refused_with_what_to_do(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    doceval("stage", "q4")
    ended = doceval("apply", str(write_evaluation(tmp_path, "q4", extra={"description": "other"})))
    assert ended.returncode == 1
    assert "sealed" in ended.stderr
    assert "give the changed batch a new name" in ended.stderr


def test_an_audit_that_finds_something_fails(tmp_path: Path, databases: Databases) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    doceval("stage", "q4")
    with databases.knowledge.begin() as connection:
        connection.exec_driver_sql("DELETE FROM batch_configs")
    ended = doceval("check")
    assert ended.returncode == 1
    # A long number of a batch wraps the line.
    heading, line, *_ = ended.stdout.strip().splitlines()
    assert re.split(r"\s{2,}", heading.strip()) == ["invariant", "batch", "problem", "what to do"]
    assert "both databases hold the same sealed configuration" in line
    ended = doceval("check", "--json")
    assert ended.returncode == 1
    (found,) = json.loads(ended.stdout)
    number = int(found["batch"].removeprefix("batch-"))
    assert found == {
        "invariant": "both databases hold the same sealed configuration",
        "batch": f"batch-{number:06d}",
        "problem": "batch_configs: the configuration is missing",
        "mend": f"run doceval stage {number} to write a missing one; "
        "a different one was written by another program",
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stage", "nobody"], "batch 'nobody' does not exist: doceval list shows the batches"),
        (["status", "4711"], "batch '4711' does not exist"),
        (["documents", "x\x1b[31m"], "does not exist"),
        (["report", "nobody"], "batch 'nobody' does not exist"),
        (["apply", "none.yaml"], "none.yaml: does not exist: check the path"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(arguments: list[str], line: str) -> None:
    ended = doceval(*arguments)
    assert ended.returncode == 1
    assert line in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "\x1b[31m" not in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_mistakes_of_a_file_are_told_without_a_database(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "q4")
    file.write_text(file.read_text().replace('"model"', '"modl"'))
    ended = doceval("apply", str(file), DOC_EVAL_URL="postgresql+psycopg2://u:p@127.0.0.1:9/x")
    assert ended.returncode == 1
    assert "modl: is not a known key: did you mean model?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_is_the_same_file_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "inside"
    folder.mkdir(parents=True)
    file = write_evaluation(folder, "linked")
    assert read_json("apply", str(file))["batches"]["created"] == ["linked"]
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "e.yaml").symlink_to(f"link/{file.name}")
    for spelling in (
        f"{tmp_path}/link/{file.name}",
        f"{tmp_path}/link/../inside/{file.name}",
        f"{tmp_path}/e.yaml",
    ):
        assert read_json("apply", spelling)["changed"] is False


@pytest.mark.parametrize(
    "arguments", [("apply", "~nobody-of-this-name/e.yaml"), ("restore", "~nobody-of-this-name/a.zip")]
)
def test_a_home_folder_that_nobody_has_is_told_in_one_line(arguments: tuple[str, ...]) -> None:
    ended = doceval(*arguments)
    assert ended.returncode == 1
    assert "no home folder is known for '~nobody-of-this-name'" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_staging_that_fails_says_why_in_one_line_and_status_repeats_it(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "empty one", documents=0)))
    ended = doceval("stage", "empty one")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "has no usable document (the folders are empty)" in ended.stderr
    shown = doceval("status")
    assert "FAILED_STAGING" in shown.stdout
    assert "has no usable document" in shown.stderr


def test_a_browser_that_cannot_be_started_is_said_in_one_line_that_names_the_report(
    tmp_path: Path, batch_of: Callable[..., Sample]
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    report = write_report(batch.databases, batch.id).path
    # Not even one of the terminal.
    ended = doceval("open", batch.key, BROWSER="/nowhere/browser %s", PATH=str(tmp_path), DISPLAY="")
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"cannot start a browser: open {report.as_uri()} yourself"


def test_a_report_before_staging_is_refused(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "new")))
    ended = doceval("report", "new")
    assert ended.returncode == 1
    assert "is SAVED and has no results to report: stage it first" in ended.stderr


@pytest.mark.parametrize("variable", ["DOC_EVAL_URL", "KNOWLEDGE_DOCUMENTS_URL", "DAGSTER_POSTGRES_URL"])
def test_an_unreachable_database_is_named_by_its_variable_without_the_password(
    variable: str, tmp_path: Path
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "new")))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hunter2@127.0.0.1:{unused.getsockname()[1]}/db"
        ended = doceval("stage", "new", **{variable: url})
    assert ended.returncode == 1
    assert variable in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "hunter2" not in ended.stderr + ended.stdout


def test_a_command_in_a_deleted_folder_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "new")))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert doceval("status").returncode == 0
    for command in ("stage", "report"):
        ended = doceval(command, "new")
        assert (ended.returncode, ended.stderr) == (
            1,
            "the current folder was deleted: change to one that exists, and repeat the command\n",
        )


def test_a_wrong_password_is_told_and_not_printed(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "guarded")
    server.ensure()
    try:
        with psycopg2.connect(host=str(server.sockets), user="postgres", dbname="postgres") as connection:
            connection.cursor().execute("ALTER ROLE postgres PASSWORD 'right'")
        (server.data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
        with psycopg2.connect(
            host=str(server.sockets), user="postgres", dbname="postgres", password="right"
        ) as c:
            c.cursor().execute("SELECT pg_reload_conf()")
        url = f"postgresql://postgres:hunter2@/postgres?host={server.sockets}"
        ended = doceval("status", KNOWLEDGE_DOCUMENTS_URL=url)
    finally:
        server.stop()
    assert ended.returncode == 1
    assert "KNOWLEDGE_DOCUMENTS_URL: cannot connect to" in ended.stderr
    assert "password authentication failed" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_each_url_overrides_the_embedded_server_on_its_own(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "elsewhere")
    server.ensure()
    server.ensure_database("other")
    try:
        url = server.url("other")
        shown = read_json("init", KNOWLEDGE_DOCUMENTS_URL=url)
        assert shown["KnowledgeDocuments"].startswith("other on")
        assert shown["doc_eval"].startswith("doc_eval on")
        file = write_evaluation(tmp_path, "elsewhere")
        doceval("apply", str(file), KNOWLEDGE_DOCUMENTS_URL=url)
        assert doceval("stage", "elsewhere", KNOWLEDGE_DOCUMENTS_URL=url).returncode == 0
        with psycopg2.connect(host=str(server.sockets), user="postgres", dbname="other") as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM llm_responses")
            assert cursor.fetchone() == (12,)
    finally:
        server.stop()


def test_init_makes_the_roles_and_a_second_time_changes_nothing() -> None:
    for _ in range(2):
        assert set(read_json("init", "--roles")["roles"]) == {
            "doceval_owner",
            "doceval_stager",
            "doceval_worker",
            "doceval_plain_worker",
            "doceval_reader",
        }
    assert "GRANT doceval_worker TO" in doceval("init", "--roles").stdout


def test_plain_dagster_commands_work_in_a_shell_that_evaluated_env() -> None:
    exports = doceval("env").stdout
    assert [line.split("=")[0] for line in exports.splitlines()] == [
        f"export {name}"
        for name in (
            "DOCEVAL_HOME",
            "DOC_EVAL_URL",
            "KNOWLEDGE_DOCUMENTS_URL",
            "DAGSTER_POSTGRES_URL",
            "DAGSTER_HOME",
        )
    ]
    scripts = Path(sys.executable).parent
    for command in ("dagster definitions validate", "dg check defs"):
        ended = subprocess.run(
            ["bash", "-c", f'eval "$({shlex.quote(str(scripts / "doceval"))} env)" && {scripts}/{command}'],
            capture_output=True,
            text=True,
            cwd=PROJECT,
            timeout=120,
            check=False,
            env=os.environ,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_file_names_cannot_control_the_terminal(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "q4")
    (tmp_path / "documents" / "red\x1b[31m\n\u202egnp.exe").write_text("x")
    doceval("apply", str(file))
    doceval("stage", "q4")
    shown = doceval("documents", "q4").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\x1b[31m\n\u202egnp.exe" in shown.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ä 🗎", "plain ä 🗎"), ("a\x1b[0m", r"a\x1b[0m"), ("a\u202eb", r"a\u202eb"), ("\n", r"\n")],
)
def test_what_is_not_printable_is_written_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
