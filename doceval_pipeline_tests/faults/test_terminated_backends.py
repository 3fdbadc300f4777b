"""Backends that an administrator terminates under a run: one line for people, and no false success."""

import multiprocessing
import random
import time
from functools import partial

import pytest

from doceval_pipeline_tests.cli.running import query
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.environment import Scene, State
from doceval_pipeline_tests.faults.faulty_process import Child, Ended
from doceval_pipeline_tests.faults.operations import ACTS, STAGING, Act
from doceval_pipeline_tests.faults.runs import begun, made_good, some_points, undisturbed
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full

TERMINATE = """
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'doceval'
"""


class Administrator:
    """Terminates every backend of the pipeline; counts them, over all processes."""

    def __init__(self, scene: Scene) -> None:
        self._home = scene.databases.settings.home
        self._count = multiprocessing.Value("i")

    def terminate(self) -> None:
        ((backends,),) = query(self._home, TERMINATE)
        self._count.value += backends

    @property
    def terminated(self) -> int:
        return int(self._count.value)


def judged(scene: Scene, act: Act, batch: Sample, state: State, ended: Ended) -> None:
    """It either was done, all of it, or was told in a line; and asking again makes it good."""
    if ended.done:
        scene.tick()
        scene.require(batch, state)
    else:
        assert ended.error is not None
        assert "\n" not in ended.error
        made_good(scene, act, batch, state)


@short_and_full("most", (2,), (100,))
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name.replace(" ", "-"))
def test_backends_may_be_terminated_at_any_point(scene: Scene, act: Act, most: int) -> None:
    state, points, _ = undisturbed(scene, act)
    administrator = Administrator(scene)
    for point in some_points(act, points, most):
        batch = begun(scene, act)
        scene.disconnect()
        child = Child(scene.databases, partial(act.do, batch), point, administrator.terminate)
        judged(scene, act, batch, state, child.end())
    print(f"{act.name}: {administrator.terminated} backends terminated")
    assert administrator.terminated


@short_and_full("backends", (10,), (600,))
def test_backends_may_be_terminated_at_any_moment(scene: Scene, backends: int) -> None:
    state, _, seconds = undisturbed(scene, STAGING)
    chance, administrator = random.Random(SEED), Administrator(scene)
    while administrator.terminated < backends:
        batch = begun(scene, STAGING)
        scene.disconnect()
        child = Child(scene.databases, batch.stage)
        time.sleep(chance.uniform(0, seconds))
        administrator.terminate()
        judged(scene, STAGING, batch, state, child.end())
