"""Checks both databases against the invariants. Read-only.

`check_*` check one batch, for Dagster's asset checks; `audit_installation` checks everything, for
`doceval check` and the asset `audit`. The invariants and their fixes are in the modules beside this one.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.batches.invariants.cells import (
    CELLS_ARE_COMPLETE,
    CELLS_ARE_EXPECTED,
    ROWS_ARE_OF_THE_BATCH,
    ROWS_HAVE_CONTENT,
)
from doceval_pipeline.batches.invariants.documents import CONTENTS_DECODE
from doceval_pipeline.batches.invariants.invariant import SAMPLE, Database, Invariant, Scope
from doceval_pipeline.batches.invariants.runner import (
    ReadOnlyConnections,
    Violation,
    read_only,
    violations_of,
)
from doceval_pipeline.batches.locks import batches_at_work
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN
from doceval_pipeline.knowledge.queue import count_rows

# At most this many violations of an invariant are shown, and remembered until they are checked again.
SHOWN = 20
KEPT = 1_000
# Seconds until a violation is checked again: by then the pipeline has finished what it was doing.
SECONDS_TO_RECHECK = 2.0


@dataclass(frozen=True)
class BatchCheck:
    """Result of a check of one batch: number of things checked, number of problems, and a summary."""

    checked: int
    problems: int
    summary: str


@dataclass(frozen=True)
class AuditFinding:
    """A violation in the words of `doceval check`: the invariant, where, the problem, and the fix."""

    invariant: str
    batch: str
    problem: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """Its shape in `doceval check --json` and in the asset `audit`."""
        return {
            "invariant": self.invariant,
            "batch": self.batch,
            "problem": self.problem,
            "mend": self.fix,
        }


@dataclass(frozen=True)
class _Violations:
    """The first violations of an invariant, and the number of further ones."""

    first: list[Violation]
    more: int


def check_round_trip(databases: Databases, batch_id: int, sample: int | None = SAMPLE) -> BatchCheck:
    """Decodes stored documents and compares their sha256 with that of the original files.

    Parameters
    ----------
    sample
        Maximum number of documents, drawn at random; None for all.
    """
    portions: list[int] = []
    scope = Scope(batch_id, sample)
    with read_only(databases) as connections:
        violations = _query(connections, CONTENTS_DECODE, scope, portions.append)
    return _batch_check(
        sum(portions), [violations], f"{sum(portions)} documents decode to the original bytes"
    )


def check_queue_complete(databases: Databases, batch_id: int) -> BatchCheck:
    """Compares the current queue rows of a batch with its documents x prompts x connections.

    Raises
    ------
    BatchStateError
        The batch is archived.
    """
    with databases.doc_eval.connect() as connection:
        batch = batch_by_id(connection, batch_id)
    batch.require_rows()
    expected = batch.expected_cells or 0
    if batch.status not in (*OPEN, *CLOSED):
        return BatchCheck(
            expected, 1, f"{batch.key} is {batch.status}, so its evaluations are not in the queue yet"
        )
    with read_only(databases) as connections:
        violations = [
            _query(connections, i, Scope(batch_id)) for i in (CELLS_ARE_EXPECTED, CELLS_ARE_COMPLETE)
        ]
    return _batch_check(expected, violations, f"{expected} of {expected} evaluations are in the queue")


def check_rows_have_documents(databases: Databases, batch_id: int) -> BatchCheck:
    """Finds queue rows whose document is not stored or does not belong to the batch."""
    with read_only(databases) as connections:
        with connections.transaction(Database.KNOWLEDGE) as connection:
            rows = count_rows(connection, batch_id)
        violations = [
            _query(connections, i, Scope(batch_id)) for i in (ROWS_HAVE_CONTENT, ROWS_ARE_OF_THE_BATCH)
        ]
    return _batch_check(rows, violations, f"all {rows} rows have a stored document of the batch")


def audit_installation(
    databases: Databases, progress: Callable[[int, int], None], *, every_document: bool
) -> Iterator[AuditFinding]:
    """Checks every invariant in both databases.

    Violations are checked a second time after `SECONDS_TO_RECHECK`. Those that are gone by then, or whose
    batch is being worked on, are left out: passing states of a running pipeline are not reported.

    Parameters
    ----------
    progress
        Called with the number of checked invariants, and of all invariants.
    every_document
        Decode every stored document instead of a sample of each batch, and read archives to their end.

    Raises
    ------
    DatabaseError
    """
    # The checks of a batch, which every staging runs, need only a few of all invariants.
    from doceval_pipeline.batches.invariants.registry import INVARIANTS

    scope = Scope(sample=None if every_document else SAMPLE, every_byte=every_document)
    with database_errors(), read_only(databases) as connections:
        at_work = _at_work(connections)
        suspects = {}
        for done, invariant in enumerate(INVARIANTS):
            progress(done, len(INVARIANTS))
            violations = _query(connections, invariant, scope)
            if violations.first:
                suspects[invariant] = violations
        if suspects:
            at_work |= _at_work(connections)
            time.sleep(SECONDS_TO_RECHECK)
        confirmed = {i: _confirmed(_query(connections, i, scope), first) for i, first in suspects.items()}
        at_work |= _at_work(connections)
    progress(len(INVARIANTS), len(INVARIANTS))
    for invariant, violations in confirmed.items():
        yield from _findings(invariant, violations, at_work)


def _query(
    connections: ReadOnlyConnections,
    invariant: Invariant,
    scope: Scope,
    on_portion: Callable[[int], None] = lambda rows: None,
) -> _Violations:
    """Runs the query of an invariant once; only the first `KEPT` violations are kept, the rest counted."""
    violations = violations_of(connections, invariant, scope, on_portion)
    return _Violations(list(islice(violations, KEPT)), sum(1 for _ in violations))


def _confirmed(now: _Violations, before: _Violations) -> _Violations:
    """The violations that were found both times."""
    known = {(violation.batch_id, violation.subject) for violation in before.first}
    confirmed = [violation for violation in now.first if (violation.batch_id, violation.subject) in known]
    return _Violations(confirmed, min(now.more, before.more))


def _findings(invariant: Invariant, violations: _Violations, at_work: set[int]) -> Iterator[AuditFinding]:
    lasting = [violation for violation in violations.first if violation.batch_id not in at_work]
    for violation in lasting[:SHOWN]:
        yield AuditFinding(invariant.statement, _location(violation), _problem(violation), violation.fix)
    more = len(lasting[SHOWN:]) + violations.more
    if more:
        yield AuditFinding(invariant.statement, "", f"and {more} more", "as above")


def _location(violation: Violation) -> str:
    return violation.subject if violation.batch_id is None else partition_key(violation.batch_id)


def _problem(violation: Violation) -> str:
    if violation.batch_id is None:
        return violation.problem
    return f"{violation.subject}: {violation.problem}"


def _at_work(connections: ReadOnlyConnections) -> set[int]:
    with connections.transaction(Database.DOC_EVAL) as connection:
        return batches_at_work(connection)


def _batch_check(checked: int, results: Sequence[_Violations], passed: str) -> BatchCheck:
    """`passed` as the summary, or the first violations."""
    first = [violation for result in results for violation in result.first]
    if not first:
        return BatchCheck(checked, 0, passed)
    return BatchCheck(checked, len(first) + sum(result.more for result in results), _summary(first[:10]))


def _summary(violations: Iterable[Violation]) -> str:
    subjects: dict[str, list[str]] = {}
    for violation in violations:
        subjects.setdefault(violation.problem, []).append(violation.subject)
    return "; ".join(f"{', '.join(names)}: {problem}" for problem, names in subjects.items())
