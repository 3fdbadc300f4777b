"""Turns the observations of the scenarios into one verdict per requirement of the contract."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from doceval_pipeline.conformance.cases import KNOWN_CUT, ConformanceCase, ModelBehaviour, Scenario
from doceval_pipeline.conformance.fake_openai import INPUT_TOKENS, KEY, OUTPUT_TOKENS, SECONDS_BUSY
from doceval_pipeline.conformance.processes import SECONDS_TO_STOP
from doceval_pipeline.conformance.runner import Observation
from doceval_pipeline.conformance.scratch import PLAIN_WORKER, WORKER

_EVERY_ROW, _STOPS = "every row ends as success or failure", "the processor stops on SIGTERM"
_NOT_ASKED = "the model received no request"


class Verdict(StrEnum):
    """Verdict of a check: `absent` if an optional behaviour is missing, `unclear` if it was not observed."""

    passed = "passed"
    failed = "failed"
    absent = "absent"
    unclear = "unclear"


@dataclass(frozen=True)
class Check:
    """One check: the behaviour, whether the contract requires it, the verdict, and the observation."""

    behaviour: str
    verdict: Verdict
    observation: str
    is_required: bool = field(kw_only=True)

    @property
    def violates(self) -> bool:
        """Whether the processor violates its contract because of this check."""
        return self.is_required and self.verdict is Verdict.failed

    def as_json(self) -> dict[str, Any]:
        """Its shape in `doceval conformance --json`."""
        return {
            "what": self.behaviour,
            "required": self.is_required,
            "verdict": self.verdict,
            "seen": self.observation,
        }


def evaluate(scenarios: dict[Scenario, Observation]) -> list[Check]:
    """All checks, in the order of the scenarios.

    If the model received no request, the first check says so, and checks that need a response are `unclear`.
    """
    documents = scenarios[Scenario.documents]
    checks = [
        _every_row_ends(documents),
        *(
            _document_arrives(documents, case)
            for case in documents.cases
            if case.behaviour is ModelBehaviour.score
        ),
        _known_cut(documents),
        *_results(documents),
        _concurrent(scenarios[Scenario.together]),
        _killed(scenarios[Scenario.killed]),
        *_late(scenarios[Scenario.late]),
        _stops(scenarios[Scenario.late]),
    ]
    if any(calls for seen in scenarios.values() for calls in seen.calls.values()):
        return checks
    return [_never_asked(scenarios), *map(_without_responses, checks)]


def _never_asked(scenarios: dict[Scenario, Observation]) -> Check:
    documents = scenarios[Scenario.documents]
    if unknown_requests := max(seen.unknown_requests for seen in scenarios.values()):
        observation = f"{unknown_requests} requests arrived, and none of them contains the prompt of a row"
    else:
        failures = [row.error_message for row in documents.rows.values() if row.error_message]
        exited = f"the processor exited with code {documents.exit_code}: {documents.last_output}"
        observation = "no request arrived"
        if documents.exit_code:
            observation += f"; {exited}"
        elif failures:
            observation += f"; {failures[0]}"
    return _check("the processor sends requests to the model", observation, passed=False)


def _without_responses(check: Check) -> Check:
    """The check of a processor that sent no request; `unclear` if it needs a response of the model."""
    if check.behaviour == _STOPS or (check.behaviour == _EVERY_ROW and check.violates):
        return check
    return replace(check, verdict=Verdict.unclear, observation=_NOT_ASKED)


def _check(behaviour: str, observation: str, *, passed: bool, is_required: bool = True) -> Check:
    verdict = Verdict.passed if passed else Verdict.failed if is_required else Verdict.absent
    return Check(behaviour, verdict, observation, is_required=is_required)


def _every_row_ends(seen: Observation) -> Check:
    open_rows = [case.name for case in seen.cases if not seen.rows[case.number].done]
    how = f"with the SQL functions, as {WORKER}" if seen.uses_leases else f"with UPDATE, as {PLAIN_WORKER}"
    observation = f"{len(seen.cases)} of {len(seen.cases)} rows, written {how}"
    if open_rows:
        exited = f"; {_exited(seen)}" if seen.exit_code else ""
        observation = f"{len(open_rows)} rows are not done, such as {open_rows[0]!r}{exited}"
    return _check(_EVERY_ROW, observation, passed=not open_rows)


def _exited(seen: Observation) -> str:
    return f"the processor exited with code {seen.exit_code}: {seen.last_output}"


def _document_arrives(seen: Observation, case: ConformanceCase) -> Check:
    row, calls = seen.rows[case.number], seen.calls[case.number]
    if not case.is_text:
        observation = (
            "the model received it" if row.succeeded else "refused, which is allowed for binary files"
        )
        passed = row.done and (not row.succeeded or any(call.is_complete for call in calls))
        return _check("a binary document is sent completely or refused", observation, passed=passed)
    behaviour = f"the model receives the complete document: {case.name}"
    if not calls:
        failure = f": {row.error_message}" if row.error_message else ""
        return _check(behaviour, f"{_NOT_ASKED}; the row is {row.status}{failure}", passed=False)
    last = calls[-1]
    if last.is_complete:
        return _check(behaviour, f"the row is {row.status}", passed=row.succeeded)
    return _check(
        behaviour, f"only {last.characters:,} characters of its {last.encoding} arrived", passed=False
    )


def _known_cut(seen: Observation) -> Check:
    """The bug of the known processor, recognised by truncated documents or by how large ones fail."""
    behaviour = f"base64 is not truncated at {KNOWN_CUT:,} characters (a known bug)"
    large = [case for case in seen.cases if len(case.content) * 4 / 3 > KNOWN_CUT]
    cut = [
        case
        for case in large
        if any(call.characters == KNOWN_CUT for call in seen.calls[case.number])
        or _mentions_base64(seen.rows[case.number].error_message)
    ]
    if not cut and not all(seen.calls[case.number] for case in large):
        observation = "the model did not receive all documents over 1,048,575 bytes"
        return Check(behaviour, Verdict.unclear, observation, is_required=True)
    if not cut:
        return _check(behaviour, f"{len(large)} documents over 1,048,575 bytes are complete", passed=True)
    observation = (
        f"{len(cut)} of {len(large)} documents over 1,048,575 bytes are truncated: decode all of docs.content"
    )
    return _check(behaviour, observation, passed=False)


def _mentions_base64(message: str | None) -> bool:
    words = ("base64", "base-64", "multiple of 4", "incorrect padding")
    return message is not None and any(word in message.lower() for word in words)


def _results(seen: Observation) -> Iterator[Check]:
    answered = [case for case in seen.cases if case.is_text and case.behaviour is ModelBehaviour.score]
    rows = {case.number: seen.rows[case.number] for case in answered}
    stored = [case for case in answered if case.reply in (rows[case.number].response_text or "")]
    yield _check(
        "response_text contains the model's text",
        f"in {len(stored)} of {len(answered)} rows",
        passed=len(stored) == len(answered),
    )
    wrong = [case for case in answered if rows[case.number].overall_score != case.score]
    shown = f"; {wrong[0].score:g} became {rows[wrong[0].number].overall_score}" if wrong else ""
    yield _check(
        "overall_score is the model's score, also if it is 0",
        f"in {len(answered) - len(wrong)} of {len(answered)} rows{shown}",
        passed=not wrong,
    )
    by_behaviour: dict[ModelBehaviour, Callable[[Observation, ConformanceCase], Check]] = {
        ModelBehaviour.nul: _nul,
        ModelBehaviour.refuse: _refused,
        ModelBehaviour.busy_once: _busy_once,
        ModelBehaviour.busy: _busy,
    }
    yield from (by_behaviour[c.behaviour](seen, c) for c in seen.cases if c.behaviour in by_behaviour)
    tokens = [r for r in rows.values() if (r.input_tokens, r.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)]
    yield _check(
        "token counts are written",
        f"in {len(tokens)} of {len(rows)} rows",
        passed=len(tokens) == len(rows),
        is_required=False,
    )
    yield _check(
        "the API key is the one that api_key_env names",
        f"{len(seen.keys)} {'key' if len(seen.keys) == 1 else 'different keys'} received",
        passed=seen.keys == {KEY},
        is_required=False,
    )


def _nul(seen: Observation, case: ConformanceCase) -> Check:
    row, asked = seen.rows[case.number], bool(seen.calls[case.number])
    observation = f"the row is {row.status}" if asked else _NOT_ASKED
    return _check("a NUL in the response does no harm", observation, passed=row.done and asked)


def _refused(seen: Observation, case: ConformanceCase) -> Check:
    row = seen.rows[case.number]
    behaviour = "a refusal by the model is stored as a failure with its reason"
    if not seen.calls[case.number]:
        return _check(behaviour, _NOT_ASKED, passed=False)
    reason = f": {row.error_message}" if row.error_message else ", without a reason"
    passed = row.done and not row.succeeded and bool(row.error_message)
    return _check(behaviour, f"the row is {row.status}{reason}", passed=passed)


def _busy_once(seen: Observation, case: ConformanceCase) -> Check:
    return _when_busy("a request to a busy model is repeated", seen, case)


def _busy(seen: Observation, case: ConformanceCase) -> Check:
    return _when_busy(f"a model that is busy for {SECONDS_BUSY:g} s does not fail the row", seen, case)


def _when_busy(behaviour: str, seen: Observation, case: ConformanceCase) -> Check:
    row, calls = seen.rows[case.number], len(seen.calls[case.number])
    requests = "1 request" if calls == 1 else f"{calls} requests"
    observation = f"{requests}; the row is {row.status}"
    return _check(behaviour, observation, passed=row.succeeded, is_required=False)


def _concurrent(seen: Observation) -> Check:
    twice = [case for case in seen.cases if len(seen.calls[case.number]) > 1]
    open_rows = [case for case in seen.cases if not seen.rows[case.number].done]
    missing = [case for case in seen.cases if not seen.calls[case.number]]
    observation = f"{len(seen.cases)} rows, {len(twice)} sent more than once, {len(open_rows)} not done"
    observation += f", {len(missing)} never sent" if missing else ""
    passed = not (twice or open_rows or missing)
    return _check("three concurrent instances process each row once", observation, passed=passed)


def _killed(seen: Observation) -> Check:
    behaviour = "after kill -9, another instance processes the row"
    (row,) = seen.rows.values()
    if not seen.asked:
        return _check(behaviour, _NOT_ASKED, passed=False)
    if not row.deliveries:
        observation = f"the row stays {row.status}: a plain claim has no lease"
        return Check(behaviour, Verdict.absent, observation, is_required=False)
    times = "once" if row.deliveries == 1 else f"{row.deliveries} times"
    observation = f"delivered {times}; the row is {row.status}"
    return _check(behaviour, observation, passed=row.succeeded and row.deliveries == 2)


def _late(seen: Observation) -> Iterator[Check]:
    (row,) = seen.rows.values()
    unchanged = "a late result does not change the row"
    if not seen.asked:
        yield _check(unchanged, _NOT_ASKED, passed=False)
        return
    passed = row.overall_score == 99 and row.response_text == "taken over"
    yield _check(unchanged, f"the row is {row.status} with score {row.overall_score}", passed=passed)
    survived = seen.exit_code in (None, 0)
    yield _check(
        "the processor continues after a late result",
        "it continues" if survived else _exited(seen),
        passed=survived,
    )
    yield _renewed(seen)


def _renewed(seen: Observation) -> Check:
    behaviour = "the lease is renewed while the model responds slowly"
    if seen.heartbeat or not seen.uses_leases:
        observation = "renewed" if seen.heartbeat else "a plain claim has no lease"
        return _check(behaviour, observation, passed=seen.heartbeat, is_required=False)
    observation = f"not within {seen.watched:.0f} s of a lease of {seen.lease:.0f} s"
    if seen.watched < seen.lease / 2:
        return Check(behaviour, Verdict.unclear, f"{observation}: it may be renewed later", is_required=False)
    return _check(behaviour, observation, passed=False, is_required=False)


def _stops(seen: Observation) -> Check:
    seconds = seen.seconds_to_stop
    observation = (
        f"after {seconds:.1f} s" if seconds is not None else f"not within {SECONDS_TO_STOP} s: it was killed"
    )
    return _check(_STOPS, observation, passed=seconds is not None, is_required=False)
