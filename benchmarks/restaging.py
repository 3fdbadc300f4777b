"""Case 6: materializing an unchanged staged batch again.

All four steps and all three checks, as a Dagster run does them. The assignment is frozen, so that
files are read again only by a rescan, which is measured separately.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, cpu_seconds, ratio, seconds
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, require_rows
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants import audit
from doceval_pipeline.batches.staging import steps
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess

HASHING, RESCAN = "sha256 of the files + one anti-join", "reprocess --rescan"
_ANTI_JOIN = text("""
    SELECT count(*) FROM unnest(CAST(:sha256s AS text[])) AS wanted(sha256)
    WHERE NOT EXISTS (SELECT 1 FROM docs WHERE docs.sha256 = wanted.sha256)
""")


def materialize_again(databases: Databases, batch: int) -> Timed:
    """The steps and checks of the job `stage_batch`, in its order."""

    def timed() -> Figures:
        steps.seal_batch(databases, batch)
        steps.assign_documents(databases, batch)
        stored = steps.store_documents(databases, batch, lambda *_: None)
        found = [audit.check_round_trip(databases, batch)]
        queued = steps.queue_evaluations(databases, batch)
        found += [
            audit.check_queue_complete(databases, batch),
            audit.check_rows_have_documents(databases, batch),
        ]
        problems = sum(finding.problems for finding in found)
        return {"new": stored.copied + queued.added, "documents": stored.distinct, "problems": problems}

    return timed


def rescan(databases: Databases, batch: int) -> Timed:
    """Rescan the folders: every file is read and hashed."""

    def timed() -> Figures:
        done = reprocess(databases, batch, Mode.missing, lambda *_: None, rescan=True)
        new = done.files_new + done.files_changed + done.files_gone + done.rows_added
        return {"new": new, "documents": None, "problems": 0}

    return timed


def hash_and_compare(databases: Databases, folder: str) -> Timed:
    """The minimum that finds out whether every file is stored."""

    def timed() -> Figures:
        paths: list[Path] = material.paths(Path(folder))
        sha256s = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        with databases.knowledge.connect() as connection:
            missing = connection.execute(_ANTI_JOIN, {"sha256s": sha256s}).scalar_one()
        return {"new": missing, "documents": len(sha256s), "problems": 0}

    return timed


def restaging(*, quick: bool) -> Case:
    """Case 6."""
    count = 40 if quick else 10_000

    def prepare(installation: Installation) -> None:
        installation.empty()
        folder = material.documents(installation.folder / "again", count, 20 * material.KIB)
        steps.queue_evaluations(installation.databases, material.stored_batch(installation, folder, 2, 2))

    def settled(**parameters: Any) -> Callable[[Installation], dict[str, Any]]:
        def before(installation: Installation) -> dict[str, Any]:
            installation.checkpoint()
            return parameters or {"folder": str(installation.folder / "again")}

        return before

    def check(installation: Installation, figures: Figures) -> None:
        require_rows(installation, count * 4)
        if figures["new"] or figures["problems"] or figures["documents"] not in (count, None):
            raise WrongResult(f"nothing had changed, but found {figures}")

    sides = [
        Side(OURS, materialize_again, settled(batch=1), check),
        Side(RESCAN, rescan, settled(batch=1), check),
        Side(HASHING, hash_and_compare, settled(), check),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["again"]
        return [
            ratio("time", found, OURS, HASHING, 1.10, seconds),
            absolute("WAL", "MB", found, OURS, wal_megabytes, 2),
            ratio("CPU", found, OURS, HASHING, None, cpu_seconds),
            ratio("time with a rescan of the folders", found, RESCAN, HASHING),
            absolute("WAL with a rescan of the folders", "MB", found, RESCAN, wal_megabytes),
        ]

    experiment = Experiment("again", prepare, sides, 1 if quick else 9)
    return Case("6", f"materialize {count:,} unchanged documents again", HASHING, [experiment], judge)


def wal_megabytes(measurement: Measurement) -> float:
    """WAL that the server wrote, in MB."""
    return measurement.wal_bytes / 1e6
