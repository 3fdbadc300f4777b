"""Mistakes of an evaluation that only the database reveals: ambiguous and unknown names, sealed batches."""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.definitions.evaluation_file import CHOICES
from doceval_pipeline.doc_eval.definitions.existing import KINDS, STORED_NAMES, ExistingDefinition
from doceval_pipeline.doc_eval.definitions.schema import BatchDefinition, Evaluation
from doceval_pipeline.doc_eval.definitions.yaml_text import Location, Mistake
from doceval_pipeline.names import normal, similar, skeleton, skeleton_in_sql

# A suggestion compares one name with all stored names, while other applies wait for the lock.
MOST_SUGGESTIONS = 20
_SAME_SKELETON = {
    kind: text(f"SELECT {column} FROM {table} WHERE {skeleton_in_sql(column)} = ANY(:skeletons)")
    for kind, table, column in (
        ("connection", "connections", "name"),
        ("prompt", "prompts", "name"),
        ("batch", "batches", "batch_name"),
        ("recurring evaluation", "recurring_evaluations", "name"),
    )
}


def conflicts(
    connection: Connection, evaluation: Evaluation, existing: Mapping[str, Mapping[str, ExistingDefinition]]
) -> Iterator[Mistake]:
    """Every mistake that only the database reveals."""
    yield from _ambiguous_names(evaluation, existing)
    yield from _confusable_names(connection, evaluation, existing)
    yield from _unknown_references(connection, evaluation)
    yield from _sealed_changes(evaluation.batches, existing["batch"])


def _ambiguous_names(
    evaluation: Evaluation, existing: Mapping[str, Mapping[str, ExistingDefinition]]
) -> Iterator[Mistake]:
    """Names that several definitions have, from before names were compared after normalization."""
    for kind, key in KINDS.items():
        for index, item in enumerate(getattr(evaluation, key)):
            definition = existing[kind].get(item.name) if isinstance(item.name, str) else None
            if definition is not None and definition.same_named:
                ids = " and ".join(map(str, definition.same_named))
                problem = (
                    f"{key} {ids} have the name {item.name!r} in other Unicode forms: choose another name"
                )
                yield Mistake((key, index, "name"), problem)


def _confusable_names(
    connection: Connection, evaluation: Evaluation, existing: Mapping[str, Mapping[str, ExistingDefinition]]
) -> Iterator[Mistake]:
    """New names that differ from others only in characters that may be invisible, such as joiners."""
    for kind, key in KINDS.items():
        items = getattr(evaluation, key)
        new = [(n, i.name) for n, i in enumerate(items) if i.is_complete and i.name not in existing[kind]]
        skeletons = [skeleton(name) for _, name in new]
        known = connection.scalars(_SAME_SKELETON[kind], {"skeletons": skeletons})
        by_skeleton = {skeleton(name): name for name in known}
        for index, name in new:
            other = by_skeleton.setdefault(skeleton(name), name)
            if other != name:
                problem = f"{name!r} may look the same as the existing name {other!r}: choose another name"
                yield Mistake((key, index, "name"), problem)


def _unknown_references(connection: Connection, evaluation: Evaluation) -> Iterator[Mistake]:
    """References to connections and prompts that are neither stored nor in the evaluation."""
    suggestions = MOST_SUGGESTIONS
    for key in ("connections", "prompts"):
        known = {normal(item.name) for item in getattr(evaluation, key) if isinstance(item.name, str)}
        known |= {normal(name) for name in connection.scalars(STORED_NAMES[key])}
        for location, name in _references(evaluation, key):
            if name is not None and normal(name) not in known:
                near = similar(name, known) if suggestions > 0 else None
                suggestions -= 1
                advice = f"did you mean {near!r}?" if near else f"define it under {key}"
                yield Mistake(location, f"{key[:-1]} {name!r} does not exist: {advice}")


def _references(evaluation: Evaluation, key: str) -> Iterator[tuple[Location, str | None]]:
    """The chosen names of connections or prompts, each with its location."""
    for choices in CHOICES:
        for index, item in enumerate(getattr(evaluation, choices)):
            for position, name in enumerate(getattr(item, key)):
                yield (choices, index, key, position), name


def _sealed_changes(
    batches: Sequence[BatchDefinition], existing: Mapping[str, ExistingDefinition]
) -> Iterator[Mistake]:
    """Changes to batches that are sealed."""
    for index, batch in enumerate(batches):
        definition = existing.get(batch.name)
        if definition is None or not definition.is_sealed:
            continue
        # The priority decides when a queue row is evaluated; it is not sealed.
        changed = [
            key for key in BatchDefinition.model_fields if key in definition.changes and key != "priority"
        ]
        if changed:
            problem = (
                f"batch {batch.name!r} (number {definition.id}) was sealed when its staging began, and "
                f"{', '.join(changed)} would change: give the changed batch a new name"
            )
            yield Mistake(("batches", index), problem)
