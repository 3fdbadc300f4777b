"""SIGKILL between any two steps of Dagster's daemon: each completed state is reported once."""

import random
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext

from doceval_pipeline.batches.monitoring import run_requests
from doceval_pipeline.defs import partitions
from doceval_pipeline.knowledge.digests import digest
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.daemon import daemon_of, live
from doceval_pipeline_tests.faults.environment import Environment
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full

# A run that was lost while it began is given up a second later, and asked for again.
MOST_LIVES = 6
# Between two lives passes as much time as until a run is asked for again.
PASS = "UPDATE run_requests SET due_at = now()"
FLIP = """
    UPDATE llm_responses SET status = 'S'
    WHERE id = (SELECT min(id) FROM llm_responses WHERE batch_id = :id AND status = 'F')
"""


@pytest.fixture
def daemon(environment: Environment, tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    with daemon_of(environment.databases.settings, tmp_path / "dagster") as context:
        yield context


def state_of(batch: Sample) -> str:
    with batch.databases.knowledge.connect() as connection:
        return digest(connection, batch.id)


def completed(environment: Environment, number: int) -> list[Sample]:
    """Batches of which every row failed, so that each can change as often as it has rows."""
    batches = environment.new_batches(number, documents=10, connections=2, prompts=2)
    for batch in batches:
        batch.stage()
        batch.knowledge("UPDATE llm_responses SET status = 'F' WHERE batch_id = :id")
    return batches


def materialized(instance: dg.DagsterInstance, asset: str) -> dict[str, list[dg.AssetMaterialization]]:
    """The materializations of an asset by partition, the oldest first."""
    found = defaultdict(list)
    for record in instance.fetch_materializations(dg.AssetKey(asset), limit=10_000, ascending=True).records:
        assert record.asset_materialization is not None
        found[str(record.partition_key)].append(record.asset_materialization)
    return found


def reported(instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """Which results were reported of each batch, the first one first."""
    return {
        key: [str(report.metadata["result_digest"].value) for report in reports]
        for key, reports in materialized(instance, "completion_report").items()
    }


@short_and_full("kills, batches_at_once", (3, 2), (200, 10))
def test_each_completed_state_is_reported_once_whenever_the_daemon_is_killed(
    environment: Environment,
    daemon: WorkspaceProcessContext,
    monkeypatch: pytest.MonkeyPatch,
    kills: int,
    batches_at_once: int,
) -> None:
    monkeypatch.setattr(run_requests, "SECONDS_BEFORE_SECOND", 0.0)

    def undisturbed() -> int:
        batches[0].doc_eval(PASS)
        ended = FaultyProcess(environment.databases, partial(live, daemon)).end()
        assert ended.done, ended.error
        return ended.points

    batches = completed(environment, batches_at_once)
    states = {batch.key: [state_of(batch)] for batch in batches}
    daemon.instance.add_dynamic_partitions(partitions.NAME, list(states))
    undisturbed()

    def change(batch: Sample) -> None:
        batch.knowledge(FLIP)
        states[batch.key].append(state_of(batch))

    change(batches[0])
    points = undisturbed()
    chance, killed = random.Random(SEED), 0
    while killed < kills:
        for batch in batches:
            change(batch)
            at = chance.randint(1, points)
            batch.doc_eval(PASS)
            killed += FaultyProcess(environment.databases, partial(live, daemon), at=at).end().killed
        # Before a batch changes again, so that no state is gone before anybody could see it.
        for _ in range(MOST_LIVES):
            undisturbed()
            if reported(daemon.instance) == states:
                break
    undisturbed()
    print(f"{killed} kills at {points} points, {sum(map(len, states.values()))} states")
    assert reported(daemon.instance) == states
    seen = materialized(daemon.instance, "llm_responses")
    assert {key: len(found) for key, found in seen.items() if len(found) < len(states[key])} == {}
    environment.require_nothing_wrong()
