"""Holds both databases against what must be true of them. Read-only.

`check_*` answer for one batch and stand behind Dagster's asset checks; `violations` answers for the
whole installation and stands behind `doceval check`. What must be true, and what to do where it is
not, stands in `invariants`.
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
from doceval_pipeline.batches.invariants.invariant import SAMPLE, Invariant, Scope, Side
from doceval_pipeline.batches.invariants.registry import INVARIANTS
from doceval_pipeline.batches.invariants.runner import Offence, Reading, offences, reading
from doceval_pipeline.batches.locks import batches_at_work
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.doc_eval.lifecycle import CLOSED, OPEN
from doceval_pipeline.knowledge.queue import count_rows

# Offences of one invariant that are shown, and that are remembered from one look to the other.
SHOWN = 20
KEPT = 1_000
# Seconds after which what was found is looked at again: what the pipeline is just doing is done then.
MOMENT = 2.0


@dataclass(frozen=True)
class Finding:
    """What a check of one batch found: how much was checked, how much is wrong, and a sentence."""

    checked: int
    problems: int
    text: str


@dataclass(frozen=True)
class Violation:
    """Something that must not be, where, and what to do about it."""

    invariant: str
    batch: str
    problem: str
    mend: str


@dataclass(frozen=True)
class _Found:
    """The first offences against an invariant, and how many more there are."""

    offences: list[Offence]
    more: int


def check_round_trip(databases: Databases, batch_id: int, sample: int | None = SAMPLE) -> Finding:
    """Decode stored documents and compare their sha256 with that of the files that were read.

    Parameters
    ----------
    sample
        How many documents at most, drawn at random; None for all.
    """
    portions: list[int] = []
    scope = Scope(batch_id, sample)
    with reading(databases) as both:
        found = _look(both, CONTENTS_DECODE, scope, portions.append)
    return _finding(sum(portions), [found], f"{sum(portions)} documents decode to the bytes that were read")


def check_queue_complete(databases: Databases, batch_id: int) -> Finding:
    """Compare the current rows of a batch with its distinct documents x prompts x connections.

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
        return Finding(expected, 1, f"{batch.key} is {batch.status}, and its cells are not in the queue yet")
    with reading(databases) as both:
        found = [_look(both, i, Scope(batch_id)) for i in (CELLS_ARE_EXPECTED, CELLS_ARE_COMPLETE)]
    return _finding(expected, found, f"{expected} of {expected} cells are in the queue")


def check_rows_have_documents(databases: Databases, batch_id: int) -> Finding:
    """Look for rows whose document is not stored, or is not one of the batch's."""
    with reading(databases) as both:
        with both.transaction(Side.KNOWLEDGE) as connection:
            rows = count_rows(connection, batch_id)
        found = [_look(both, i, Scope(batch_id)) for i in (ROWS_HAVE_CONTENT, ROWS_ARE_OF_THE_BATCH)]
    return _finding(rows, found, f"each of {rows} rows has a document, which is one of the batch")


def violations(
    databases: Databases, every_document: bool, progress: Callable[[int, int], None]
) -> Iterator[Violation]:
    """Audit both databases.

    What is found is looked for once more after a moment, and is left out if it is gone by then, or if
    somebody works on its batch: a check beside a running pipeline says nothing that is only passing.

    Parameters
    ----------
    every_document
        Decode every stored document instead of a sample of each batch, and read archives to their end.
    progress
        Told how many of how many invariants are done.

    Raises
    ------
    DatabaseError
    """
    scope = Scope(sample=None if every_document else SAMPLE, every_byte=every_document)
    with database_errors(), reading(databases) as both:
        at_work = _at_work(both)
        suspects = {}
        for done, invariant in enumerate(INVARIANTS):
            progress(done, len(INVARIANTS))
            found = _look(both, invariant, scope)
            if found.offences:
                suspects[invariant] = found
        if suspects:
            at_work |= _at_work(both)
            time.sleep(MOMENT)
        confirmed = {i: _still(_look(both, i, scope), first) for i, first in suspects.items()}
        at_work |= _at_work(both)
    progress(len(INVARIANTS), len(INVARIANTS))
    for invariant, found in confirmed.items():
        yield from _violations(invariant, found, at_work)


def _look(
    both: Reading,
    invariant: Invariant,
    scope: Scope,
    handed: Callable[[int], None] = lambda rows: None,
) -> _Found:
    """Ask once; what goes beyond what is kept is counted."""
    found = offences(both, invariant, scope, handed)
    return _Found(list(islice(found, KEPT)), sum(1 for _ in found))


def _still(now: _Found, before: _Found) -> _Found:
    """What was found both times."""
    known = {(offence.batch_id, offence.thing) for offence in before.offences}
    both = [offence for offence in now.offences if (offence.batch_id, offence.thing) in known]
    return _Found(both, min(now.more, before.more))


def _violations(invariant: Invariant, found: _Found, at_work: set[int]) -> Iterator[Violation]:
    lasting = [offence for offence in found.offences if offence.batch_id not in at_work]
    for offence in lasting[:SHOWN]:
        yield Violation(invariant.must_hold, _where(offence), _problem(offence), offence.mend)
    more = len(lasting[SHOWN:]) + found.more
    if more:
        yield Violation(invariant.must_hold, "", f"and {more} more", "as above")


def _where(offence: Offence) -> str:
    return offence.thing if offence.batch_id is None else partition_key(offence.batch_id)


def _problem(offence: Offence) -> str:
    return offence.wrong if offence.batch_id is None else f"{offence.thing}: {offence.wrong}"


def _at_work(both: Reading) -> set[int]:
    with both.transaction(Side.DOC_EVAL) as connection:
        return batches_at_work(connection)


def _finding(checked: int, looks: Sequence[_Found], sound: str) -> Finding:
    """A sound sentence, or the first things that are wrong."""
    found = [offence for look in looks for offence in look.offences]
    if not found:
        return Finding(checked, 0, sound)
    return Finding(checked, len(found) + sum(look.more for look in looks), _sentence(found[:10]))


def _sentence(found: Iterable[Offence]) -> str:
    things: dict[str, list[str]] = {}
    for offence in found:
        things.setdefault(offence.wrong, []).append(offence.thing)
    return "; ".join(f"{', '.join(names)}: {wrong}" for wrong, names in things.items())
