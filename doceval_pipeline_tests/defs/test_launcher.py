"""Runs that a warm process starts: each has its own process and its own end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    GrpcServerCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from doceval_pipeline.defs import launcher
from doceval_pipeline.defs.instance import open_instance
from doceval_pipeline.defs.launcher import SOCKET_TAG, WarmRunLauncher, _runs_here
from doceval_pipeline.defs.requests import UNFINISHED
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.defs import launched

MODULE = launched.__name__
ROOT = Path(__file__).parents[2]
# What a run over a batch does not need, and would take longer to load than the run takes.
HEAVY = {"alembic", "httpx", "jinja2", "numpy", "pyarrow", "rich", "scipy", "starlette", "xlsxwriter"}
# What each run loads after the fork: the project as it is on disk.
IMPORTED_BY_RUN = """
import json, sys
from importlib import import_module
from doceval_pipeline.defs.warm import LIBRARIES
for library in LIBRARIES:
    import_module(library)
before = set(sys.modules)
import doceval_pipeline.definitions
doceval_pipeline.definitions.defs()
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The tests' instance, with one warm process for all tests."""
    before = dict(os.environ)
    with open_instance(settings) as opened:
        # Runs that other tests left and nobody executes would take the queue's places.
        for run in opened.get_runs(dg.RunsFilter(statuses=list(UNFINISHED))):
            opened.report_run_canceled(run)
        yield opened
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def folder(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[Path]:
    """Where runs say that they began; those that still wait are let go after the test."""
    yield tmp_path
    let_go(tmp_path)
    unfinished = dg.RunsFilter(job_name=launched.waiting.name, statuses=IN_PROGRESS_RUN_STATUSES)
    until(lambda: not instance.get_runs_count(unfinished))


def let_go(folder: Path) -> None:
    (folder / "go").touch()


def made(
    instance: dg.DagsterInstance,
    folder: Path,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTING,
    location: CodeLocationOrigin | None = None,
    python: str = sys.executable,
    partition: str | None = None,
) -> dg.DagsterRun:
    """A run of the job that waits, as a daemon finds it."""
    pointer = ModuleCodePointer(MODULE, "defs", str(ROOT))
    code = RepositoryPythonOrigin(python, pointer, entry_point=DEFAULT_DAGSTER_ENTRY_POINT)
    target = LoadableTargetOrigin(executable_path=python, module_name=MODULE)
    origin = location or ManagedGrpcPythonEnvCodeLocationOrigin(target, MODULE)
    return instance.create_run_for_job(
        launched.waiting,
        status=status,
        run_config={"ops": {"wait": {"config": {"folder": str(folder)}}}},
        tags={"dagster/partition": partition} if partition else None,
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(origin, "__repository__"), "waiting"),
        job_code_origin=JobPythonOrigin("waiting", code),
    )


