"""SIGKILL between any two steps of Dagster's daemon: each completed state is reported once."""

import random
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext

from doceval_pipeline.defs import partitions
from doceval_pipeline.knowledge.responses import digest
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.children import Child
from doceval_pipeline_tests.faults.daemon import daemon_of, live
from doceval_pipeline_tests.faults.scene import Scene
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full

FLIP = """
    UPDATE llm_responses SET status = 'S'
    WHERE id = (SELECT min(id) FROM llm_responses WHERE batch_id = :id AND status = 'F')
"""


@pytest.fixture
def daemon(scene: Scene, tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    with daemon_of(scene.databases.settings, tmp_path / "dagster") as context:
        yield context


def state_of(batch: Sample) -> str:
    with batch.databases.knowledge.connect() as connection:
        return digest(connection, batch.id)


def completed(scene: Scene, number: int) -> list[Sample]:
    """Batches of which every row failed, so that each can change as often as it has rows."""
    batches = scene.new_batches(number, documents=10, connections=2, prompts=2)
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


@short_and_full("kills, batches_at_once", (2, 2), (200, 10))
def test_each_completed_state_is_reported_once_whenever_the_daemon_is_killed(
    scene: Scene, daemon: WorkspaceProcessContext, kills: int, batches_at_once: int
) -> None:
    def undisturbed() -> int:
        ended = Child(scene.databases, partial(live, daemon)).end()
        assert ended.done, ended.error
        return ended.points

    batches = completed(scene, batches_at_once)
    daemon.instance.add_dynamic_partitions(partitions.NAME, [batch.key for batch in batches])
    points = undisturbed()
    states = {batch.key: [state_of(batch)] for batch in batches}
    chance, killed = random.Random(SEED), 0
    for batch in cycle(batches):
        batch.knowledge(FLIP)
        states[batch.key].append(state_of(batch))
        at = chance.randint(1, points)
        killed += Child(scene.databases, partial(live, daemon), at=at).end().killed
        if batch is batches[-1] or killed >= kills:
            # Before a batch changes again, so that no state is gone before anybody could see it.
            undisturbed()
            undisturbed()
        if killed >= kills:
            break
    reports = materialized(daemon.instance, "completion_report")
    told = {key: [str(r.metadata["result_digest"].value) for r in found] for key, found in reports.items()}
    print(f"{killed} kills at {points} points, {sum(map(len, states.values()))} states")
    assert told == states
    seen = materialized(daemon.instance, "llm_responses")
    assert {key: len(found) for key, found in seen.items() if len(found) < len(states[key])} == {}
    assert scene.violations() == []
