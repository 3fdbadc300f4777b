"""Each invariant holds in an installation that has been used, and reports its corruptions."""

import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.invariants.invariant import Scope
from doceval_pipeline.batches.invariants.registry import INVARIANTS
from doceval_pipeline.batches.invariants.runner import read_only, violations_of
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, pause, reprocess, resume
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.batches.invariants.corruptions.corruption import Corruption
from doceval_pipeline_tests.batches.invariants.corruptions.registry import CORRUPTIONS
from doceval_pipeline_tests.batches.invariants.installation import Installation, quiet, used_installation
from doceval_pipeline_tests.conftest import Sample, empty_databases, sample_batch

BY_NAME = {invariant.name: invariant for invariant in INVARIANTS}
CASES = [(name, corruption) for name, each in CORRUPTIONS.items() for corruption in each]


def _recount(batch: Sample) -> None:
    batch.knowledge("SELECT recount_responses(:id)")
    poll(batch.databases)


def _pause_and_resume(batch: Sample) -> None:
    pause(batch.databases, batch.id)
    resume(batch.databases, batch.id)


# The suggested fixes that are a command or a statement.
FIXES: dict[str, Callable[[Sample], object]] = {
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
    """One installation for all corruptions: each is undone."""
    installation = used_installation(
        partial(sample_batch, empty_databases(settings), tmp_path_factory.mktemp("lived"))
    )
    installation.save()
    yield installation
    installation.drop_copies()


@pytest.fixture
def installation(lived: Installation) -> Iterator[Installation]:
    yield lived
    lived.restore()


def test_every_invariant_has_its_own_name_and_a_corruption() -> None:
    assert len(BY_NAME) == len(INVARIANTS)
    assert len({invariant.statement for invariant in INVARIANTS}) == len(INVARIANTS)
    assert list(CORRUPTIONS) == list(BY_NAME)


def test_an_installation_that_has_been_used_violates_nothing(installation: Installation) -> None:
    assert list(audit_installation(installation.databases, quiet, every_document=True)) == []
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
    assert list(audit_installation(installation.databases, quiet, every_document=True)) == []


@pytest.mark.parametrize(
    ("name", "corruption"), CASES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(CASES)]
)
def test_a_corruption_is_reported_with_its_fix(
    installation: Installation, name: str, corruption: Corruption
) -> None:
    invariant, batch = BY_NAME[name], installation[corruption.batch]
    expected = corruption.subjects(installation)
    databases = corruption.apply(installation)
    with read_only(databases) as connections:
        found = list(violations_of(connections, invariant, Scope(sample=None, every_byte=True)))
    findings = [
        v
        for v in audit_installation(databases, quiet, every_document=True)
        if v.invariant == invariant.statement
    ]
    assert expected
    assert [violation.subject for violation in found] == expected
    assert {violation.batch_id for violation in found} <= {batch.id, None}
    assert all(corruption.fix.format(id=batch.id) in violation.fix for violation in found)
    assert [f.fix for f in findings] == [violation.fix for violation in found]
    assert all(v.subject in f.batch + f.problem for f, v in zip(findings, found, strict=True))
    assert "topsecret" not in json.dumps([finding.as_json() for finding in findings])


@pytest.mark.parametrize("name", FIXES)
def test_the_suggested_fix_works(installation: Installation, name: str) -> None:
    # No command fixes a gap of attempts or a configuration written by another program.
    corruption = CORRUPTIONS[name][1 if name == "attempts-are-in-order" else 0]
    corruption.apply(installation)
    FIXES[name](installation[corruption.batch])
    with read_only(installation.databases) as connections:
        assert list(violations_of(connections, BY_NAME[name], Scope(sample=None, every_byte=True))) == []
