"""Plain Dagster commands in a fresh clone, with no variable set: the same instance as `doceval up`."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest
import yaml

from doceval_pipeline.batches.locks import LOCK_CLASS
from doceval_pipeline.dagster_home.configuration import SHIPPED
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.running import (
    doceval,
    free_port,
    graphql,
    query,
    read_json,
    running_up,
    status,
    until,
    write_evaluation,
)
from doceval_pipeline_tests.fresh_clone import environment_of, fresh_clone, git, run, set_up

pytestmark = pytest.mark.slow
MARK = "DOCEVAL_TEST_PROCESS"
# Advice of Dagster's that would contradict what make setup did, and warnings of our own code.
CONTRADICTIONS = (
    "PreviewWarning",
    "BetaWarning",
    "temporary directory",
    "To persist information",
    "will not be used to configure Dagster",
    "No dagster instance configuration file",
    "virtual environment does not match",
    "Traceback",
)
LAUNCH = """
    mutation ($selector: JobOrPipelineSelector!, $tags: [ExecutionTag!]) {
        launchRun(executionParams: {
            selector: $selector, runConfigData: {}, executionMetadata: {tags: $tags}
        }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
    }
"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
INSTANCE = "{ instance { info runQueuingSupported runLauncher { name } hasInfo } }"


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    # Not below pytest's own folder, whose path may be too long to hold sockets.
    folder = Path(tempfile.mkdtemp(prefix="doceval-clone-"))
    cloned = fresh_clone(folder)
    set_up(cloned)
    yield cloned
    EmbeddedServer(cloned / ".doceval").stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def partition(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved batch of 3 documents and 12 evaluations, whose partition is registered."""
    file = write_evaluation(tmp_path_factory.mktemp("evaluation"), "by habit")
    run(clone, "doceval", "apply", str(file))
    run(clone, "doceval", "stage", "by habit")
    return "batch-000001"


def _take_signals() -> None:
    """Make Ctrl-C count: where tests run in the background it is ignored, and a shell cannot undo that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def started(clone: Path, *command: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A command in a group of its own, with the signals of a terminal; it is ended whatever happens."""
    output = clone.parent / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=clone,
            env={**environment_of(clone), MARK: str(clone)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=_take_signals,
        )
    try:
        yield process, output
    finally:
        for left in marked(clone):
            with suppress(psutil.NoSuchProcess):
                left.kill()


def marked(clone: Path) -> list[psutil.Process]:
    """What was started below a command, but for the embedded server."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(clone) and "postgres" not in process.name():
                found.append(process)
    return found


def answers(port: str) -> bool:
    try:
        return bool(graphql(port, "{ version }"))
    except (OSError, ValueError):
        return False


def launch(port: str, partition: str, job: str, assets: list[str] | None = None) -> str:
    """Launch a run for a batch's partition; its id."""
    selector = {
        "repositoryLocationName": "doceval_pipeline",
        "repositoryName": "__repository__",
        "pipelineName": job,
        "assetSelection": None if assets is None else [{"path": [asset]} for asset in assets],
    }
    tags = [{"key": "dagster/partition", "value": partition}]
    launched = graphql(port, LAUNCH, selector=selector, tags=tags)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def state(port: str, run_id: str) -> str:
    return str(graphql(port, RUN, id=run_id)["runOrError"]["status"])


def all_become(port: str, runs: list[str], wanted: str) -> None:
    until(lambda: {state(port, run_id) for run_id in runs} == {wanted})


def assert_nothing_contradicts(said: str) -> None:
    assert [line for line in said.splitlines() if any(words in line for words in CONTRADICTIONS)] == []


def assert_clean(clone: Path) -> None:
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("command", "ending"),
    [(["dagster", "dev"], signal.SIGINT), (["dg", "dev"], signal.SIGKILL)],
    ids=["dagster dev, ended by Ctrl-C", "dg dev, killed with all that it started"],
)
def test_a_server_for_development_shows_and_does_what_doceval_up_does(
    clone: Path, partition: str, command: list[str], ending: signal.Signals
) -> None:
    port = str(free_port())
    with started(clone, *command, "--port", port) as (process, output):
        until(lambda: answers(port) or process.poll() is not None)
        info = yaml.safe_load(graphql(port, INSTANCE)["instance"]["info"])
        assert {info[name] for name in ("run_storage", "event_log_storage", "schedule_storage")} == {
            "PostgresRunStorage",
            "_EventLogStorage",
            "PostgresScheduleStorage",
        }
        expected = yaml.safe_load(SHIPPED.read_text())
        for block in ("concurrency", "run_monitoring", "telemetry"):
            assert info[block] == expected[block]
        before = query(clone / ".doceval", "SELECT count(*) FROM runs", database="dagster")[0][0]
        run_id = launch(port, partition, "__ASSET_JOB", ["batch_config_snapshot"])
        until(lambda: state(port, run_id) == "SUCCESS")
        os.killpg(process.pid, ending)
        process.wait(60)
        until(lambda: not marked(clone), 30)
    assert_nothing_contradicts(output.read_text())
    assert_clean(clone)
    # The history is the one of `doceval stage` and `doceval up`.
    runs = query(
        clone / ".doceval", "SELECT count(*), bool_and(status = 'SUCCESS') FROM runs", database="dagster"
    )
    assert runs == [(before + 1, True)]
    assert before >= 1
    assert [path.name for path in (clone / ".doceval" / "dagster").iterdir() if path.is_symlink()] == [
        "dagster.yaml"
    ]


def test_commands_that_end_need_no_variable_either(clone: Path, partition: str) -> None:
    module = ("-m", "doceval_pipeline.definitions")
    for command in (
        ("dagster", "definitions", "validate"),
        ("dg", "check", "defs"),
        ("dagster", "asset", "materialize", *module, "--select", "queue_rows", "--partition", partition),
        ("dg", "launch", "--assets", "queue_rows", "--partition", partition),
    ):
        assert_nothing_contradicts(run(clone, *command))
    assert "PostgresRunStorage" in run(clone, "dagster", "instance", "info")
    assert_clean(clone)
    assert len(query(clone / ".doceval", "SELECT 1 FROM llm_responses")) == 12


def test_where_dagster_finds_no_configuration_nothing_is_done_that_no_history_knows(clone: Path) -> None:
    """`dg launch` in a subfolder takes an instance that is thrown away."""
    command = ["dg", "launch", "--assets", "leaderboard"]
    environment = environment_of(clone)
    ended = subprocess.run(
        command, cwd=clone / "docs", env=environment, capture_output=True, text=True, check=False
    )
    assert "keeps no history of this run: start the command in the project's folder" in ended.stderr
    assert "STEP_SUCCESS" not in ended.stderr
    assert_clean(clone)


def test_another_home_has_a_history_of_its_own(clone: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="doceval-other-") as other:
        environment = {**environment_of(clone), "DOCEVAL_HOME": other}
        command = ["dg", "launch", "--assets", "leaderboard"]
        try:
            subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
            assert query(Path(other), "SELECT status FROM runs", database="dagster") == [("SUCCESS",)]
        finally:
            EmbeddedServer(Path(other)).stop()
    assert_clean(clone)


def test_a_database_that_cannot_be_reached_is_one_line(clone: Path) -> None:
    environment = {**environment_of(clone), "DAGSTER_POSTGRES_URL": "postgresql://u:secret@127.0.0.1:1/x"}
    ended = subprocess.run(
        ["dagster", "instance", "info"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: DAGSTER_POSTGRES_URL: cannot connect to x on 127.0.0.1:1")
    assert "secret" not in line


def test_doceval_down_ends_the_server_that_plain_commands_started(clone: Path) -> None:
    run(clone, "dagster", "run", "list")
    assert "stopped" in run(clone, "doceval", "down")
    assert not EmbeddedServer(clone / ".doceval").is_running()


def test_without_the_limit_two_runs_of_a_batch_at_once_do_no_harm_and_check_warns(tmp_path: Path) -> None:
    home, port = Path(tempfile.mkdtemp(prefix="doceval-nolimit-")), str(free_port())
    configuration = yaml.safe_load(SHIPPED.read_text())
    del configuration["concurrency"]["runs"]["tag_concurrency_limits"]
    (home / "dagster").mkdir()
    (home / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    environment = {"DOCEVAL_HOME": str(home)}
    try:
        applied = doceval("apply", str(write_evaluation(tmp_path, "twice")), **environment)
        assert applied.returncode == 0, applied.stderr
        for _ in running_up(home, port):
            until(lambda: query(home, "SELECT 1 FROM dynamic_partitions", database="dagster"))
            connection = psycopg2.connect(
                host=str(EmbeddedServer(home).sockets), user="postgres", dbname="doc_eval"
            )
            with closing(connection), connection.cursor() as cursor:
                # Both runs come as far as the batch's lock, which the test holds.
                cursor.execute("SELECT pg_advisory_lock(%s, 1)", [LOCK_CLASS])
                runs = [launch(port, "batch-000001", "stage_batch") for _ in range(2)]
                all_become(port, runs, "STARTED")
            all_become(port, runs, "SUCCESS")
            assert status(home, "twice")["status"] == "STAGED"
            assert query(home, "SELECT count(*), count(DISTINCT attempt) FROM llm_responses") == [(12, 1)]
            assert query(home, "SELECT count(*) FROM docs") == [(3,)]
            checked = doceval("check", **environment)
            assert checked.returncode == 0
            assert checked.stderr.count("does not limit runs to one per batch") == 1
            assert read_json("check", **environment) == []
    finally:
        EmbeddedServer(home).stop()
        shutil.rmtree(home)
