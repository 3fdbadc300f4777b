"""Backends that an administrator terminates under a run: one line for people, and no false success."""

import multiprocessing
import random
import time
from functools import partial

import pytest

from doceval_pipeline_tests.cli.running import query
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.environment import Environment, State
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess, ProcessEnd
from doceval_pipeline_tests.faults.operations import OPERATIONS, STAGING, Operation
from doceval_pipeline_tests.faults.runs import prepared, require_recovery, sample_points, undisturbed
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full

TERMINATE = """
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'doceval'
"""


class Administrator:
    """Terminates every backend of the pipeline; counts them, over all processes."""

    def __init__(self, environment: Environment) -> None:
        self._home = environment.databases.settings.home
        self._count = multiprocessing.Value("i")

    def terminate(self) -> None:
        ((backends,),) = query(self._home, TERMINATE)
        self._count.value += backends

    @property
    def terminated(self) -> int:
        return int(self._count.value)


def require_sound(
    environment: Environment, operation: Operation, batch: Sample, state: State, ended: ProcessEnd
) -> None:
    """Requires complete success or an error of one line; repeating the operation then succeeds."""
    if ended.done:
        environment.tick()
        environment.require(batch, state)
    else:
        assert ended.error is not None
        assert "\n" not in ended.error
        require_recovery(environment, operation, batch, state)


@short_and_full("most", (2,), (100,))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name.replace(" ", "-"))
def test_backends_may_be_terminated_at_any_point(
    environment: Environment, operation: Operation, most: int
) -> None:
    state, points, _ = undisturbed(environment, operation)
    administrator = Administrator(environment)
    for point in sample_points(operation, points, most):
        batch = prepared(environment, operation)
        environment.disconnect()
        child = FaultyProcess(
            environment.databases, partial(operation.run, batch), point, administrator.terminate
        )
        require_sound(environment, operation, batch, state, child.end())
    print(f"{operation.name}: {administrator.terminated} backends terminated")
    assert administrator.terminated


@short_and_full("backends", (10,), (600,))
def test_backends_may_be_terminated_at_any_moment(environment: Environment, backends: int) -> None:
    state, _, seconds = undisturbed(environment, STAGING)
    chance, administrator = random.Random(SEED), Administrator(environment)
    while administrator.terminated < backends:
        batch = prepared(environment, STAGING)
        environment.disconnect()
        child = FaultyProcess(environment.databases, batch.stage)
        time.sleep(chance.uniform(0, seconds))
        administrator.terminate()
        require_sound(environment, STAGING, batch, state, child.end())
