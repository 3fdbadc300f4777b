"""Applies an evaluation: inserts and updates its connections, prompts, batches and recurring evaluations.

Everything is checked before anything is written, in one transaction. A key that is not given keeps its
value. A sealed batch, whose staging has begun, is not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, Engine, text

from doceval_pipeline.doc_eval.definitions.changes import ReplacedValue, replaced_values
from doceval_pipeline.doc_eval.definitions.conflicts import conflicts
from doceval_pipeline.doc_eval.definitions.evaluation_file import Located
from doceval_pipeline.doc_eval.definitions.existing import (
    ExistingDefinition,
    existing_definitions,
    with_stored_names,
)
from doceval_pipeline.doc_eval.definitions.schema import NamedDefinition
from doceval_pipeline.doc_eval.definitions.upsert_batches import write_batches
from doceval_pipeline.doc_eval.definitions.upsert_connections import write_connections, write_prompts
from doceval_pipeline.doc_eval.definitions.upsert_recurring import notes_on_limits, write_recurring

# Applies run one at a time, so that the checks still hold when the rows are written. A table lock, because
# anyone who can connect can take an advisory lock and keep it; this mode conflicts only with itself, vacuum
# and schema changes.
_LOCK = text("LOCK TABLE connections IN SHARE UPDATE EXCLUSIVE MODE")
# A new time makes the request due at once, also after a failed staging.
_REQUEST_STAGING = text("""
    UPDATE batches b SET stage_requested_at = now()
    FROM (SELECT id, status = 'SAVED' AND stage_requested_at IS NOT NULL
                     OR status = 'FAILED_STAGING' AND stage_requested_at IS NOT NULL AS waits
          FROM batches WHERE id = ANY(:ids) AND status IN ('SAVED', 'FAILED_STAGING')
          FOR UPDATE) AS before
    WHERE b.id = before.id
    RETURNING b.id, coalesce(before.waits, false) AS was_requested
""")


@dataclass(frozen=True)
class UpsertedNames:
    """The names of one kind of definition, by what an apply did to them."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Applied:
    """The result of an apply.

    `numbers` has the number of each named batch. `staging_requested` has the batches whose staging this apply
    requested, `staging_requested_again` those whose staging an earlier apply had requested. `changes` are the
    values of existing definitions that were replaced; `notes` are about limits of recurring evaluations that
    cannot be checked as written.
    """

    connections: UpsertedNames
    prompts: UpsertedNames
    batches: UpsertedNames
    recurring: UpsertedNames
    numbers: dict[str, int]
    staging_requested: list[str]
    staging_requested_again: list[str] = field(default_factory=list)
    changes: list[ReplacedValue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        kinds = (self.connections, self.prompts, self.batches, self.recurring)
        return bool(self.staging_requested) or any(kind.created or kind.updated for kind in kinds)


def lock_definitions(connection: Connection) -> None:
    """Lock connections, prompts, folders and new batches against other writers until the transaction ends."""
    connection.execute(_LOCK)


def apply_evaluation(engine: Engine, located: Located, *, stage: bool = False) -> Applied:
    """Write an evaluation into doc_eval; applying it again changes nothing.

    Parameters
    ----------
    located
        The evaluation, the locations of its parts, and the mistakes found without the database.
    stage
        Request the staging of its batches that are SAVED or FAILED_STAGING.

    Raises
    ------
    EvaluationFileError
        Every mistake: of the file, of its references, and of changes to sealed batches. Nothing was written.
    """
    with engine.begin() as connection:
        lock_definitions(connection)
        evaluation = with_stored_names(connection, located.evaluation)
        existing = existing_definitions(connection, evaluation)
        located.refuse(conflicts(connection, evaluation, existing))
        write_connections(connection, evaluation.connections, existing["connection"])
        write_prompts(connection, evaluation.prompts, existing["prompt"])
        write_recurring(connection, evaluation.recurring, existing["recurring evaluation"])
        numbers = write_batches(connection, evaluation.batches, existing["batch"])
        applied = Applied(
            connections=_upserted(evaluation.connections, existing["connection"]),
            prompts=_upserted(evaluation.prompts, existing["prompt"]),
            batches=_upserted(evaluation.batches, existing["batch"]),
            recurring=_upserted(evaluation.recurring, existing["recurring evaluation"]),
            numbers=numbers,
            staging_requested=[],
            changes=replaced_values(connection, evaluation, existing),
            notes=list(notes_on_limits(connection, evaluation.recurring)),
        )
        return _request_staging(connection, applied) if stage else applied


def _request_staging(connection: Connection, applied: Applied) -> Applied:
    """Request the staging of the applied batches; returns the result with their names."""
    rows = connection.execute(_REQUEST_STAGING, {"ids": list(applied.numbers.values())})
    was_requested = {row.id: row.was_requested for row in rows}
    names = applied.numbers.items()
    return replace(
        applied,
        staging_requested=[name for name, number in names if was_requested.get(number) is False],
        staging_requested_again=[name for name, number in names if was_requested.get(number) is True],
    )


def _upserted(items: Sequence[NamedDefinition], existing: Mapping[str, ExistingDefinition]) -> UpsertedNames:
    names = [item.name for item in items]
    return UpsertedNames(
        created=[name for name in names if name not in existing],
        updated=[name for name in names if name in existing and existing[name].changes],
        unchanged=[name for name in names if name in existing and not existing[name].changes],
    )
