"""Resources of assets, checks, jobs and sensors: the databases and the progress log."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.monitoring.run_lock import alive
from doceval_pipeline.defs.requests import batch_of
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.portions import Progress
from doceval_pipeline.settings import Settings

SECONDS_BETWEEN_LOG_LINES = 5.0
# What the progress of the steps of staging is called.
FINDING, STORING, QUEUEING = "finding files", "storing documents", "queueing evaluations"
# Prefix of the temporary homes of Dagster's commands; importing the constant takes 70 ms in every process.
TEMPORARY_HOME = ".tmp_dagster_home_"


class DocEval(dg.ConfigurableResource):  # type: ignore[type-arg] # the parameter is for IO managers
    """Opens the databases of the installation; starts the embedded server and upgrades the schemas if needed.

    The environment variables DOC_EVAL_URL, KNOWLEDGE_DOCUMENTS_URL and DAGSTER_POSTGRES_URL configure the
    databases. They are not fields of the resource because they may contain passwords: Dagster shows fields
    and stores them with each run.

    A run that uses the resource holds a lock from its first step to its last. The lock is released when the
    process of the run dies.
    """

    max_document_bytes: int | None = Field(
        default=None,
        description="Largest size of a document in bytes; larger files are rejected. Default: "
        "DOCEVAL_MAX_DOCUMENT_BYTES, or 50 MiB.",
    )

    _is_lasting: bool = PrivateAttr(default=True)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Find out whether Dagster keeps the history of the run."""
        folder = "" if context.instance is None else context.instance.root_directory
        self._is_lasting = not Path(folder).name.startswith(TEMPORARY_HOME)

    def open(self) -> Databases:
        """Both databases, reachable and with current schemas.

        Raises
        ------
        ConfigurationError
            Dagster found no configuration where it was started and would discard the history.
        """
        if not self._is_lasting:
            raise ConfigurationError(
                "Dagster found no dagster.yaml and keeps no history of this run: start the command in the "
                'project\'s folder, or run eval "$(doceval env)" first'
            )
        given = (
            {}
            if self.max_document_bytes is None
            else {"DOCEVAL_MAX_DOCUMENT_BYTES": str(self.max_document_bytes)}
        )
        return open_databases(Settings.from_environment({**os.environ, **given}))

    def _initialize_and_run(self, context: dg.InitResourceContext) -> Any:
        # Dagster's internal hook, because with `yield_for_execution` every caller of `build_sensor_context`
        # would have to use it as a context manager. Dagster runs a generator to its end after the last step.
        resource = super()._initialize_and_run(context)
        return resource if context.run is None else _with_run_lock(resource, context.run)


def _with_run_lock(doc_eval: DocEval, run: dg.DagsterRun) -> Iterator[DocEval]:
    """Yield the resource while the run holds its lock."""
    with ExitStack() as lock:
        # If a database cannot be opened, the first step reports it in one line.
        with suppress(DocEvalError):
            lock.enter_context(alive(doc_eval.open(), run.run_id, batch_of(run)))
        yield doc_eval


class StagingProgress(dg.ConfigurableResource):  # type: ignore[type-arg] # as above
    """Logs the progress of long steps in the run's log."""

    seconds_between_lines: float | None = Field(
        default=None,
        description=f"Seconds between two progress lines. Default: {SECONDS_BETWEEN_LOG_LINES:g}.",
    )

    def listener(self, log: dg.DagsterLogManager, what: str = STORING) -> Progress:
        """A callback that receives progress and logs a line every few seconds."""
        started = last = time.monotonic()
        pause = (
            SECONDS_BETWEEN_LOG_LINES if self.seconds_between_lines is None else self.seconds_between_lines
        )

        def report(done: int, total: int | None, read_bytes: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < pause or not done:
                return
            last = now
            if total is None:
                log.info(f"{what}: {done:,} so far")
                return
            remaining = (total - done) * (now - started) / done
            speed = f", {read_bytes / (now - started) / 1e6:.1f} MB/s" if read_bytes else ""
            log.info(f"{what}: {done:,} of {total:,}{speed}, about {remaining:.0f} s remaining")

        return report
