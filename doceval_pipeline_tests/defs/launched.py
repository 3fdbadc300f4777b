"""Definitions for tests of launching: a job that says where it runs, and waits to be let go."""

import json
import os
import sys
import time
from pathlib import Path

import dagster as dg

SECONDS = 60


class Place(dg.Config):
    """Where a run says that it began, and the file that lets it go."""

    folder: str


@dg.op
def wait(context: dg.OpExecutionContext, config: Place) -> None:
    folder = Path(config.folder)
    began = {"pid": os.getpid(), "parent": os.getppid(), "modules": sorted(sys.modules)}
    partial = folder / f".{context.run_id}"
    partial.write_text(json.dumps(began))
    partial.rename(folder / context.run_id)
    deadline = time.monotonic() + SECONDS
    while not (folder / "go").exists():
        assert time.monotonic() < deadline, "nobody let it go"
        time.sleep(0.02)


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    wait()


defs = dg.Definitions(jobs=[waiting])
