"""Runs operations: undisturbed for comparison, and again after a fault."""

import time
from contextlib import suppress

from doceval_pipeline.errors import BatchStateError
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.environment import Environment, State
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess
from doceval_pipeline_tests.faults.operations import Operation


def prepared(environment: Environment, operation: Operation) -> Sample:
    """A new batch that is prepared for an operation."""
    batch = environment.new_batch()
    operation.prepare(batch)
    return batch


def undisturbed(environment: Environment, operation: Operation) -> tuple[State, int, float]:
    """The state after an operation, the number of its points, and its seconds, without a fault."""
    batch = prepared(environment, operation)
    started = time.monotonic()
    ended = FaultyProcess(environment.databases, lambda: operation.run(batch)).end()
    seconds = time.monotonic() - started
    assert ended.done, ended.error
    environment.tick()
    state = environment.state(batch)
    environment.require(batch, state)
    return state, ended.points, seconds


def require_recovery(environment: Environment, operation: Operation, batch: Sample, state: State) -> None:
    """Requires that repeating the operation, and the next ticks, lead to the undisturbed state."""
    # An operation that was complete before the fault is rejected.
    with suppress(BatchStateError):
        operation.run(batch)
    environment.tick()
    environment.require(batch, state)


def sample_points(operation: Operation, points: int, most: int) -> list[int]:
    """About `most` points of an operation, or all; the first point differs between operations."""
    stride = max(1, points // most)
    return list(range(1 + len(operation.name) % stride, points + 1, stride))
