"""Each invariant holds in an installation that was lived in, and fires on the faults that are planted."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import pytest

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.invariants.audit import violations
from doceval_pipeline.batches.invariants.invariant import Scope
from doceval_pipeline.batches.invariants.registry import INVARIANTS
from doceval_pipeline.batches.invariants.runner import offences, reading
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, pause, reprocess, resume
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.batches.invariants.corruptions.corruption import Plant
from doceval_pipeline_tests.batches.invariants.corruptions.registry import PLANTS
from doceval_pipeline_tests.batches.invariants.installation import Installation, lived_in, quiet
from doceval_pipeline_tests.conftest import Sample, empty_databases, sample_batch

BY_NAME = {invariant.name: invariant for invariant in INVARIANTS}
FAULTS = [(name, plant) for name, plants in PLANTS.items() for plant in plants]


def _recount(batch: Sample) -> None:
    batch.knowledge("SELECT recount_responses(:id)")
    poll(batch.databases)


def _pause_and_resume(batch: Sample) -> None:
    pause(batch.databases, batch.id)
    resume(batch.databases, batch.id)


# What is told to do, where it is a command or a statement, done.
MENDS: dict[str, Callable[[Sample], object]] = {
    "same-configuration": Sample.stage,
    "files-are-stored": Sample.stage,
    "nothing-left-to-store": Sample.stage,
    "cells-are-expected": Sample.stage,
    "cells-are-complete": Sample.stage,
    "rows-are-of-the-batch": Sample.stage,
    "attempts-are-in-order": _recount,
    "counts-are-kept": _recount,
    "staging-goes-on": Sample.stage,
    "requested-is-staged": Sample.stage,
    "closed-is-done": _recount,
    "verdict-is-true": _recount,
    "done-is-closed": lambda batch: poll(batch.databases),
    "results-are-as-completed": _recount,
    "paused-is-held": lambda batch: pause(batch.databases, batch.id),
    "closed-is-reported": lambda batch: write_report(batch.databases, batch.id),
    "report-is-there": lambda batch: write_report(batch.databases, batch.id),
    "leases-are-whole": lambda batch: batch.knowledge("UPDATE llm_responses SET lease_expires_at = NULL"),
    "deliveries-end": lambda batch: batch.knowledge(
        "UPDATE llm_responses SET deliveries = 5 WHERE batch_id = :id"
    ),
    "places-are-in-the-queue": _pause_and_resume,
    "ended-rows-say-when": lambda batch: reprocess(batch.databases, batch.id, Mode.failed, quiet),
    "archived-is-gone": lambda batch: archive(batch.databases, batch.id, quiet, quiet),
}


@pytest.fixture(scope="module")
def lived(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all faults: each is undone."""
    installation = lived_in(
        partial(sample_batch, empty_databases(settings), tmp_path_factory.mktemp("lived"))
    )
    installation.keep()
    yield installation
    installation.forget()


@pytest.fixture
def installation(lived: Installation) -> Iterator[Installation]:
    yield lived
    lived.put_back()


def test_every_invariant_has_a_name_of_its_own_and_a_plant() -> None:
    assert len(BY_NAME) == len(INVARIANTS)
    assert len({invariant.must_hold for invariant in INVARIANTS}) == len(INVARIANTS)
    assert list(PLANTS) == list(BY_NAME)


def test_nothing_offends_in_an_installation_that_was_lived_in(installation: Installation) -> None:
    assert list(violations(installation.databases, True, quiet)) == []
    assert {name: batch.status() for name, batch in installation.batches.items()} == {
        "saved": "SAVED",
        "paused": "PAUSED",
        "cancelled": "FAILED",
        "reprocessed": "COMPLETED",
        "rescanned": "COMPLETED",
        "archived": "COMPLETED",
        "running": "ANALYZING",
        "reusing": "COMPLETED",
    }
    poll(installation.databases)
    assert list(violations(installation.databases, True, quiet)) == []


@pytest.mark.parametrize(("name", "plant"), FAULTS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(FAULTS)])
def test_a_planted_fault_is_named_with_what_to_do(
    installation: Installation, name: str, plant: Plant
) -> None:
    invariant, batch = BY_NAME[name], installation[plant.batch]
    expected = plant.things(installation)
    databases = plant.set(installation)
    with reading(databases) as both:
        found = list(offences(both, invariant, Scope(sample=None, every_byte=True)))
    told = [v for v in violations(databases, True, quiet) if v.invariant == invariant.must_hold]
    assert expected
    assert [offence.thing for offence in found] == expected
    assert {offence.batch_id for offence in found} <= {batch.id, None}
    assert all(plant.mend.format(id=batch.id) in offence.mend for offence in found)
    assert [v.mend for v in told] == [offence.mend for offence in found]
    assert all(o.thing in v.batch + v.problem for v, o in zip(told, found, strict=True))
    assert "topsecret" not in json.dumps([asdict(violation) for violation in told])


@pytest.mark.parametrize("name", MENDS)
def test_what_is_told_to_do_mends_it(installation: Installation, name: str) -> None:
    # A gap of attempts, and a configuration of another program, are not for a command.
    plant = PLANTS[name][1 if name == "attempts-are-in-order" else 0]
    plant.set(installation)
    MENDS[name](installation[plant.batch])
    with reading(installation.databases) as both:
        assert list(offences(both, BY_NAME[name], Scope(sample=None, every_byte=True))) == []
