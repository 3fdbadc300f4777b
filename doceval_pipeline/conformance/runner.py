"""Runs the scenarios: each queues its cases, runs and disturbs the processor, and records observations.

`verdicts` evaluates the observations.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from doceval_pipeline.conformance.cases import ConformanceCase, Scenario, cases_of
from doceval_pipeline.conformance.document_match import DocumentMatch
from doceval_pipeline.conformance.fake_openai import KEY, Model, served
from doceval_pipeline.conformance.processes import Processor
from doceval_pipeline.conformance.scratch import KEY_VARIABLE, ObservedRow, Scratch, scratch_database
from doceval_pipeline.embedded.server import EmbeddedServer

SECONDS_BETWEEN_POLLS = 0.1
# How long to wait for a heartbeat of the processor while the model delays its response.
# Longer than the forty seconds that docs/processors.md recommends.
SECONDS_FOR_A_HEARTBEAT = 45.0
# Long enough for the processor to write a late result, or to crash because of it.
SECONDS_TO_BREAK = 2
INSTANCES_TOGETHER = 3
# The model responds this slowly to concurrent instances, so that all of them are working at the same time.
SECONDS_OF_AN_ANSWER = 0.05


@dataclass
class Observation:
    """Observations of one scenario; times in seconds.

    `asked` is False if the decisive case never reached the model. `exit_code` is None if the processor had
    to be stopped, `seconds_to_stop` if it had to be killed. `lease` is the duration of a lease, `watched` the
    maximum time that was waited for its renewal. `unknown_requests` counts requests without the prompt of
    a case so far.
    """

    cases: Sequence[ConformanceCase]
    rows: dict[int, ObservedRow] = field(default_factory=dict)
    calls: dict[int, list[DocumentMatch]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    unknown_requests: int = 0
    asked: bool = True
    heartbeat: bool = False
    lease: float = 0.0
    watched: float = 0.0
    exit_code: int | None = None
    seconds_to_stop: float | None = None
    last_output: str = ""

    @property
    def uses_leases(self) -> bool:
        """Whether any row was claimed with the SQL functions."""
        return any(row.deliveries for row in self.rows.values())

    @property
    def finished(self) -> bool:
        """Whether every row succeeded or failed."""
        return all(row.done for row in self.rows.values())


def run_scenarios(
    command: Sequence[str], server: EmbeddedServer, seconds: float, on_scenario: Callable[[Scenario], None]
) -> dict[Scenario, Observation]:
    """Test a processor in a scratch database, which is dropped afterwards.

    Parameters
    ----------
    command
        The processor and its arguments.
    seconds
        Time limit of each scenario.
    on_scenario
        Called with each scenario when it begins.

    Raises
    ------
    ConfigurationError
        The command cannot be started.
    """
    model = Model()
    with ExitStack() as stack:
        base_url = stack.enter_context(served(model))
        scratch = stack.enter_context(scratch_database(server))
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "processor.log"
        runs = _Runs(command, scratch, model, base_url, output, seconds)
        observations: dict[Scenario, Observation] = {}
        for scenario in Scenario:
            on_scenario(scenario)
            observations[scenario] = runs.run(scenario)
        return observations


@dataclass
class _Runs:
    """Shared state of all scenarios."""

    command: Sequence[str]
    scratch: Scratch
    model: Model
    base_url: str
    output: Path
    seconds: float

    def run(self, scenario: Scenario) -> Observation:
        batch_id = list(Scenario).index(scenario) + 1
        observation = Observation(cases_of(scenario))
        seconds = SECONDS_OF_AN_ANSWER if scenario is Scenario.together else 0.0
        is_blocked = scenario in (Scenario.killed, Scenario.late)
        self.model.prepare(observation.cases, is_blocked=is_blocked, seconds=seconds)
        self.scratch.queue_cases(batch_id, observation.cases, self.base_url)
        running: list[Processor] = []
        try:
            getattr(self, f"_{scenario}")(batch_id, observation, running)
            observation.exit_code = running[-1].exit_code
        finally:
            self.model.answers.set()
            stopped = [processor.stop() for processor in running]
        observation.seconds_to_stop = stopped[-1]
        observation.last_output = running[-1].last_output()
        observation.rows = {row.number: row for row in self.scratch.rows(batch_id)}
        observation.calls = {case.number: self.model.calls.get(case.number, []) for case in observation.cases}
        observation.keys = set(self.model.keys)
        observation.unknown_requests = self.model.unknown_requests
        self.scratch.close(batch_id)
        return observation

    def _rights(self, batch_id: int, observation: Observation, running: list[Processor]) -> None:
        """Observe how the processor claims, and revoke the rights that its kind lacks in production."""
        self._start(running)
        self._await(lambda: self._is_done(batch_id), running)
        (row,) = self.scratch.rows(batch_id)
        if row.status != "QUEUED":
            self.scratch.restrict(is_leased=row.deliveries > 0)

    def _documents(self, batch_id: int, observation: Observation, running: list[Processor]) -> None:
        self._start(running)
        self._await(lambda: self._is_done(batch_id), running)

    def _together(self, batch_id: int, observation: Observation, running: list[Processor]) -> None:
        for _ in range(INSTANCES_TOGETHER):
            self._start(running)
        self._await(lambda: self._is_done(batch_id), running)

    def _killed(self, batch_id: int, observation: Observation, running: list[Processor]) -> None:
        self._start(running)
        observation.asked = self._await(lambda: observation.cases[0].number in self.model.calls, running)
        running[0].kill()
        self.model.answers.set()
        self.scratch.end_leases()
        self._start(running)
        (row,) = self.scratch.rows(batch_id)
        # The row of a plain processor is never taken back: there is nothing to wait for.
        if row.deliveries:
            self._await(lambda: self._is_done(batch_id), running)

    def _late(self, batch_id: int, observation: Observation, running: list[Processor]) -> None:
        self._start(running)
        observation.asked = self._await(lambda: observation.cases[0].number in self.model.calls, running)
        (before,) = self.scratch.rows(batch_id)
        if before.deliveries:
            # A lease lasts longer than two heartbeats, so the first one comes within half of it.
            observation.lease = before.lease_seconds or 0.0
            observation.watched = min(observation.lease / 2 + 1, SECONDS_FOR_A_HEARTBEAT)
            observation.heartbeat = self._await(
                lambda: self.scratch.rows(batch_id)[0].lease_expires_at != before.lease_expires_at,
                running,
                observation.watched,
            )
        self.scratch.write_other_result(batch_id, is_leased=before.deliveries > 0)
        self.model.answers.set()
        self._await(lambda: False, running, SECONDS_TO_BREAK)

    def _start(self, running: list[Processor]) -> None:
        environment = {"KNOWLEDGE_DOCUMENTS_URL": self.scratch.url, KEY_VARIABLE: KEY}
        running.append(Processor(self.command, environment, self.output))

    def _is_done(self, batch_id: int) -> bool:
        return all(row.done for row in self.scratch.rows(batch_id))

    def _await(
        self, condition: Callable[[], bool], running: list[Processor], seconds: float | None = None
    ) -> bool:
        """Wait for a condition while any processor runs and time is left; returns whether it holds."""
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        pause = Event()
        while not condition():
            ended = all(processor.exit_code is not None for processor in running)
            if ended or time.monotonic() > deadline:
                return condition()
            pause.wait(SECONDS_BETWEEN_POLLS)
        return True
