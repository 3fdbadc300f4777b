"""Gathers which evaluations of a batch failed, why, and how to retry them. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results.file_names import FileNames
from doceval_pipeline.doc_eval.batches import BatchRecord
from doceval_pipeline.doc_eval.labels import read_labels
from doceval_pipeline.doc_eval.lifecycle import OPEN, Status
from doceval_pipeline.domain.columns import Labels
from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.results import FailureGroup, Failures
from doceval_pipeline.errors import BatchStateError
from doceval_pipeline.knowledge.counts import count_cells
from doceval_pipeline.knowledge.failures import group_failures
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.reports.labels import connection_words

# Different messages of a batch that are compared; further ones are counted.
MESSAGES_COMPARED = 100_000
MESSAGES_COMPARED_FOR_FIRST = 10_000
# Names of all groups together.
ALL_NAMES = 10_000
HINT = (
    "the stored data is correct: the known processor cuts base64 at 1,398,101 characters, so evaluations of "
    "documents over 1,048,575 bytes fail"
)


@dataclass(frozen=True)
class NamedGroup:
    """A group of failed evaluations with the names of its models, prompts and first documents."""

    group: FailureGroup
    message: str | None
    """Without keys; None if the processor gave none."""
    connections: tuple[str, ...]
    prompts: tuple[str, ...]
    documents: tuple[str, ...]
    """Of some of `group.documents`, in alphabetical order."""

    @property
    def hint(self) -> str | None:
        """What explains these failures, in a sentence; None if nothing is known."""
        if not self.group.is_cut_base64:
            return None
        large, documents = self.group.too_large, self.group.documents
        return f"{HINT}; {large:,} of these {documents:,} documents {'is' if large == 1 else 'are'} larger"

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval failures --json` prints; its names are a public interface."""
        return {
            "cells": self.group.cells,
            "documents": self.group.documents,
            "simulated": self.group.simulated,
            "message": self.message,
            "message_characters": self.group.message_characters,
            "messages": self.group.variants,
            "connections": list(self.connections),
            "prompts": list(self.prompts),
            "document_names": list(self.documents),
            "too_large": self.group.too_large,
            "hint": self.hint,
        }


