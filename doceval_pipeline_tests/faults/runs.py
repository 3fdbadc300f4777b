"""Runs of acts: undisturbed ones, to compare with, and such that make good what a fault has left."""

import time
from contextlib import suppress

from doceval_pipeline.errors import BatchStateError
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.environment import Scene, State
from doceval_pipeline_tests.faults.faulty_process import Child
from doceval_pipeline_tests.faults.operations import Act


def begun(scene: Scene, act: Act) -> Sample:
    """The batch as it is before an act."""
    batch = scene.new_batch()
    act.prepare(batch)
    return batch


def undisturbed(scene: Scene, act: Act) -> tuple[State, int, float]:
    """What an act leads to, how many points it passes, and how many seconds it takes."""
    batch = begun(scene, act)
    started = time.monotonic()
    ended = Child(scene.databases, lambda: act.do(batch)).end()
    seconds = time.monotonic() - started
    assert ended.done, ended.error
    scene.tick()
    state = scene.state(batch)
    scene.require(batch, state)
    return state, ended.points, seconds


def made_good(scene: Scene, act: Act, batch: Sample, state: State) -> None:
    """Asking once more, and the next ticks, lead to the state of an undisturbed run."""
    # What people ask for is refused where it had been done before the fault.
    with suppress(BatchStateError):
        act.do(batch)
    scene.tick()
    scene.require(batch, state)


def some_points(act: Act, points: int, most: int) -> list[int]:
    """About `most` of an act's points, or all; from one on that differs from act to act."""
    stride = max(1, points // most)
    return list(range(1 + len(act.name) % stride, points + 1, stride))
