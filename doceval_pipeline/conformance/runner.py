"""The trials: each queues its cases, runs the processor, disturbs it, and notes what came of it.

Nothing is judged here; `verdicts` does that.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from doceval_pipeline.conformance.cases import Case, Trial, cases_of
from doceval_pipeline.conformance.document_match import Arrival
from doceval_pipeline.conformance.fake_openai import KEY, Model, served
from doceval_pipeline.conformance.processes import Processor
from doceval_pipeline.conformance.scratch import KEY_VARIABLE, Scratch, SeenRow, scratch_database
from doceval_pipeline.embedded.server import EmbeddedServer

SECONDS_BETWEEN_LOOKS = 0.1
# How long a processor is watched for signs of life while the model makes it wait.
# Longer than the forty seconds that docs/processors.md recommends.
SECONDS_FOR_A_HEARTBEAT = 45.0
# Long enough to write a late result, and to end because of it.
SECONDS_TO_BREAK = 2
INSTANCES_TOGETHER = 3
# Together they are asked about a case for this long, so that they are at work at the same time.
SECONDS_OF_AN_ANSWER = 0.05


@dataclass
class Seen:
    """What a trial saw; times in seconds.

    `asked` is false where the case that mattered never reached the model; `exit_code` is None where
    the processor had to be ended, `seconds_to_stop` where it had to be killed. `lease` is how long a lease
    lasts, `watched` for how long it was watched at most for the next renewal. `strangers` is how many
    requests held the prompt of no case so far.
    """

    cases: Sequence[Case]
    rows: dict[int, SeenRow] = field(default_factory=dict)
    calls: dict[int, list[Arrival]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    strangers: int = 0
    asked: bool = True
    heartbeat: bool = False
    lease: float = 0.0
    watched: float = 0.0
    exit_code: int | None = None
    seconds_to_stop: float | None = None
    last_words: str = ""

    @property
    def uses_leases(self) -> bool:
        """Whether any row was claimed by the functions."""
        return any(row.deliveries for row in self.rows.values())

    @property
    def finished(self) -> bool:
        """Whether every row succeeded or failed."""
        return all(row.done for row in self.rows.values())


def run_trials(
    command: Sequence[str], server: EmbeddedServer, seconds: float, tell: Callable[[Trial], None]
) -> dict[Trial, Seen]:
    """Try a processor in a scratch database, which is gone afterwards.

    Parameters
    ----------
    command
        The processor and its arguments.
    seconds
        How long each trial may take.
    tell
        Told which trial begins.

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
        seen: dict[Trial, Seen] = {}
        for trial in Trial:
            tell(trial)
            seen[trial] = runs.run(trial)
        return seen


@dataclass
class _Runs:
    """What all trials share."""

    command: Sequence[str]
    scratch: Scratch
    model: Model
    base_url: str
    output: Path
    seconds: float

    def run(self, trial: Trial) -> Seen:
        batch_id = list(Trial).index(trial) + 1
        seen = Seen(cases_of(trial))
        seconds = SECONDS_OF_AN_ANSWER if trial is Trial.together else 0.0
        self.model.prepare(seen.cases, trial in (Trial.killed, Trial.late), seconds)
        self.scratch.queue_cases(batch_id, seen.cases, self.base_url)
        running: list[Processor] = []
        try:
            getattr(self, f"_{trial}")(batch_id, seen, running)
            seen.exit_code = running[-1].exit_code
        finally:
            self.model.answers.set()
            stopped = [processor.stop() for processor in running]
        seen.seconds_to_stop = stopped[-1]
        seen.last_words = running[-1].last_words()
        seen.rows = {row.number: row for row in self.scratch.rows(batch_id)}
        seen.calls = {case.number: self.model.calls.get(case.number, []) for case in seen.cases}
        seen.keys = set(self.model.keys)
        seen.strangers = self.model.strangers
        self.scratch.close(batch_id)
        return seen

    def _rights(self, batch_id: int, seen: Seen, running: list[Processor]) -> None:
        """Learn how the processor claims, and take the rights away that its kind does not have."""
        self._start(running)
        self._await(lambda: self._is_done(batch_id), running)
        (row,) = self.scratch.rows(batch_id)
        if row.status != "QUEUED":
            self.scratch.restrict(leased=row.deliveries > 0)

    def _documents(self, batch_id: int, seen: Seen, running: list[Processor]) -> None:
        self._start(running)
        self._await(lambda: self._is_done(batch_id), running)

    def _together(self, batch_id: int, seen: Seen, running: list[Processor]) -> None:
        for _ in range(INSTANCES_TOGETHER):
            self._start(running)
        self._await(lambda: self._is_done(batch_id), running)

    def _killed(self, batch_id: int, seen: Seen, running: list[Processor]) -> None:
        self._start(running)
        seen.asked = self._await(lambda: seen.cases[0].number in self.model.calls, running)
        running[0].kill()
        self.model.answers.set()
        self.scratch.end_leases()
        self._start(running)
        (row,) = self.scratch.rows(batch_id)
        # Nobody takes a row back from a plain processor: there is nothing to wait for.
        if row.deliveries:
            self._await(lambda: self._is_done(batch_id), running)

    def _late(self, batch_id: int, seen: Seen, running: list[Processor]) -> None:
        self._start(running)
        seen.asked = self._await(lambda: seen.cases[0].number in self.model.calls, running)
        (before,) = self.scratch.rows(batch_id)
        if before.deliveries:
            # A lease lasts longer than two heartbeats: none of them comes later than after its half.
            seen.lease = before.lease_seconds or 0.0
            seen.watched = min(seen.lease / 2 + 1, SECONDS_FOR_A_HEARTBEAT)
            seen.heartbeat = self._await(
                lambda: self.scratch.rows(batch_id)[0].lease_expires_at != before.lease_expires_at,
                running,
                seen.watched,
            )
        self.scratch.answer_in_its_place(batch_id, leased=before.deliveries > 0)
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
        """Wait for what other processes do, as long as any processor lives and there is time."""
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        pause = Event()
        while not condition():
            ended = all(processor.exit_code is not None for processor in running)
            if ended or time.monotonic() > deadline:
                return condition()
            pause.wait(SECONDS_BETWEEN_LOOKS)
        return True
