"""An installation whose runs start on Celery workers: Redis, a PostgreSQL by TCP, workers with own homes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from doceval_pipeline_tests.cli.running import doceval, free_port, running_up, until
from doceval_pipeline_tests.fresh_clone import PROJECT
from doceval_pipeline_tests.outsiders.debian_server import DebianServer
from doceval_pipeline_tests.outsiders.installed import program

CELERY = str(Path(sys.executable).with_name("celery"))
REDIS_PASSWORD = "canary-of-redis"
# Owns the databases, and is not a superuser.
USER = "celery_pipeline"
DATABASES = {
    "DOC_EVAL_URL": "doc_eval",
    "KNOWLEDGE_DOCUMENTS_URL": "KnowledgeDocuments",
    "DAGSTER_POSTGRES_URL": "dagster",
}


@dataclass(frozen=True)
class CeleryInstallation:
    """A daemon and a webserver in one home, without a worker."""

    folder: Path
    port: str
    environment: dict[str, str]

    def home(self, name: str) -> Path:
        """A new home with the ready `dagster.yaml` for Celery."""
        dagster = self.folder / name / "dagster"
        dagster.mkdir(parents=True)
        shutil.copy(PROJECT / "deploy" / "dagster-celery.yaml", dagster / "dagster.yaml")
        return dagster.parent

    @contextmanager
    def worker(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A worker for one run at a time, in a home of its own, from when it is ready."""
        home = self.home(name)
        log = home / "log"
        environment = {
            **os.environ,
            **self.environment,
            "DOCEVAL_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "DOCEVAL_MIGRATE": "never",
        }
        command = [CELERY, "-A", "dagster_celery.app", "worker", "--disable-prefetch", "-c", "1"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-n", f"{name}@%h", "-l", "INFO"],
                env=environment,
                cwd=home,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until(lambda: f"{name}@" in log.read_text() and " ready." in log.read_text())
            yield process
        finally:
            kill(process)

    def doceval(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the home of the daemon."""
        return doceval(*arguments, **self.environment)


def kill(worker: "subprocess.Popen[bytes]") -> None:
    """End a worker and its children by SIGKILL, all at once."""
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of Debian's on 127.0.0.1, with a password; gives its URL."""
    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": folder, "requirepass": REDIS_PASSWORD}
    command = [str(program("redis-server", "redis-server"))]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0"
        finally:
            process.kill()


@contextmanager
def celery_installation(server: DebianServer) -> Iterator[CeleryInstallation]:
    """Databases on a server, a Redis, and `doceval up` with the ready file for Celery."""
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="celery-")))
        redis = exits.enter_context(redis_server(folder))
        environment = {"CELERY_BROKER_URL": redis, "CELERY_RESULT_BACKEND": redis}
        server.make_login(USER)
        for variable, name in DATABASES.items():
            server.make_database(f"celery_{name}", owner=USER)
            environment[variable] = server.url(f"celery_{name}", USER)
        environment["DOCEVAL_HOME"] = str(folder / "main")
        installation = CeleryInstallation(folder, str(free_port()), environment)
        installation.home("main")
        ended = installation.doceval("init")
        assert ended.returncode == 0, ended.stderr
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            for _ in running_up(folder / "main", installation.port):
                os.environ.clear()
                os.environ.update(before)
                yield installation
        finally:
            os.environ.clear()
            os.environ.update(before)
