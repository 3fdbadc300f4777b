"""Cases 1b, 1t and 1f: as case 1, but random bytes from the shell, real texts, and on a new server."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, of, ratio, reported, seconds
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.staging import COPY, OURS, PDFS, Documents, beside_copy, require_contents, stage
from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.cli.supervision.supervisor import script
from doceval_pipeline.embedded.server import EmbeddedServer

START = "doceval stage of one file"


def stage_from_the_shell(databases: Databases, batch: int) -> Timed:
    """Run `doceval stage`, as a user does."""
    environment = {**os.environ, "DOCEVAL_HOME": str(databases.settings.home)}

    def timed() -> Figures:
        command = [script("doceval"), "stage", str(batch)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return {}

    return timed


def stage_twice_on_a_new_server(
    databases: Databases, home: str, documents: str, count: int, digest: str
) -> Timed:
    """Initialise a server, and stage the same documents twice; the databases are emptied in between.

    Reports the seconds of both. The server and its home are deleted.
    """
    settings = replace(databases.settings, home=Path(home))

    def timed() -> Figures:
        try:
            made = Installation(Path(documents).parent, open_databases(settings))
            took = []
            for _ in range(2):
                made.empty()
                took.append(stage(made.databases, made.apply(Path(documents)), check=True)())
                require_contents(made, (count, digest))
        finally:
            EmbeddedServer(settings.home).stop()
            shutil.rmtree(settings.home, ignore_errors=True)
        first, second = (sum(steps.values()) for steps in took)
        return {"first_seconds": first, "second_seconds": second}

    return timed


def from_the_shell(*, quick: bool) -> Case:
    """Case 1b."""
    count, rounds = (50, 1) if quick else (10_000, 5)
    many = Documents("random", count, 20 * material.KIB, material.random_bytes)
    one = Documents("one", 1, 20 * material.KIB, material.random_bytes)

    def prepare(installation: Installation) -> None:
        many.prepare(installation)
        one.prepare(installation)
        # The first run creates the tables of Dagster's storage.
        stage_from_the_shell(installation.databases, **one.batch(installation))()

    sides = [
        Side(OURS, stage_from_the_shell, many.batch, many.check_ours),
        Side(START, stage_from_the_shell, one.batch, one.check_ours),
        many.copied(),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["shell"]
        starts = {start.round: start for start in of(found, START)}
        beyond = [
            replace(
                whole,
                seconds=whole.seconds - starts[whole.round].seconds,
                client_cpu=whole.client_cpu - starts[whole.round].client_cpu,
                server_cpu=whole.server_cpu - starts[whole.round].server_cpu,
            )
            for whole in of(found, OURS)
        ]
        return [
            ratio("time without the start-up", [*beyond, *of(found, COPY)], OURS, COPY, 1.20),
            ratio("time", found, OURS, COPY),
            absolute("start-up", "s", found, START, seconds),
        ]

    work = f"doceval stage of {count:,} documents of 20 KiB of random bytes"
    return Case("1b", work, COPY, [Experiment("shell", prepare, sides, rounds)], judge)


def real_texts(*, quick: bool) -> Case:
    """Case 1t."""
    count, rounds = (50, 1) if quick else (10_000, 5)
    texts = Documents("texts", count, 23 * material.KIB, material.real_texts)
    experiment = texts.experiment("texts", [texts.ours(), texts.copied()], rounds)
    work = f"stage {count:,} texts of about 23 KiB"
    return Case("1t", work, COPY, [experiment], lambda measured: beside_copy(measured["texts"], 1.10))


def new_server(*, quick: bool) -> Case:
    """Case 1f."""
    count, rounds = (50, 1) if quick else (10_000, 5)
    pdfs = Documents(PDFS, count, 20 * material.KIB)

    def before(installation: Installation) -> dict[str, Any]:
        stored, digest = pdfs.expected
        home = installation.folder.parent / "new"
        folder = str(pdfs.folder(installation))
        return {"home": str(home), "documents": folder, "count": stored, "digest": digest}

    def check(installation: Installation, _: Figures) -> None:
        if (installation.folder.parent / "new").exists():
            raise WrongResult("the home of the new server was not deleted")

    side = Side(OURS, stage_twice_on_a_new_server, before, check)

    def judge(measured: Measured) -> list[Figure]:
        found = measured["new server"]
        second = [replace(run, side="second", seconds=reported("second_seconds")(run)) for run in found]
        return [
            ratio("time", [*found, *second], OURS, "second", 1.30, reported("first_seconds"), below=seconds),
            absolute("second run", "s", found, OURS, reported("second_seconds")),
        ]

    experiment = Experiment("new server", pdfs.prepare, [side], rounds)
    work = f"stage {count:,} documents of 20 KiB on a server just initialised"
    return Case("1f", work, "the second run", [experiment], judge)
