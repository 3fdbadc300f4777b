"""Makes a batch of a small random sample of another batch, and estimates the whole from its results.

The sample is written in one transaction with the batch, its sealed configuration and the request for its
staging: whatever is killed afterwards, the batch keeps these documents.
"""

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.files.folders import found_files
from doceval_pipeline.batches.files.no_documents import no_documents
from doceval_pipeline.batches.monitoring.completion import complete_if_done
from doceval_pipeline.batches.staging.estimates import ConnectionWork, WorkEstimate, estimate_work
from doceval_pipeline.batches.staging.recurring import first_free_name, request_staging
from doceval_pipeline.batches.staging.sample_size import LARGEST_SEED
from doceval_pipeline.batches.staging.sampling import Sample, draw_sample
from doceval_pipeline.doc_eval import files as batch_documents
from doceval_pipeline.doc_eval import snapshot
from doceval_pipeline.doc_eval.batches import BatchRecord, batch_by_id
from doceval_pipeline.doc_eval.definitions.apply import lock_definitions
from doceval_pipeline.doc_eval.definitions.schema import BatchDefinition
from doceval_pipeline.doc_eval.definitions.upsert_batches import create_batch
from doceval_pipeline.doc_eval.files import FoundFile, Tally
from doceval_pipeline.doc_eval.recurring.occurrences import has_only_changes, mark_changes_only
from doceval_pipeline.documents.sources import hash_document
from doceval_pipeline.documents.walk import ASSIGNED, EXCLUDED, NOT_INCLUDED
from doceval_pipeline.errors import BatchStateError, StagingError, UnknownBatch
from doceval_pipeline.names import LONGEST, normal
from doceval_pipeline.portions import Progress

# The key of the metadata of such a batch.
TRY = "try"
_RANDOM_SEEDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Trial:
    """What the metadata of a batch says of its sample.

    `batch` and `name` are of the batch that it was drawn from, `documents` and `seed` reproduce it, and
    `files_found` usable files were there.
    """

    batch: int
    name: str
    documents: int
    seed: int
    files_found: int

    @classmethod
    def of(cls, batch: BatchRecord) -> "Trial | None":
        """The sample of a batch; None if it is not a batch of `doceval try`."""
        given = batch.metadata.get(TRY)
        if not isinstance(given, dict):
            return None
        numbers = [given.get(key) for key in ("batch", "documents", "seed", "files_found")]
        name = given.get("name")
        # People may write metadata of their own.
        if not isinstance(name, str) or not all(type(n) is int and 0 <= n <= LARGEST_SEED for n in numbers):
            return None
        return cls(given["batch"], name, given["documents"], given["seed"], given["files_found"])


@dataclass(frozen=True, slots=True)
class MadeTrial:
    """A batch that was just made of a sample, and notes for people."""

    batch_id: int
    name: str
    trial: Trial
    notes: tuple[str, ...]


@dataclass(frozen=True)
class WholeEstimate:
    """What a whole batch is expected to use, as if no result of it existed.

    Before its documents are stored, `documents` counts files: a copy counts each time.
    """

    batch: BatchRecord
    documents: int
    counts_files: bool
    evaluations: int
    estimates: list[WorkEstimate]

    def as_json(self) -> dict[str, Any]:
        """The shape that `doceval try --json` prints under `whole`."""
        return {
            "batch": self.batch.id,
            "name": self.batch.name,
            "documents": self.documents,
            "counts_files": self.counts_files,
            "evaluations": self.evaluations,
            "estimates": [estimate.as_json() for estimate in self.estimates],
        }


def make_trial(
    databases: Databases, batch: BatchRecord, documents: int, seed: int | None, progress: Progress
) -> MadeTrial:
    """Make a batch of a random sample of a batch's documents, and request its staging.

    The batch itself is not changed. The sample has its folders, patterns, connections and prompts as they
    are now.

    Parameters
    ----------
    documents
        How many documents to draw; all if there are fewer.
    seed
        None chooses one.
    progress
        Receives the progress of reading files.

    Raises
    ------
    BatchStateError
        The batch is archived.
    StagingError
        A folder is missing, or has no usable document; nothing was made.
    DatabaseError
    """
    _require_kept(batch)
    with database_errors(), databases.doc_eval.connect() as connection:
        config = snapshot.compose(connection, batch.id)
        own = _own_files(connection, batch.id)
    usable = _usable_files(databases, batch, config, own)
    seed = secrets.randbelow(_RANDOM_SEEDS) if seed is None else seed
    sample = _draw(databases, config, usable, documents, seed, progress)
    if not sample.files:
        raise StagingError(f"{batch.key} has no document that can be read: doceval plan {batch.id} lists why")
    trial = Trial(batch.id, batch.name, documents, seed, sample.files_found)
    with database_errors(), databases.doc_eval.begin() as connection:
        number, name = _store(connection, trial, sample)
    return MadeTrial(number, name, trial, tuple(_notes(sample, documents)))


def complete_trial(databases: Databases, batch: BatchRecord) -> BatchRecord:
    """Complete a batch whose evaluations are all done, also where no daemon runs; returns it as it is now."""
    with database_errors():
        if batch.expected_cells:
            complete_if_done(databases, batch)
        with databases.doc_eval.connect() as connection:
            return batch_by_id(connection, batch.id)


