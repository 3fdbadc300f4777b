"""The database server is stopped at once, as by a power cut, under whatever is done to a batch."""

import os
import random
import signal
from functools import partial

import psutil

from doceval_pipeline.embedded.processes import wait_for_end
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.faults.environment import Environment
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess
from doceval_pipeline_tests.faults.operations import OPERATIONS
from doceval_pipeline_tests.faults.runs import prepared, require_recovery, undisturbed
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full


def stop_at_once(server: EmbeddedServer) -> None:
    """PostgreSQL's immediate shutdown: no checkpoint, and recovery from the WAL at the next start."""
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    os.kill(postmaster.pid, signal.SIGQUIT)
    assert not wait_for_end([postmaster], 60)


@short_and_full("restarts", (2,), (24,))
def test_the_server_may_be_stopped_at_once_at_any_point(environment: Environment, restarts: int) -> None:
    server, chance = EmbeddedServer(environment.databases.settings.home), random.Random(SEED)
    for number in range(restarts):
        operation = OPERATIONS[number % len(OPERATIONS)]
        state, points, _ = undisturbed(environment, operation)
        batch = prepared(environment, operation)
        at = chance.randint(1, points)
        ended = FaultyProcess(
            environment.databases, partial(operation.run, batch), at, partial(stop_at_once, server)
        ).end()
        assert not server.is_running()
        server.ensure()
        if ended.done:
            # It was stopped after the last commit.
            environment.tick()
            environment.require(batch, state)
        else:
            assert ended.error is not None
            assert "\n" not in ended.error
            require_recovery(environment, operation, batch, state)
