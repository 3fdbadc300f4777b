"""Case 16: polls of a folder with many known files, and the occurrence of one new file among them.

The yardstick lists the same folder and calls stat for each file.
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import count as numbers
from pathlib import Path
from typing import Any

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, cpu_seconds, ratio
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from benchmarks.restaging import wal_megabytes
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.recurring import find_arrivals, make_occurrence
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring.record import RecurringRecord
from doceval_pipeline.doc_eval.recurring.stored import find_recurring

NOTHING_NEW, ONE_NEW, OCCURRENCE = "nothing new", "one new file", "occurrence of one new file"
LISTING = "os.walk and os.stat"
_LONG_AGO = (1_000_000_000, 1_000_000_000)


def poll(databases: Databases) -> Timed:
    """One poll; no file has waited long enough for a batch."""
    record = _record(databases)

    def timed() -> Figures:
        find_arrivals(databases, record)
        return {"new": None}

    return timed


def occurrence(databases: Databases) -> Timed:
    """Create the batch of the new files with `make_occurrence`."""
    record = _record(databases)

    def timed() -> Figures:
        made = make_occurrence(databases, record)
        return {"new": made.files.new + made.files.changed}

    return timed


def listing(databases: Databases, folder: str) -> Timed:
    """The minimum that detects whether a file is new or changed."""

    def timed() -> Figures:
        for place, _, names in os.walk(folder):
            for name in names:
                os.stat(os.path.join(place, name), follow_symlinks=False)
        return {"new": None}

    return timed


def polls(*, quick: bool) -> Case:
    """Case 16."""
    count = 50 if quick else 100_000
    names = numbers()

    def folder(installation: Installation) -> Path:
        return installation.folder / f"polled-{count}"

    def prepare(installation: Installation) -> None:
        installation.empty()
        _define(installation.databases, material.documents(folder(installation), count, 64))

    def before(*, is_new: bool, gives_folder: bool = False) -> Callable[[Installation], dict[str, Any]]:
        def settle(installation: Installation) -> dict[str, Any]:
            databases = installation.databases
            make_occurrence(databases, _record(databases))
            find_arrivals(databases, _record(databases))
            if is_new:
                path = folder(installation) / f"new-{next(names)}.txt"
                path.write_text(path.name)
                os.utime(path, _LONG_AGO)
            installation.checkpoint()
            return {"folder": str(folder(installation))} if gives_folder else {}

        return settle

    sides = [
        Side(NOTHING_NEW, poll, before(is_new=False), partial(_check, None)),
        Side(ONE_NEW, poll, before(is_new=True), partial(_check, None)),
        Side(OCCURRENCE, occurrence, before(is_new=True), partial(_check, 1)),
        Side(LISTING, listing, before(is_new=False, gives_folder=True), partial(_check, None)),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["polls"]
        return [
            absolute("CPU of a poll, nothing new", "s", found, NOTHING_NEW, cpu_seconds, 1.5),
            absolute("WAL of a poll, nothing new", "kB", found, NOTHING_NEW, wal_kilobytes, 10),
            ratio(
                "CPU of a poll, nothing new, beside the listing",
                found,
                NOTHING_NEW,
                LISTING,
                None,
                cpu_seconds,
            ),
            absolute("CPU of a poll, one new file", "s", found, ONE_NEW, cpu_seconds),
            absolute("CPU of an occurrence of one file", "s", found, OCCURRENCE, cpu_seconds),
            absolute("WAL of an occurrence of one file", "MB", found, OCCURRENCE, wal_megabytes, 1),
        ]

    experiment = Experiment("polls", prepare, sides, 1 if quick else 5)
    return Case("16", f"poll {count:,} known files", LISTING, [experiment], judge)


def wal_kilobytes(measurement: Measurement) -> float:
    """WAL that the server wrote, in kB, including its own maintenance."""
    return measurement.wal_bytes / 1e3


def _check(new: int | None, _: Installation, figures: Figures) -> None:
    if figures["new"] != new:
        raise WrongResult(f"expected {new} new files, found {figures}")


def _define(databases: Databases, folder: Path) -> None:
    content = {
        "connections": [{"name": "model", "provider": "openai", "model": "m"}],
        "prompts": [{"name": "prompt", "text": "Question?"}],
        "recurring": [
            {
                "name": "inbox",
                "on_arrival": True,
                "quiet_for": 3600,
                "folders": [str(folder)],
                "connections": ["model"],
                "prompts": ["prompt"],
            }
        ],
    }
    apply_evaluation(databases.doc_eval, locate(content, None, key_path))


def _record(databases: Databases) -> RecurringRecord:
    with databases.doc_eval.connect() as connection:
        return find_recurring(connection, "inbox")
