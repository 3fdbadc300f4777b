"""What assets, checks, jobs and sensors are handed: the databases, and somewhere to tell progress."""

import time

import dagster as dg

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.storing import Progress
from doceval_pipeline.settings import Settings

SECONDS_BETWEEN_LOG_LINES = 5.0


class DocEval(dg.ConfigurableResource):  # type: ignore[type-arg] # the parameter is for IO managers
    """Opens the installation that the environment names; started and upgraded where needed."""

    def open(self) -> Databases:
        """Both databases, reachable and with current schemas."""
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
