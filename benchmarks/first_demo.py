"""Case 14: `make demo` from a fresh clone, with a warm package cache.

The cache is warm after the first of two clones was set up; only the second is measured. One round: what is
slow in it is the same each time.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import BenchmarkError, WrongResult
from benchmarks.figures import Figure, Measured, absolute, reported, seconds
from benchmarks.harness import PROJECT, Experiment, Side
from benchmarks.installation import Installation
from doceval_pipeline.batches.databases import Databases

DEMO = "make demo"
# The target of the Makefile that installs; make demo depends on it.
INSTALLED = ".venv/.installed"
# A fresh clone has no variable set; the pip and uv of the user keep theirs.
_NOT_INHERITED = (
    "DOCEVAL_",
    "DAGSTER_",
    "DOC_EVAL_",
    "KNOWLEDGE_",
    "VIRTUAL_ENV",
    "PYTHON",
    "MAKE",
    "MFLAGS",
)
_RESULT = re.compile(r"36 evaluations: (\d+) succeeded, (\d+) failed")


def first_demo(*, quick: bool) -> Case:
    """Measure the first command that a new user runs; `quick` skips what warms the cache."""
    experiment = Experiment(
        "clone",
        prepare=lambda made: None if quick else _warm_the_cache(made),
        sides=[Side(DEMO, install_and_demo, _clone, _require_report)],
        rounds=1,
        seconds_between_samples=1.0,
    )
    return Case(
        "14",
        "make demo from a fresh clone, with a warm package cache",
        "no yardstick",
        [experiment],
        _judge,
    )


def _judge(measured: Measured) -> list[Figure]:
    runs = measured["clone"]
    return [
        absolute("from the clone to the report", "s", runs, DEMO, seconds, 60),
        absolute("CPU of the installation", "s", runs, DEMO, reported("install_cpu"), 25),
        absolute("duration of the installation", "s", runs, DEMO, reported("install_seconds")),
    ]


def install_and_demo(databases: Databases, clone: str) -> Timed:
    """Install into a clone, then run the demo."""

    def timed() -> Figures:
        before, started = os.times(), time.perf_counter()
        _make(Path(clone), INSTALLED)
        after, installed = os.times(), time.perf_counter()
        said = _make(Path(clone), "demo")
        return {
            "install_seconds": installed - started,
            "install_cpu": after.children_user
            + after.children_system
            - before.children_user
            - before.children_system,
            "said": said,
            "clone": clone,
        }

    return timed


def _warm_the_cache(made: Installation) -> None:
    clone = Path(_clone(made)["clone"])
    _make(clone, INSTALLED)
    shutil.rmtree(clone)


def _clone(made: Installation) -> dict[str, Any]:
    clone = made.folder / "clone"
    if clone.exists():
        shutil.rmtree(clone)
    command = ["git", "-c", "safe.directory=*", "clone", "--quiet", str(PROJECT), str(clone)]
    if subprocess.run(command, check=False).returncode:
        raise BenchmarkError(f"{PROJECT} cannot be cloned with git: run the benchmarks in a git checkout")
    return {"clone": str(clone)}


def _make(clone: Path, target: str) -> str:
    python = f"PYTHON={Path(sys.base_exec_prefix) / 'bin/python3'}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    ended = subprocess.run(
        ["make", python, target],
        cwd=clone,
        env=inherited,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode:
        last = (ended.stdout.strip().splitlines() or ["no output"])[-1]
        raise BenchmarkError(f"make {target} in a fresh clone failed: {last}")
    return ended.stdout


def _require_report(made: Installation, figures: Figures) -> None:
    # Both name a path of this machine, and results are published.
    clone, said = Path(figures.pop("clone")), figures.pop("said")
    reports = list((clone / ".doceval" / "reports").glob("batch-000001-*.html"))
    result = _RESULT.search(said)
    if len(reports) != 1 or result is None or sum(map(int, result.groups())) != 36:
        raise WrongResult(f"make demo wrote {len(reports)} reports and said: {said[-300:]}")
    shutil.rmtree(clone)
