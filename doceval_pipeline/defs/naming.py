"""Names of batches in Dagster, where partition keys are only numbers: in metadata, checks and run tags.

Users choose names, so they are shown in one line, cut, and with invisible characters made visible.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id, batches_by_ids
from doceval_pipeline.reports.sanitize import cut, visible_name

# The key of the name in metadata, where it comes first.
NAME = "batch"
# Dagster's run storage accepts tags of up to about 2,700 bytes.
CHARACTERS = 80
TAG = "doceval/batch"
PRIORITY_TAG = "dagster/priority"


def shown_name(name: str) -> str:
    """The name of a batch, connection or prompt, safe to show; at most `CHARACTERS` characters."""
    return cut(visible_name(name), CHARACTERS) or "(no name)"


def name_of(databases: Databases, batch_id: int) -> str:
    """The name of a batch, safe to show.

    Raises
    ------
    UnknownBatch
    """
    with databases.doc_eval.connect() as connection:
        return shown_name(batch_by_id(connection, batch_id).name)


def names_of(databases: Databases, batch_ids: Iterable[int]) -> dict[int, str]:
    """The names of several batches by number, without archived ones."""
    with databases.doc_eval.connect() as connection:
        return {batch.id: shown_name(batch.name) for batch in batches_by_ids(connection, batch_ids)}


def about(name: str, sentence: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Description and metadata of a check's result, which begin with the name of the batch."""
    return {"description": f"{name}: {sentence}", "metadata": {NAME: name, **metadata}}


def run_tags(batch: BatchRecord) -> dict[str, str]:
    """The tags of a run for a batch: its name, and its priority, by which Dagster sorts its queue of runs.

    Priorities are 1 or more and runs of a backfill have 0, so runs of sensors do not wait for a backfill.
    """
    return {TAG: shown_name(batch.name), PRIORITY_TAG: str(batch.priority)}


def run_tags_of(databases: Databases, batch_ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """The tags of runs for several batches by number, without archived ones."""
    with databases.doc_eval.connect() as connection:
        return {batch.id: run_tags(batch) for batch in batches_by_ids(connection, batch_ids)}
