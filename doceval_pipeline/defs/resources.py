"""What assets, checks, jobs and sensors are handed: the databases, and somewhere to tell progress."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.monitoring.live_runs import alive
from doceval_pipeline.batches.staging.storing import Progress
from doceval_pipeline.defs.requests import batch_of
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.settings import Settings

SECONDS_BETWEEN_LOG_LINES = 5.0
# As Dagster's commands name it; importing the name takes 70 ms in every process.
TEMPORARY_HOME = ".tmp_dagster_home_"


class DocEval(dg.ConfigurableResource):  # type: ignore[type-arg] # the parameter is for IO managers
    """Opens the installation that the environment names; started and upgraded where needed.

    The databases are named by DOC_EVAL_URL, KNOWLEDGE_DOCUMENTS_URL and DAGSTER_POSTGRES_URL, which may hold
    passwords and are no fields here: Dagster shows fields, and keeps them with each run.

    A run that uses it holds a lock from its first step to its last, which a run whose process died does not.
    """

    max_document_bytes: int | None = Field(
        default=None,
        description="Files larger than this are rejected, each with its reason. Not set: "
        "DOCEVAL_MAX_DOCUMENT_BYTES, or 50 MiB.",
    )

    _is_lasting: bool = PrivateAttr(default=True)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Find out whether Dagster keeps the history of what is about to run."""
        folder = "" if context.instance is None else context.instance.root_directory
        self._is_lasting = not Path(folder).name.startswith(TEMPORARY_HOME)

    def open(self) -> Databases:
        """Both databases, reachable and with current schemas.

        Raises
        ------
        ConfigurationError
            Dagster was started where it found no configuration, and would throw the history away.
        """
        if not self._is_lasting:
            raise ConfigurationError(
                "Dagster found no dagster.yaml and keeps no history of this run: start the command in the "
                'project\'s folder, or evaluate eval "$(doceval env)" first'
            )
        given = (
            {}
            if self.max_document_bytes is None
            else {"DOCEVAL_MAX_DOCUMENT_BYTES": str(self.max_document_bytes)}
        )
        return open_databases(Settings.from_environment({**os.environ, **given}))

    def _initialize_and_run(self, context: dg.InitResourceContext) -> Any:
        # Dagster's own hook: with `yield_for_execution`, `build_sensor_context` would demand of every caller
        # that it is entered and left. Dagster runs a generator to its end after the last step.
        handed = super()._initialize_and_run(context)
        return handed if context.run is None else _alive_with(handed, context.run)


def _alive_with(doc_eval: DocEval, run: dg.DagsterRun) -> Iterator[DocEval]:
    """Hand out the resource while the run holds its lock."""
    with ExitStack() as life:
        # The first step says in one line why a database cannot be opened.
        with suppress(DocEvalError):
            life.enter_context(alive(doc_eval.open(), run.run_id, batch_of(run)))
        yield doc_eval


class StagingProgress(dg.ConfigurableResource):  # type: ignore[type-arg] # as above
    """Tells how far work on documents is, in the run's log."""

    seconds_between_lines: float | None = Field(
        default=None,
        description=f"Seconds between two lines of a long step. Not set: {SECONDS_BETWEEN_LOG_LINES:g}.",
    )

    def listener(self, log: dg.DagsterLogManager, what: str = "storing documents") -> Progress:
        """A function to tell progress to; it logs a line every few seconds."""
        started = last = time.monotonic()
        pause = (
            SECONDS_BETWEEN_LOG_LINES if self.seconds_between_lines is None else self.seconds_between_lines
        )

        def tell(done: int, total: int, read_bytes: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < pause or not done:
                return
            last = now
            remaining = (total - done) * (now - started) / done
            log.info(
                f"{what}: {done} of {total}, {read_bytes / (now - started) / 1e6:.1f} MB/s, "
                f"about {remaining:.0f} s remaining"
            )

        return tell