def estimate_whole(databases: Databases, trial: Trial) -> WholeEstimate | None:
    """The estimate for the batch that a sample was drawn from; None if that batch no longer exists here.

    Reads no file: before the documents are stored, it counts files and their sizes.

    Raises
    ------
    StagingError
        A folder is missing.
    DatabaseError
    """
    with database_errors(), databases.doc_eval.connect() as connection:
        try:
            batch = batch_by_id(connection, trial.batch)
        except UnknownBatch:
            return None
        # In another installation, the number may be of another batch.
        if normal(batch.name) != normal(trial.name) or batch.archived_at is not None:
            return None
        sealed = snapshot.read_snapshot(connection, batch.id)
        config = snapshot.compose(connection, batch.id) if sealed is None else sealed.config
        stored = batch_documents.staged_documents(connection, batch.id)
        own = _own_files(connection, batch.id)
    sizes = [document.size for document in stored.values()]
    if not stored:
        sizes = [file.size or 0 for file in _usable_files(databases, batch, config, own)]
    prompts = len(config["prompts"])
    work = [
        ConnectionWork(connection["id"], connection["name"], len(sizes) * prompts, sum(sizes) * prompts)
        for connection in config["connections"]
    ]
    with database_errors():
        estimates = estimate_work(databases, batch.id, work)
    return WholeEstimate(batch, len(sizes), not stored, sum(item.cells for item in work), estimates)


def _require_kept(batch: BatchRecord) -> None:
    if batch.archived_at is not None:
        raise BatchStateError(f"{batch.key} is archived: run doceval restore {batch.archive_file} first")


def _own_files(connection: Connection, batch_id: int) -> set[tuple[int, bytes]] | None:
    """The files that a batch is limited to; None if it takes all files of its folders."""
    if not has_only_changes(connection, batch_id):
        return None
    return batch_documents.usable_files(connection, batch_id)


def _usable_files(
    databases: Databases, batch: BatchRecord, config: dict[str, Any], own: set[tuple[int, bytes]] | None
) -> list[FoundFile]:
    """The files that staging would use now.

    Raises
    ------
    StagingError
        There is none.
    """
    found = list(found_files(config, databases.settings))
    usable = [file for file in found if file.state == ASSIGNED]
    if own is not None:
        usable = [file for file in usable if (file.folder_id, file.raw_path) in own]
    if not usable:
        reasons = sorted({(file.state, file.reason or "") for file in found if file.state != ASSIGNED})
        tallies = [
            Tally(*key, sum((file.state, file.reason or "") == key for file in found), 0) for key in reasons
        ]
        left_out = (file.filepath for file in found if file.reason in (NOT_INCLUDED, EXCLUDED))
        raise StagingError(f"{batch.key} {no_documents(config, tallies, left_out)}")
    return usable


def _draw(
    databases: Databases,
    config: dict[str, Any],
    usable: list[FoundFile],
    documents: int,
    seed: int,
    progress: Progress,
) -> Sample:
    folders = {folder["id"]: folder["path"] for folder in config["folders"]}
    limit = databases.settings.max_document_bytes
    done = read_bytes = 0

    def read(file: FoundFile) -> str:
        nonlocal done, read_bytes
        sha256, size = hash_document(folders[file.folder_id], file.raw_path, limit, file.etag)
        done, read_bytes = done + 1, read_bytes + size
        progress(done, max(documents, done + 1), read_bytes)
        return sha256

    sample = draw_sample(usable, documents, seed, read)
    progress(done, done, read_bytes)
    return sample


def _store(connection: Connection, trial: Trial, sample: Sample) -> tuple[int, str]:
    """Write the batch of a sample; returns its number and name."""
    lock_definitions(connection)
    # It may have been archived while files were read.
    source = batch_by_id(connection, trial.batch)
    _require_kept(source)
    config = snapshot.compose(connection, source.id)
    name = first_free_name(connection, _names(source.name))
    number = create_batch(
        connection, _definition(source, config, name, trial), source.max_documents, source.max_cost
    )
    snapshot.seal(connection, number)
    batch_documents.write_assignment(connection, number, sample.files)
    mark_changes_only(connection, number)
    request_staging(connection, number)
    return number, name


def _definition(source: BatchRecord, config: dict[str, Any], name: str, trial: Trial) -> BatchDefinition:
    """The definition of the batch of a sample, with the settings of the whole batch."""
    return BatchDefinition.model_construct(
        name=name,
        description=f"A random sample of {source.key} {source.name}.",
        folders=[folder["path"] for folder in config["folders"]],
        connections=[connection["name"] for connection in config["connections"]],
        prompts=[prompt["name"] for prompt in config["prompts"]],
        metadata={**source.metadata, TRY: asdict(trial)},
        include=config["batch"]["include"],
        exclude=config["batch"]["exclude"],
        priority=source.priority,
        reuse="finished" if source.reuse == "finished" else "nothing",
        margin=source.margin,
        stage_after=None,
    )


def _names(name: str) -> Iterator[str]:
    """Names for a batch of a sample: with the date, then numbered."""
    ending = f" try {datetime.now(UTC):%Y-%m-%d}"
    yield name[: LONGEST - len(ending)] + ending
    number = 2
    while True:
        numbered = f"{ending} ({number})"
        yield name[: LONGEST - len(numbered)] + numbered
        number += 1


def _notes(sample: Sample, documents: int) -> Iterator[str]:
    if len(sample.files) < documents:
        yield f"there are only {len(sample.files):,} documents: the sample has all of them"
    if not sample.are_copies_known:
        yield (
            "many files have the same size: they were not all compared, so a document with copies may be "
            "likelier to be drawn"
        )
