"""The list of all cases, by name: a number, and a letter if it is a variant."""

from typing import Protocol

from benchmarks.backfills import scattered_backfill
from benchmarks.case import Case
from benchmarks.dagster_runs import time_to_report
from benchmarks.first_demo import first_demo
from benchmarks.million import million
from benchmarks.polls import polls
from benchmarks.predecessor import predecessor
from benchmarks.queueing import queueing
from benchmarks.reporting import reporting
from benchmarks.restaging import restaging
from benchmarks.reusing import reusing
from benchmarks.sensors import sensors
from benchmarks.staging import large_documents, one_huge_document, small_documents
from benchmarks.staging_variants import from_the_shell, new_server, real_texts
from benchmarks.starting import commands, small_run
from benchmarks.ticks import ticks


class CaseFactory(Protocol):
    """Creates a case in its full size, or in a tiny size for a trial."""

    def __call__(self, *, quick: bool) -> Case:
        """Create the case."""


CASES: dict[str, CaseFactory] = {
    "1": small_documents,
    "1b": from_the_shell,
    "1f": new_server,
    "1t": real_texts,
    "2": large_documents,
    "3": one_huge_document,
    "4": predecessor,
    "5": queueing,
    "6": restaging,
    "7": ticks,
    "8": time_to_report,
    "9": small_run,
    "9c": commands,
    "10": reporting,
    "11": million,
    "12": sensors,
    "13": scattered_backfill,
    "14": first_demo,
    "15": reusing,
    "16": polls,
}
"""The factory of each case, by its name."""
