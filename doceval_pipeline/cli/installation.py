"""The installation that the environment names, and its work that waits for Dagster's daemon."""

from typing import TYPE_CHECKING

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.output import warn
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import Settings

if TYPE_CHECKING:
    from doceval_pipeline.batches.databases import Databases


def databases() -> "Databases":
    """The installation that the environment names."""
    with importing():
        from doceval_pipeline.batches.databases import open_databases

    return open_databases(Settings.from_environment())


def warn_of_waiting(opened: "Databases") -> None:
    """Warn on standard error about work that waits for sensors that do not run."""
    from doceval_pipeline.batches.monitoring.pending_work import find_pending_work

    work = find_pending_work(opened)
    if not work:
        return
    # Dagster takes half a second to import.
    with importing():
        from doceval_pipeline.defs.idle import why_waiting

    try:
        sentences = why_waiting(opened.settings, work)
    except DocEvalError as error:
        waiting = ", ".join(each.description for each in work)
        sentences = [f"{waiting}, and whether Dagster's daemon runs is unknown: {error}"]
    for sentence in sentences:
        warn(sentence)
