"""A fresh clone of this project in a folder of its own, used with this installation's Python and commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent
# Never inherited: a fresh clone has no variable set.
OURS = ("DOCEVAL_", "DAGSTER_", "DOC_EVAL_", "KNOWLEDGE_")


def git(folder: Path, *arguments: str) -> str:
    """What git says in a folder."""
    command = ["git", "-c", "safe.directory=*", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def fresh_clone(folder: Path) -> Path:
    """Clone the project as it is now, with what is not committed yet."""
    if not (PROJECT / ".git").exists():
        pytest.skip("this project is no git checkout")
    work = folder / "work"
    for name in git(PROJECT, "ls-files", "-z", "-co", "--exclude-standard").split("\0"):
        if name and (PROJECT / name).exists():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, work / name, follow_symlinks=False)
    git(work, "init", "--quiet")
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message", "all of it")
    git(folder, "clone", "--quiet", str(work), "clone")
    shutil.rmtree(work)
    return folder / "clone"


def environment_of(clone: Path) -> dict[str, str]:
    """The commands on the PATH, the clone's own code, no variable of ours, and a user new to Dagster."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    user = clone.parent / "user"
    user.mkdir(exist_ok=True)
    return {
        **inherited,
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "HOME": str(user),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


def run(clone: Path, *command: str) -> str:
    """Run a command in the clone that must succeed; what it wrote, to either stream."""
    ended = subprocess.run(
        command,
        cwd=clone,
        env=environment_of(clone),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def set_up(clone: Path) -> None:
    """Do what `make setup` does, but install."""
    run(clone, "python", "-m", "doceval_pipeline.dagster_home")
    loaded = run(clone, "python", "-c", "import doceval_pipeline; print(doceval_pipeline.__file__)")
    assert Path(loaded.strip()).is_relative_to(clone)
