"""What assets, checks, jobs and sensors are handed: the databases, and somewhere to tell progress."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import PrivateAttr

from doceval_pipeline.batches.databases import Databases, database_errors, open_databases
from doceval_pipeline.batches.storing import Progress
from doceval_pipeline.errors import ConfigurationError, DocEvalError
from doceval_pipeline.settings import Settings

SECONDS_BETWEEN_LOG_LINES = 5.0
# As Dagster's commands name it; importing the name takes 70 ms in every process.
TEMPORARY_HOME = ".tmp_dagster_home_"


class DocEval(dg.ConfigurableResource):  # type: ignore[type-arg] # the parameter is for IO managers
    """Opens the installation that the environment names; started and upgraded where needed."""

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
        return open_databases(Settings.from_environment())


class StagingProgress(dg.ConfigurableResource):  # type: ignore[type-arg] # as above
    """Tells how far work on documents is, in the run's log."""

    def listener(self, log: dg.DagsterLogManager, what: str = "storing documents") -> Progress:
        """A function to tell progress to; it logs a line every few seconds."""
        started = last = time.monotonic()

        def tell(done: int, total: int, read_bytes: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < SECONDS_BETWEEN_LOG_LINES or not done:
                return
            last = now
            remaining = (total - done) * (now - started) / done
            log.info(
                f"{what}: {done} of {total}, {read_bytes / (now - started) / 1e6:.1f} MB/s, "
                f"about {remaining:.0f} s remaining"
            )

        return tell


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Show what went wrong as the one line it is, without a traceback of ours."""
    try:
        with database_errors():
            yield
    except DocEvalError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
