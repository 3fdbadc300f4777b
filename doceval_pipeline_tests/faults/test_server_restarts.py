"""The database server is stopped at once, as by a power cut, under whatever is done to a batch."""

import os
import random
import signal
from functools import partial

import psutil

from doceval_pipeline.embedded.processes import still_there
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.faults.environment import Scene
from doceval_pipeline_tests.faults.faulty_process import Child
from doceval_pipeline_tests.faults.operations import ACTS
from doceval_pipeline_tests.faults.runs import begun, made_good, undisturbed
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full


def stop_at_once(server: EmbeddedServer) -> None:
    """PostgreSQL's immediate shutdown: no checkpoint, and recovery from the WAL at the next start."""
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split()[0]))
    os.kill(postmaster.pid, signal.SIGQUIT)
    assert not still_there([postmaster], 60)


@short_and_full("restarts", (2,), (24,))
def test_the_server_may_be_stopped_at_once_at_any_point(scene: Scene, restarts: int) -> None:
    server, chance = EmbeddedServer(scene.databases.settings.home), random.Random(SEED)
    for number in range(restarts):
        act = ACTS[number % len(ACTS)]
        state, points, _ = undisturbed(scene, act)
        batch = begun(scene, act)
        at = chance.randint(1, points)
        ended = Child(scene.databases, partial(act.do, batch), at, partial(stop_at_once, server)).end()
        assert not server.is_running()
        server.ensure()
        if ended.done:
            # It was stopped after the last commit.
            scene.tick()
            scene.require(batch, state)
        else:
            assert ended.error is not None
            assert "\n" not in ended.error
            made_good(scene, act, batch, state)
