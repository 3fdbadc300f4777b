"""SIGKILL at every point of what is done to a batch, and at any moment, also of two runs at once."""

import random
import time
from functools import partial

import pytest

from doceval_pipeline_tests.faults.environment import Scene
from doceval_pipeline_tests.faults.faulty_process import Child
from doceval_pipeline_tests.faults.operations import ACTS, LOOKING, STAGING, Act
from doceval_pipeline_tests.faults.runs import begun, made_good, some_points, undisturbed
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full


@short_and_full("most", (6,), (1_000,))
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name.replace(" ", "-"))
def test_what_is_killed_at_any_point_is_made_good_by_asking_again(scene: Scene, act: Act, most: int) -> None:
    state, points, _ = undisturbed(scene, act)
    kills, chosen = 0, some_points(act, points, most)
    for point in chosen:
        batch = begun(scene, act)
        results = scene.results(batch)
        kills += Child(scene.databases, partial(act.do, batch), at=point).end().killed
        scene.require_nothing_lost(batch, results)
        made_good(scene, act, batch, state)
    print(f"{act.name}: {kills} kills at {points} points")
    # Threads that store documents do not pass the same number of points each time.
    assert kills >= len(chosen) - 2


@short_and_full("kills", (5,), (200,))
def test_staging_that_is_killed_at_any_moment_again_and_again_is_made_good(scene: Scene, kills: int) -> None:
    state, _, seconds = undisturbed(scene, STAGING)
    chance = random.Random(SEED)
    batch, killed = begun(scene, STAGING), 0
    while killed < kills:
        child = Child(scene.databases, batch.stage)
        time.sleep(chance.uniform(0, seconds))
        child.kill()
        ended = child.end()
        killed += ended.killed
        scene.require_nothing_lost(batch, set())
        if ended.done or killed % 5 == 0:
            made_good(scene, STAGING, batch, state)
            batch = begun(scene, STAGING)


@short_and_full("rounds", (4,), (100,))
def test_two_runs_of_a_batch_at_once_lead_to_the_same_whoever_is_killed(scene: Scene, rounds: int) -> None:
    state, points, seconds = undisturbed(scene, STAGING)
    chance = random.Random(SEED)
    killed = 0
    for number in range(rounds):
        batch = begun(scene, STAGING)
        # In every fourth round nobody is killed, and in the others one at a point, the other at a moment.
        at = 0 if number % 4 == 0 else chance.randint(1, points)
        runs = [Child(scene.databases, batch.stage, at=at), Child(scene.databases, batch.stage)]
        sensor = Child(scene.databases, partial(LOOKING.do, batch))
        if number % 4 > 1:
            time.sleep(chance.uniform(0, 2 * seconds))
            runs[1].kill()
        ends = [run.end() for run in runs]
        assert {end.error for end in [*ends, sensor.end()]} == {None}
        killed += sum(end.killed for end in ends)
        if any(end.done for end in ends):
            assert scene.state(batch) == state, "what is said to be done is done"
        made_good(scene, STAGING, batch, state)
    print(f"{killed} kills in {rounds} rounds")