def launch(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.run_launcher.launch_run(LaunchRunContext(run, None))


def began(folder: Path, run: dg.DagsterRun) -> dict[str, Any]:
    """What a run says of itself once it waits."""
    until(lambda: (folder / run.run_id).exists())
    return dict(json.loads((folder / run.run_id).read_text()))


def socket_of(run: dg.DagsterRun | None) -> Path:
    """The socket through which a run can be stopped."""
    assert run is not None
    return Path(run.tags[SOCKET_TAG].partition(" ")[2])


def ended(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """How a run ended, once it has."""

    def status() -> str | None:
        found = instance.get_run_by_id(run.run_id)
        return found.status.value if found is not None and found.is_finished else None

    return str(until(status))


def is_gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_runs_are_processes_of_their_own_that_one_process_starts(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    assert type(instance.run_launcher) is WarmRunLauncher  # as dagster.yaml says
    runs = [made(instance, folder) for _ in range(3)]
    # As a daemon does with dequeue_use_threads.
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda run: launch(instance, run), runs))
    found = [began(folder, run) for run in runs]
    assert len({said["pid"] for said in found}) == 3
    assert len({said["parent"] for said in found}) == 1
    let_go(folder)
    assert [ended(instance, run) for run in runs] == ["SUCCESS"] * 3
    until(lambda: all(is_gone(said["pid"]) for said in found))


def test_the_process_that_forks_has_one_thread_and_opens_nothing(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    run = made(instance, folder)
    launch(instance, run)
    warm = psutil.Process(began(folder, run)["parent"])
    assert warm.num_threads() == 1
    # No database and no channel: only the socket on which it is asked.
    assert len(warm.net_connections("all")) == 1
    # It starts threads of its own.
    assert "numpy" not in began(folder, run)["modules"]


def test_a_run_that_is_started_twice_runs_once(instance: dg.DagsterInstance, folder: Path) -> None:
    run = made(instance, folder)
    launch(instance, run)
    first = began(folder, run)
    launch(instance, run)
    let_go(folder)
    assert ended(instance, run) == "SUCCESS"
    assert began(folder, run) == first


def test_a_run_whose_process_is_killed_is_reported_with_the_reason(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    killed, other = made(instance, folder), made(instance, folder)
    launch(instance, killed)
    launch(instance, other)
    began(folder, other)
    os.kill(began(folder, killed)["pid"], signal.SIGKILL)
    assert ended(instance, killed) == "FAILURE"
    said = [event.message for event in instance.all_logs(killed.run_id)]
    assert any("SIGKILL" in message for message in said)
    let_go(folder)
    assert ended(instance, other) == "SUCCESS"


def test_another_process_can_terminate_a_run(
    settings: Settings, instance: dg.DagsterInstance, folder: Path
) -> None:
    run = made(instance, folder)
    launch(instance, run)
    process = began(folder, run)["pid"]
    # The webserver has a launcher of its own, which has started nothing.
    with dg.DagsterInstance.from_ref(instance.get_ref()) as webserver:
        assert webserver.run_launcher.terminate(run.run_id)
    assert ended(instance, run) == "CANCELED"
    until(lambda: is_gone(process))
    assert not instance.run_launcher.terminate(run.run_id)


def test_a_run_whose_starter_is_gone_or_silent_cannot_be_terminated(
    instance: dg.DagsterInstance, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(instance, folder, status=dg.DagsterRunStatus.STARTED)
    instance.add_run_tags(run.run_id, {SOCKET_TAG: f"{run.run_id} {folder / 'nobody'}"})
    assert not instance.run_launcher.terminate(run.run_id)
    # A tag that somebody gave to a run, with a socket that takes connections and answers none.
    monkeypatch.setattr(launcher, "STOP_TIMEOUT_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(folder / "s"))
        stranger.listen()
        instance.add_run_tags(run.run_id, {SOCKET_TAG: f"{run.run_id} {folder / 's'}"})
        assert not instance.run_launcher.terminate(run.run_id)
    instance.report_run_canceled(run)


def test_a_run_that_got_its_tags_from_another_is_terminated_as_dagster_does(
    instance: dg.DagsterInstance, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(instance, folder, status=dg.DagsterRunStatus.STARTED)
    instance.add_run_tags(run.run_id, {SOCKET_TAG: f"another-run {folder / 'nobody'}"})
    monkeypatch.setattr(dg.DefaultRunLauncher, "terminate", lambda _, run_id: run_id == run.run_id)
    assert instance.run_launcher.terminate(run.run_id)
    instance.report_run_canceled(run)


def test_a_start_that_gets_no_answer_or_no_process_goes_back_into_the_queue(
    instance: dg.DagsterInstance, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(instance, folder)
    with monkeypatch.context() as patched:
        patched.setattr(launcher, "_request", lambda *_: None)
        with pytest.raises(DagsterUserCodeUnreachableError, match="did not start run"):
            launch(instance, run)
    monkeypatch.setattr(launcher.tempfile, "mkdtemp", _no_room)
    with dg.DagsterInstance.from_ref(instance.get_ref()) as other:  # noqa: SIM117 - one statement may raise
        with pytest.raises(DagsterUserCodeUnreachableError, match="could not be started"):
            launch(other, run)
    instance.report_run_canceled(run)


def _no_room(**_: str) -> str:
    raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_a_warm_process_that_was_killed_is_replaced_and_its_runs_go_on(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    first, second = made(instance, folder), made(instance, folder)
    launch(instance, first)
    warm = began(folder, first)["parent"]
    os.kill(warm, signal.SIGKILL)
    until(lambda: is_gone(warm))
    launch(instance, second)
    assert began(folder, second)["parent"] != warm
    assert not socket_of(instance.get_run_by_id(first.run_id)).parent.exists()
    let_go(folder)
    assert (ended(instance, first), ended(instance, second)) == ("SUCCESS", "SUCCESS")


@pytest.mark.slow
def test_the_warm_process_ends_with_its_last_run_once_its_parent_has_gone(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    run = made(instance, folder)
    with dg.DagsterInstance.from_ref(instance.get_ref()) as daemon:
        launch(daemon, run)
        warm = began(folder, run)["parent"]
    assert not is_gone(warm)
    let_go(folder)
    assert ended(instance, run) == "SUCCESS"
    until(lambda: is_gone(warm))
    assert not socket_of(instance.get_run_by_id(run.run_id)).parent.exists()


def test_a_program_that_says_nothing_or_goes_away_stops_no_other(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    run, other = made(instance, folder), made(instance, folder)
    launch(instance, run)
    address = socket_of(instance.get_run_by_id(run.run_id))
    for words in (b"", b"no request\n", b"{}\n", b'{"stop": "no run"}\n', b'{"start": "\xff'):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(address))
            stranger.sendall(words)
    launch(instance, other)
    assert began(folder, other)["parent"] == began(folder, run)["parent"]


def test_a_code_location_with_a_server_or_a_python_of_its_own_is_launched_as_dagster_does(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    def is_warm(**options: Any) -> bool:
        run = made(instance, folder, dg.DagsterRunStatus.NOT_STARTED, **options)
        assert run.job_code_origin is not None
        return _runs_here(run, run.job_code_origin)

    assert is_warm()
    assert not is_warm(python="/opt/other/bin/python")
    assert not is_warm(location=GrpcServerCodeLocationOrigin("localhost", port=4000))


def test_two_runs_of_one_partition_are_never_launched_side_by_side(
    instance: dg.DagsterInstance, folder: Path
) -> None:
    queued = dg.DagsterRunStatus.QUEUED
    one, again = (made(instance, folder, queued, partition="batch-000001") for _ in range(2))
    other = made(instance, folder, queued, partition="batch-000002")
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    assert instance.run_coordinator.dequeue_use_threads  # type: ignore[attr-defined]
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace, daemon:

        def statuses() -> list[str]:
            list(daemon.run_iteration(workspace))
            found = [instance.get_run_by_id(run.run_id) for run in (one, again, other)]
            return [run.status.value for run in found if run is not None]

        first = statuses()
        assert first[1] == "QUEUED"
        assert {first[0], first[2]} <= {"STARTING", "STARTED"}
        began(folder, one), began(folder, other)
        assert statuses()[1] == "QUEUED"
        let_go(folder)
        ended(instance, one)
        assert statuses()[1] != "QUEUED"
    assert ended(instance, again) == "SUCCESS"


def test_a_run_loads_our_modules_and_nothing_heavy() -> None:
    code = [sys.executable, "-W", "ignore", "-c", IMPORTED_BY_RUN]
    answer = subprocess.run(code, check=True, capture_output=True, text=True, cwd=ROOT)
    before, after = json.loads(answer.stdout)
    assert "dagster_postgres" in before
    # What a run imports is the code on disk, and not what it was when the warm process started.
    assert [name for name in before if name.startswith("doceval_pipeline")] == [
        "doceval_pipeline",
        "doceval_pipeline.defs",
        "doceval_pipeline.defs.warm",
    ]
    assert "doceval_pipeline.batches.staging.steps" in after
    assert not {name for name in after if name.split(".")[0] in HEAVY}
