"""Installs a lock file and the project into .venv: `python tools/install.py requirements.lock`.

`make` runs it before anything is installed, so it imports only the standard library. It uses uv if uv is on
the path (1 CPU-second for requirements.lock), and pip otherwise (14). Then all packages are compiled once, on
all cores (10): with PYTHONDONTWRITEBYTECODE set, as in many containers, or without the right to write into
.venv, each command would compile what it imports again, which takes `doceval demo` 7 CPU-seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME, DEVELOPMENT = "requirements.lock", "requirements-dev.lock"
# A lock file, and those whose packages it contains in the same versions.
CONTAINS = {RUNTIME: [RUNTIME], DEVELOPMENT: [DEVELOPMENT, RUNTIME]}
LOCKED = ["--no-deps", "--require-hashes", "--requirement"]
# A quarter of what there is to compile are tests of libraries.
TESTS = "/tests?/"
# flit_core, which builds the project, is in the lock file.
PROJECT = ["--no-deps", "--no-build-isolation", "--editable", "."]


def main(lock: str) -> None:
    """Install one of the two lock files, unless .venv has it."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = f"{sys.executable} is {sys.version.split()[0]}"
        sys.exit(f"doceval needs Python 3.11, 3.12 or 3.13, and {found}: run make PYTHON=python3.12 …")
    os.chdir(ROOT)
    venv = Path(".venv")
    with alone(venv) as held:
        if any(is_installed(venv, other) for other, locks in CONTAINS.items() if lock in locks):
            mark(venv, [lock])
            return
        print("Installing into .venv (once) …", flush=True)
        for other in CONTAINS:
            stamp(venv, other).unlink(missing_ok=True)
        remove_incomplete(venv)
        installer = Installer(venv, held)
        installer.install(lock)
        installer.compile()
        installer.run([str(installer.python), "-m", "doceval_pipeline.dagster_home"])
        mark(venv, CONTAINS[lock])


@contextmanager
def alone(venv: Path) -> Iterator[int]:
    """Wait until no other process installs into an environment; returns the descriptor that excludes them."""
    try:
        venv.mkdir(exist_ok=True)
    except FileExistsError:
        what = "not a folder" if venv.exists() else "a link to a folder that does not exist"
        sys.exit(f"{venv} is {what}: remove it, and repeat the command")
    # Not .lock, which uv locks.
    descriptor = os.open(venv / ".installing", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def stamp(venv: Path, lock: str) -> Path:
    """The file whose content names what was installed from a lock file; make compares its time."""
    return venv / (".installed" if lock == RUNTIME else ".installed-dev")


def wanted(lock: str) -> str:
    """The digest of what determines an installation."""
    digest = hashlib.sha256()
    for name in (lock, "pyproject.toml", "tools/install.py"):
        digest.update(Path(name).read_bytes())
    return digest.hexdigest()


def is_installed(venv: Path, lock: str) -> bool:
    """Tell whether a lock file as it is now was installed completely."""
    written = stamp(venv, lock)
    return can_run(venv / "bin/python") and written.exists() and written.read_text() == wanted(lock)


def can_run(python: Path) -> bool:
    """Tell whether an environment's Python exists; its link dangles after that Python was removed."""
    return os.access(python, os.X_OK)


def mark(venv: Path, locks: Sequence[str]) -> None:
    """Write the stamps of installed lock files."""
    for lock in locks:
        stamp(venv, lock).write_text(wanted(lock))


def remove_incomplete(venv: Path) -> None:
    """Remove the records of packages whose installation was killed: installers take these for installed.

    Both installers write INSTALLER after the package's files and scripts.
    """
    for record in venv.glob("lib/python3*/site-packages/*.dist-info"):
        if not (record / "INSTALLER").exists():
            shutil.rmtree(record)


def remove_dangling(venv: Path) -> None:
    """Remove links to a Python that no longer exists: `python -m venv` does not replace them."""
    for link in venv.glob("bin/python*"):
        if not link.exists():
            link.unlink()


class Installer:
    """Installs into an environment with uv, or with pip where uv is absent or fails."""

    def __init__(self, venv: Path, held: int) -> None:
        self.venv = venv
        self.python = venv / "bin/python"
        self._held = held
        self._uv = shutil.which("uv")

    def install(self, lock: str) -> None:
        """Create the environment if necessary, and install a lock file and the project."""
        if self._uv and self._with_uv(lock):
            return
        if self._uv:
            print("uv could not install; trying pip …", flush=True)
        self._with_pip(lock)

    def compile(self) -> None:
        """Compile the packages that are not compiled yet; files for other versions of Python are left out."""
        for packages in self.venv.glob("lib/python3*/site-packages"):
            self._run([str(self.python), "-m", "compileall", "-qq", "-j", "0", "-x", TESTS, str(packages)])

    def run(self, command: Sequence[str]) -> None:
        """Run a command; if it fails, this program ends with its exit code."""
        ended = self._run(command)
        if ended:
            sys.exit(ended)

    def _run(self, command: Sequence[str], *, quiet: bool = False) -> int:
        output = subprocess.DEVNULL if quiet else None
        # Children keep the descriptor: the next installation waits for them even if this process is killed.
        return subprocess.call(command, pass_fds=[self._held], stdout=output, stderr=output)

    def _with_uv(self, lock: str) -> bool:
        uv = [str(self._uv), "--quiet"]
        into = ["pip", "install", "--python", str(self.python)]
        create = ["venv", "--allow-existing", "--python", sys.executable, str(self.venv)]
        if not can_run(self.python) and self._run([*uv, *create]):
            return False
        # A warm cache needs no network.
        offline = self._run([*uv, "--offline", *into, *LOCKED, lock], quiet=True)
        if offline and self._run([*uv, *into, *LOCKED, lock]):
            return False
        return not self._run([*uv, "--offline", *into, *PROJECT])

    def _with_pip(self, lock: str) -> None:
        python = str(self.python)
        if not can_run(self.python) or self._run([python, "-c", "import pip"], quiet=True):
            remove_dangling(self.venv)
            self.run([sys.executable, "-m", "venv", str(self.venv)])
        into = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        # The pip of Python 3.11 takes 8 CPU-seconds more than the locked one, which is installed in 0.6.
        only = self.venv / ".pip.txt"
        only.write_text(only_pip(Path(lock).read_text()))
        self.run([*into, *LOCKED, str(only)])
        self.run([*into, *LOCKED, lock])
        self.run([*into, *PROJECT])


def only_pip(lock: str) -> str:
    """The lines of pip in a lock file."""
    found = re.search(r"^pip==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    return found.group() if found else ""


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(130)
