"""SIGKILL at every point of what is done to a batch, and at any moment, also of two runs at once."""

import random
import time
from functools import partial

import pytest

from doceval_pipeline_tests.faults.environment import Environment
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess
from doceval_pipeline_tests.faults.operations import OPERATIONS, POLLING, STAGING, Operation
from doceval_pipeline_tests.faults.runs import prepared, require_recovery, sample_points, undisturbed
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full


@short_and_full("most", (6,), (1_000,))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name.replace(" ", "-"))
def test_an_operation_that_is_killed_at_any_point_can_be_repeated(
    environment: Environment, operation: Operation, most: int
) -> None:
    state, points, _ = undisturbed(environment, operation)
    kills, chosen = 0, sample_points(operation, points, most)
    for point in chosen:
        batch = prepared(environment, operation)
        results = environment.results(batch)
        kills += FaultyProcess(environment.databases, partial(operation.run, batch), at=point).end().killed
        environment.require_nothing_lost(batch, results)
        require_recovery(environment, operation, batch, state)
    print(f"{operation.name}: {kills} kills at {points} points")
    # Threads that store documents do not pass the same number of points each time.
    assert kills >= len(chosen) - 2


@short_and_full("kills", (5,), (200,))
def test_staging_recovers_from_repeated_kills_at_any_moment(environment: Environment, kills: int) -> None:
    state, _, seconds = undisturbed(environment, STAGING)
    chance = random.Random(SEED)
    batch, killed = prepared(environment, STAGING), 0
    while killed < kills:
        child = FaultyProcess(environment.databases, batch.stage)
        time.sleep(chance.uniform(0, seconds))
        child.kill()
        ended = child.end()
        killed += ended.killed
        environment.require_nothing_lost(batch, set())
        if ended.done or killed % 5 == 0:
            require_recovery(environment, STAGING, batch, state)
            batch = prepared(environment, STAGING)


@short_and_full("rounds", (4,), (100,))
def test_two_concurrent_runs_lead_to_the_same_state_whichever_is_killed(
    environment: Environment, rounds: int
) -> None:
    state, points, seconds = undisturbed(environment, STAGING)
    chance = random.Random(SEED)
    killed = 0
    for number in range(rounds):
        batch = prepared(environment, STAGING)
        # In every fourth round nobody is killed, and in the others one at a point, the other at a moment.
        at = 0 if number % 4 == 0 else chance.randint(1, points)
        runs = [
            FaultyProcess(environment.databases, batch.stage, at=at),
            FaultyProcess(environment.databases, batch.stage),
        ]
        sensor = FaultyProcess(environment.databases, partial(POLLING.run, batch))
        if number % 4 > 1:
            time.sleep(chance.uniform(0, 2 * seconds))
            runs[1].kill()
        ends = [run.end() for run in runs]
        assert {end.error for end in [*ends, sensor.end()]} == {None}
        killed += sum(end.killed for end in ends)
        if any(end.done for end in ends):
            assert environment.state(batch) == state, "what is said to be done is done"
        require_recovery(environment, STAGING, batch, state)
    print(f"{killed} kills in {rounds} rounds")
