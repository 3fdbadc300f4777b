"""The values that an apply replaced in existing definitions, as data and as a sentence."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from doceval_pipeline.doc_eval.batches import partition_key
from doceval_pipeline.doc_eval.definitions.existing import KINDS, ExistingDefinition
from doceval_pipeline.doc_eval.definitions.schema import Evaluation, problem_of_connection
from doceval_pipeline.doc_eval.definitions.upsert_recurring import names_listed_in_sql
from doceval_pipeline.doc_eval.lifecycle import CLOSED
from doceval_pipeline.redaction import NOT_SHOWN, holds_key

# The longest part of a value that is shown, and how much of it comes before the first difference.
CHARACTERS = 80
CONTEXT = 20
MOST_NAMES = 5
# The keys of a prompt that are read when a report is written; no evaluation depends on them.
REPORTED = ("threshold", "weight")

_AFFECTED_BATCHES = text("""
    SELECT 'connection' AS kind, l.connection_id AS id, b.id AS batch_id,
           b.config_snapshot IS NULL AS changeable
    FROM batch_connections l JOIN batches b ON b.id = l.batch_id
    WHERE l.connection_id = ANY(:connections) AND b.archived_at IS NULL AND b.status <> ALL(:closed)
    UNION ALL
    SELECT 'prompt', l.prompt_id, b.id, b.config_snapshot IS NULL
    FROM batch_prompts l JOIN batches b ON b.id = l.batch_id
    WHERE l.prompt_id = ANY(:prompts) AND b.archived_at IS NULL AND b.status <> ALL(:closed)
    ORDER BY batch_id
""")
_AFFECTED_RECURRING = text(f"""
    SELECT 'connection' AS kind, c.id, r.name
    FROM recurring_evaluations r
    CROSS JOIN {names_listed_in_sql("connections")} AS used(name)
    JOIN connections c ON c.name = used.name
    WHERE c.id = ANY(:connections)
    UNION ALL
    SELECT 'prompt', p.id, r.name
    FROM recurring_evaluations r
    CROSS JOIN {names_listed_in_sql("prompts")} AS used(name)
    JOIN prompts p ON p.name = used.name
    WHERE p.id = ANY(:prompts)
    ORDER BY name
""")


@dataclass(frozen=True)
class ReplacedValue:
    """A replaced value of a connection, prompt, batch or recurring evaluation.

    `batches` has the numbers of the open batches that the new value affects: prices affect every batch that
    is not completed, threshold and weight no batch, any other key those whose staging has not begun.
    `recurring` names the recurring evaluations whose next occurrence uses the new value.
    """

    kind: str
    name: str
    key: str
    old: Any
    new: Any
    batches: list[int]
    recurring: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The change in one line: both values around their first difference, and the affected batches."""
        old, new = _differing(_text(self.old), _text(self.new))
        return f"{self.kind} {self.name!r}: {self.key} {old} → {new}{self._effect}"

    @property
    def _effect(self) -> str:
        if self.kind == "batch":
            return ""
        if self.kind == "recurring evaluation":
            return "; takes effect at the next occurrence"
        if self.key in REPORTED:
            return "; counts in new reports (doceval report BATCH)"
        affected = [_listed([partition_key(number) for number in self.batches])] if self.batches else []
        if self.recurring:
            affected.append(f"the next occurrence of {_listed(self.recurring)}")
        return f"; affects {' and '.join(affected)}" if affected else "; no open batch is affected"


def replaced_values(
    connection: Connection, evaluation: Evaluation, existing: Mapping[str, Mapping[str, ExistingDefinition]]
) -> list[ReplacedValue]:
    """The values that an evaluation replaces, and the open batches and recurring evaluations they affect."""
    changed = {
        kind: [definition.id for definition in existing[kind].values() if definition.changes]
        for kind in KINDS
    }
    used = {"connections": changed["connection"], "prompts": changed["prompt"]}
    users = connection.execute(_AFFECTED_BATCHES, {**used, "closed": list(CLOSED)}).all()
    recurring: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for row in connection.execute(_AFFECTED_RECURRING, used):
        recurring[row.kind, row.id].append(row.name)

    def affected_batches(kind: str, definition: ExistingDefinition, key: str) -> list[int]:
        if kind == "batch":
            return [definition.id]
        if key in REPORTED:
            return []
        return [
            user.batch_id
            for user in users
            if (user.kind, user.id) == (kind, definition.id) and (user.changeable or key == "prices")
        ]

    return [
        ReplacedValue(
            kind=kind,
            name=item.name,
            key=key,
            old=_without_secrets(kind, key, definition.changes[key][0]),
            new=definition.changes[key][1],
            batches=affected_batches(kind, definition, key),
            recurring=[] if key in REPORTED else recurring[kind, definition.id],
        )
        for kind, plural in KINDS.items()
        for item in getattr(evaluation, plural)
        if (definition := existing[kind].get(item.name)) is not None
        for key in type(item).model_fields
        if key in definition.changes
    ]


def _without_secrets(kind: str, key: str, old: Any) -> Any:
    """A stored value, or `NOT_SHOWN` if it may hold a key; given values have passed this check already."""
    if kind == "connection":
        problem = problem_of_connection({"name": "c", "provider": "p", "model": "m", key: old})
        is_secret = problem is not None
    else:
        is_secret = holds_key(json.dumps(old, ensure_ascii=False))
    return NOT_SHOWN if is_secret else old


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _text(value: Any) -> str:
    return "none" if value in (None, "", [], {}) else json.dumps(value, ensure_ascii=False)


def _differing(old: str, new: str) -> tuple[str, str]:
    """Two texts; if one is long, the parts around their first difference."""
    start = 0
    if max(len(old), len(new)) > CHARACTERS:
        pairs = enumerate(zip(old, new, strict=False))
        start = max(0, next((place for place, (a, b) in pairs if a != b), min(len(old), len(new))) - CONTEXT)
    return _cut(old, start), _cut(new, start)


def _cut(text: str, start: int) -> str:
    end = start + CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
