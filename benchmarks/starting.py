"""Cases 9 and 9c: commands from the shell, compared with a Python that only imports their libraries.

Each run is a new process whose files are in the system's cache. Its CPU time includes that of the processes
it starts, and leaves out the database server's.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.dagster_runs import in_one_process, numbered_folder
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, ratio, seconds
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, require_rows
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli.supervision.supervisor import script

DAGSTER = "a Python that imports dagster"
CLICK, DRIVER = "a Python that imports click", "a Python that imports SQLAlchemy and psycopg2"
BATCHES, DOCUMENTS = 3, 8
# Commands, a part of what each prints, and its goal in CPU seconds.
COMMANDS: dict[str, tuple[tuple[str, ...], str, float]] = {
    "doceval --help": (("--help",), "Usage: doceval", 0.2),
    "doceval stage --help": (("stage", "--help"), "Usage: doceval stage", 0.2),
    "doceval status": (("status",), "batch-000001", 0.6),
    "doceval apply": (("apply",), "nothing changed", 0.7),
}


def run_command(databases: Databases, arguments: list[str], expected: str) -> Timed:
    """A command of doceval, from its start to its end."""
    return _process([script("doceval"), *arguments], expected)


def import_only(databases: Databases, modules: str) -> Timed:
    """A Python that imports modules and ends."""
    return _process([sys.executable, "-c", f"import {modules}"], "")


def _process(command: list[str], expected: str) -> Timed:
    def timed() -> Figures:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        return {"is_complete": expected in ended.stdout}

    return timed


def small_run(*, quick: bool) -> Case:
    """Case 9."""

    def before(installation: Installation) -> dict[str, Any]:
        installation.empty()
        batch = installation.apply(numbered_folder(installation, "shell"), 2, 2)
        return {"arguments": ["stage", str(batch)], "expected": "8 documents staged, 32 of 32 evaluations"}

    def check(installation: Installation, figures: Figures) -> None:
        _require_output(installation, figures)
        require_rows(installation, 32)

    sides = [
        Side(OURS, run_command, before, check),
        Side(DAGSTER, import_only, lambda _: {"modules": "dagster"}, _require_output),
    ]
    shell = Experiment("shell", lambda _: None, sides, 1 if quick else 11)
    runs = in_one_process(quick=quick)

    def judge(measured: Measured) -> list[Figure]:
        found = measured["shell"]
        return [
            ratio("doceval stage, time", found, OURS, DAGSTER, 1.6, seconds),
            ratio("doceval stage, CPU", found, OURS, DAGSTER, 1.6, client_cpu),
            absolute("doceval stage, CPU seconds", "s", found, OURS, client_cpu),
            *runs.judge(measured),
        ]

    # In this order, because the first run creates the tables of Dagster's storage.
    return Case(
        "9",
        "stage 8 documents, from the shell, and in a process that has imported everything",
        f"{DAGSTER} and does nothing; an in-process run of 4 empty assets",
        [*runs.experiments, shell],
        judge,
    )


def commands(*, quick: bool) -> Case:
    """Case 9c."""

    def prepare(installation: Installation) -> None:
        installation.empty()
        file = _evaluation_file(installation)
        for arguments in (["apply", str(file)], ["stage", "1"]):
            subprocess.run([script("doceval"), *arguments], check=True, stdout=subprocess.DEVNULL)

    def before(name: str, installation: Installation) -> dict[str, Any]:
        arguments, expected, _ = COMMANDS[name]
        given = [str(installation.folder / "evaluation.yaml")] if arguments == ("apply",) else []
        return {"arguments": [*arguments, *given], "expected": expected}

    sides = [
        *(Side(name, run_command, partial(before, name), _require_output) for name in COMMANDS),
        Side(CLICK, import_only, lambda _: {"modules": "click"}, _require_output),
        Side(DRIVER, import_only, lambda _: {"modules": "sqlalchemy, psycopg2"}, _require_output),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["commands"]
        return [
            *(
                absolute(f"{name}, CPU seconds", "s", found, name, client_cpu, goal)
                for name, (_, _, goal) in COMMANDS.items()
            ),
            *(
                ratio(f"{name}, CPU", found, name, CLICK if "--help" in name else DRIVER, None, client_cpu)
                for name in COMMANDS
            ),
        ]

    experiment = Experiment("commands", prepare, sides, 1 if quick else 11)
    return Case("9c", "commands from the shell", f"{CLICK}; {DRIVER}", [experiment], judge)


def client_cpu(measurement: Measurement) -> float:
    """CPU time of the command and of the processes that it started, in seconds."""
    return measurement.client_cpu


def _require_output(_: Installation, figures: Figures) -> None:
    if not figures["is_complete"]:
        raise WrongResult("a command did not print its result")


def _evaluation_file(installation: Installation) -> Path:
    """An evaluation file of a few batches over one folder."""
    folder = material.documents(installation.folder / "command", DOCUMENTS, 20 * material.KIB)
    content = {
        "connections": [{"name": "model", "provider": "openai", "model": "model"}],
        "prompts": [{"name": "prompt", "text": "Is it clear?"}],
        "batches": [
            {
                "name": f"batch {number}",
                "folders": [str(folder)],
                "connections": ["model"],
                "prompts": ["prompt"],
            }
            for number in range(BATCHES)
        ],
    }
    path = installation.folder / "evaluation.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
