"""Runs the sides of an experiment in random order, and records the cost of each run.

Independent of the cases. Each run is a separate process (`child`). Meanwhile this process samples the memory
of the server and of programs that the work started.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.child import Figures, Work, name_of
from benchmarks.errors import BenchmarkError
from benchmarks.installation import Installation
from benchmarks.server import ServerMeter, descendants, status_bytes

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Side:
    """One way to do a piece of work.

    Parameters
    ----------
    work
        Called in a separate process with the databases and the result of `before`; returns the timed work.
    before
        Prepares each run, not timed: empties tables, creates a batch.
    check
        Called after each run with the work's figures; raises `WrongResult` if its result is wrong.
    environment
        Variables for the process.
    """

    name: str
    work: Work
    before: Callable[[Installation], dict[str, Any]]
    check: Callable[[Installation, Figures], None]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Sides that are run in turn on the same installation.

    Parameters
    ----------
    prepare
        Creates what all runs use; called once, not timed.
    rounds
        Number of runs of each side.
    around
        A context manager that is open during all runs.
    seconds_between_samples
        Of memory. Sampling all processes of the machine takes a third of a core if it is frequent.
    """

    name: str
    prepare: Callable[[Installation], None]
    sides: Sequence[Side]
    rounds: int
    around: Callable[[Installation], AbstractContextManager[Any]] = lambda _: nullcontext()
    seconds_between_samples: float = 0.02


@dataclass(frozen=True)
class Measurement:
    """The cost of one run of one side; `load` is the machine's load average just before it.

    `server_bytes` is the peak of all processes of the server together, `backend_bytes` of any one of them.
    """

    side: str
    round: int
    seconds: float
    client_cpu: float
    server_cpu: float
    wal_bytes: int
    client_bytes: int
    server_bytes: int
    backend_bytes: int
    load: float
    figures: Figures


def run(
    experiment: Experiment, installation: Installation, tell: Callable[[Measurement], None], seed: int = 1
) -> list[Measurement]:
    """Run every side once per round, in a new order each round.

    Raises
    ------
    BenchmarkError
        A run failed; `WrongResult` if its result is wrong.
    """
    order = random.Random(seed)
    experiment.prepare(installation)
    done = []
    with experiment.around(installation):
        for number in range(experiment.rounds):
            for side in order.sample(experiment.sides, len(experiment.sides)):
                measurement = _run_once(side, number, installation, experiment.seconds_between_samples)
                side.check(installation, measurement.figures)
                tell(measurement)
                done.append(measurement)
    return done


def _run_once(side: Side, number: int, installation: Installation, pause: float) -> Measurement:
    parameters = side.before(installation)
    load = os.getloadavg()[0]
    meter = ServerMeter(installation.home)
    request = json.dumps({"work": name_of(side.work), "parameters": parameters}) + "\n"
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env={**os.environ, **side.environment},
    )
    try:
        peaks, answer = _watch(child, meter, request, pause)
    finally:
        child.kill()  # it has already ended, unless this process is interrupted
    if child.returncode != 0:
        raise BenchmarkError(f"{side.name} ended with code {child.returncode}: see its output")
    measured = json.loads(answer)
    measured["client_bytes"] += peaks.started
    return Measurement(
        side=side.name,
        round=number,
        server_bytes=peaks.server,
        backend_bytes=peaks.backend,
        load=load,
        **measured,
    )


@dataclass
class _Peaks:
    """Peaks of private memory in bytes: of the server, of one of its processes, of the started programs."""

    server: int = 0
    backend: int = 0
    started: int = 0


def _watch(
    child: "subprocess.Popen[str]", meter: ServerMeter, request: str, pause: float
) -> tuple[_Peaks, str]:
    """Send a process its request, and wait for its answer."""
    peaks = _Peaks()
    given: str | None = request
    while True:
        private = meter.private_bytes()
        peaks.server = max(peaks.server, sum(private))
        peaks.backend = max(peaks.backend, *private)
        peaks.started = max(peaks.started, sum(status_bytes(p, "VmHWM") for p in descendants(child.pid)))
        with suppress(subprocess.TimeoutExpired):
            answer, _ = child.communicate(given, pause)
            return peaks, answer
        given = None