@dataclass(frozen=True)
class BatchFailures:
    """The failed evaluations of a batch in groups, and how to retry them."""

    batch: BatchRecord
    cells: CellCounts
    failures: Failures
    groups: tuple[NamedGroup, ...]
    word: str
    """What people read for a connection; see `connection_words`."""

    @property
    def retry(self) -> tuple[str, ...]:
        """The commands that give exactly the failed evaluations a new attempt, in their order."""
        return retry_commands(self.batch) if self.failures.cells else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before they are retried, in sentences."""
        return tuple(_notes(self.batch, self.cells)) if self.failures.cells else ()

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval failures --json` prints; its names are a public interface."""
        return {
            "batch": self.batch.id,
            "name": self.batch.name,
            "partition": self.batch.key,
            "status": self.batch.status.value,
            "cells": self.cells.total,
            "failed": self.failures.cells,
            "simulated": self.failures.simulated,
            "all_groups": self.failures.kinds,
            "ungrouped": self.failures.ungrouped,
            "groups": [group.as_json() for group in self.groups],
            "retry": list(self.retry),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class FirstFailure:
    """The largest group of failed evaluations of a batch."""

    group: FailureGroup
    message: str | None
    """Without keys; None if the processor gave none."""
    failures: Failures

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval status --json` prints; its names are a public interface."""
        return {
            "cells": self.group.cells,
            "documents": self.group.documents,
            "message": self.message,
            "simulated": self.group.simulated,
        }


def read_failures(databases: Databases, batch: BatchRecord, *, groups: int, names: int) -> BatchFailures:
    """The failed evaluations of a batch.

    Parameters
    ----------
    groups, names
        The highest number of groups, and of documents of each that are named. At most `ALL_NAMES` are named
        in all.

    Raises
    ------
    BatchStateError
        The batch is archived or was never staged.
    """
    batch.require_rows()
    repeatable = databases.knowledge.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        counted = count_cells(connection, [batch.id])[batch.id]
        failures = Failures()
        if counted.failed:
            failures = group_failures(
                connection, [batch.id], groups=groups, names=names, messages=MESSAGES_COMPARED
            )[batch.id]
    _require_evaluations(batch, counted)
    cells = CellCounts(expected=batch.expected_cells or 0, **counted.sample)
    if not failures.groups:
        return BatchFailures(batch, cells, failures, (), "model")
    named, word = _named_groups(databases, batch.id, failures.groups)
    return BatchFailures(batch, cells, failures, named, word)


def first_failures(databases: Databases, batch_ids: Sequence[int]) -> dict[int, FirstFailure]:
    """The largest group of failures of each given batch that has any, in one statement.

    Of a batch with very many different messages, only the most frequent ones are compared.
    """
    if not batch_ids:
        return {}
    with databases.knowledge.connect() as connection:
        by_batch = group_failures(
            connection, batch_ids, groups=1, names=0, messages=MESSAGES_COMPARED_FOR_FIRST
        )
    return {
        batch_id: FirstFailure(failures.groups[0], _message(failures.groups[0]), failures)
        for batch_id, failures in by_batch.items()
        if failures.groups
    }


def retry_commands(batch: BatchRecord) -> tuple[str, ...]:
    """The commands that give the failed evaluations of a batch a new attempt, in their order."""
    retry = f"doceval reprocess {batch.id} --failed"
    if batch.status is Status.PAUSED:
        return f"doceval resume {batch.id}", retry
    if batch.status in (Status.SAVED, Status.FAILED_STAGING):
        return f"doceval stage {batch.id}", retry
    return (retry,)


def _notes(batch: BatchRecord, cells: CellCounts) -> Iterator[str]:
    if batch.status is Status.STAGING:
        yield f"{batch.key} is being staged: retry once it is STAGED"
    elif batch.status is Status.PAUSED:
        held = "is paused" if batch.held_reason is None else f"is held ({batch.held_reason})"
        yield f"{batch.key} {held}: doceval resume also releases its waiting evaluations"
    elif batch.status in OPEN and cells.open:
        yield f"{cells.open:,} evaluations are not done yet; if some of them fail later, retry again"
    if batch.cancelled_at is not None:
        yield f"{batch.key} was cancelled: a retry also evaluates what the cancellation closed"


def _require_evaluations(batch: BatchRecord, cells: CellCounts) -> None:
    if cells.rows or batch.status not in (Status.SAVED, Status.STAGING, Status.FAILED_STAGING):
        return
    if batch.status is Status.STAGING:
        raise BatchStateError(
            f"{batch.key} is being staged and has no evaluations yet: wait until it is STAGED"
        )
    raise BatchStateError(
        f"{batch.key} is {batch.status.value} and has no evaluations: run doceval stage {batch.id} first"
    )


def _named_groups(
    databases: Databases, batch_id: int, groups: Sequence[FailureGroup]
) -> tuple[tuple[NamedGroup, ...], str]:
    """The groups with names, and what a connection is called."""
    # Imports pydantic, which `doceval status` must not wait for.
    from doceval_pipeline.doc_eval.snapshot import read_snapshot

    left, documents = ALL_NAMES, []
    for group in groups:
        documents.append(group.document_ids[:left])
        left -= len(documents[-1])
    with databases.doc_eval.connect() as connection:
        names = FileNames(connection, batch_id)
        names.load(document_id for ids in documents for document_id in ids)
        sealed = read_snapshot(connection, batch_id)
        present = read_labels(
            connection,
            {connection_id for group in groups for connection_id in group.connection_ids},
            {prompt_id for group in groups for prompt_id in group.prompt_ids},
        )
    config: Mapping[str, Any] = {} if sealed is None else sealed.config
    labels = Labels(
        connections={**present.connections, **_sealed_names(config, "connections")},
        prompts={**present.prompts, **_sealed_names(config, "prompts")},
    )
    of_document = names.labels.of_document
    named = [
        NamedGroup(
            group,
            _message(group),
            tuple(map(labels.connection, group.connection_ids)),
            tuple(map(labels.prompt, group.prompt_ids)),
            tuple(sorted(map(of_document, ids))),
        )
        for group, ids in zip(groups, documents, strict=True)
    ]
    return tuple(named), connection_words(config).one


def _message(group: FailureGroup) -> str | None:
    return None if group.message is None else without_keys(group.message)


def _sealed_names(config: Mapping[str, Any], kind: str) -> dict[int, str]:
    """The names of connections or prompts as they were when the batch was sealed, by id."""
    return {each["id"]: str(each["name"]) for each in config.get(kind) or ()}
