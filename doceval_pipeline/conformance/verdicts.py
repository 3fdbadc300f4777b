"""From what the trials saw to a line for each thing that a processor does right or wrong. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from doceval_pipeline.conformance.cases import KNOWN_CUT, Answer, Case, Trial
from doceval_pipeline.conformance.fake_openai import INPUT_TOKENS, KEY, OUTPUT_TOKENS, SECONDS_BUSY
from doceval_pipeline.conformance.processes import SECONDS_TO_STOP
from doceval_pipeline.conformance.runner import Seen
from doceval_pipeline.conformance.scratch import PLAIN_WORKER, WORKER

_EVERY_ROW, _ENDS = "every row ends as success or failure", "it ends on SIGTERM"


class Verdict(StrEnum):
    """How a line ended; `absent` is what a processor need not do, and does not; `unclear` was not seen."""

    passed = "passed"
    failed = "failed"
    absent = "absent"
    unclear = "unclear"


@dataclass(frozen=True)
class Line:
    """One thing that was tried: what, whether the contract requires it, how it ended, and what was seen."""

    what: str
    required: bool
    verdict: Verdict
    seen: str

    @property
    def breaks(self) -> bool:
        """Whether the processor does not keep its contract because of this."""
        return self.required and self.verdict is Verdict.failed


def judge(trials: dict[Trial, Seen]) -> list[Line]:
    """One line for each thing that was tried, in the order of the trials.

    Where the model was never asked, the first line says so, and what needs an answer is `unclear`.
    """
    documents = trials[Trial.documents]
    lines = [
        _answers_all(documents),
        *(_arrives(documents, case) for case in documents.cases if case.answer is Answer.score),
        _known_cut(documents),
        *_results(documents),
        _together(trials[Trial.together]),
        _killed(trials[Trial.killed]),
        *_late(trials[Trial.late]),
        _stops(trials[Trial.late]),
    ]
    if any(calls for seen in trials.values() for calls in seen.calls.values()):
        return lines
    return [_never_asked(trials), *map(_without_answers, lines)]


def _never_asked(trials: dict[Trial, Seen]) -> Line:
    documents = trials[Trial.documents]
    if strangers := max(seen.strangers for seen in trials.values()):
        said = f"{strangers} requests came, and none of them holds the prompt of a row"
    else:
        failures = [row.error_message for row in documents.rows.values() if row.error_message]
        ended = f"it ended with code {documents.exit_code}: {documents.last_words}"
        said = "never" + (f"; {ended}" if documents.exit_code else f"; {failures[0]}" if failures else "")
    return _line("the model is asked", False, said)


def _without_answers(line: Line) -> Line:
    """A line as far as it can be judged of a processor that asked nothing."""
    if line.what == _ENDS or (line.what == _EVERY_ROW and line.breaks):
        return line
    return replace(line, verdict=Verdict.unclear, seen="the model was never asked")


def _line(what: str, passed: bool, seen: str, required: bool = True) -> Line:
    verdict = Verdict.passed if passed else Verdict.failed if required else Verdict.absent
    return Line(what, required, verdict, seen)


def _answers_all(seen: Seen) -> Line:
    left = [case.name for case in seen.cases if not seen.rows[case.number].done]
    how = f"by the functions, as {WORKER}" if seen.uses_leases else f"by UPDATE, as {PLAIN_WORKER}"
    said = f"{len(seen.cases)} of {len(seen.cases)} rows, written {how}"
    if left:
        ended = f"; it ended with code {seen.exit_code}: {seen.last_words}" if seen.exit_code else ""
        said = f"{len(left)} rows are not done, such as {left[0]!r}{ended}"
    return _line(_EVERY_ROW, not left, said)


def _arrives(seen: Seen, case: Case) -> Line:
    what = f"a document arrives whole: {case.name}"
    row, calls = seen.rows[case.number], seen.calls[case.number]
    if not case.is_text:
        said = "a processor may refuse what is not text" if not row.succeeded else "arrived"
        whole = not row.succeeded or any(call.whole for call in calls)
        return _line("a document that is no text is whole or refused", row.done and whole, said)
    if not calls:
        failure = f": {row.error_message}" if row.error_message else ""
        return _line(what, False, f"the model was not asked; the row is {row.status}{failure}")
    if calls[-1].whole:
        return _line(what, row.succeeded, f"the row is {row.status}")
    cut = calls[-1]
    return _line(what, False, f"{cut.characters:,} characters of its {cut.encoding} arrived")


def _known_cut(seen: Seen) -> Line:
    """The known processor's bug, by its name: seen in what arrives, or in how large documents fail."""
    what = f"base64 is not cut at {KNOWN_CUT:,} characters (the known processor's bug)"
    large = [case for case in seen.cases if len(case.content) * 4 / 3 > KNOWN_CUT]
    cut = [
        case
        for case in large
        if any(call.characters == KNOWN_CUT for call in seen.calls[case.number])
        or _names_base64(seen.rows[case.number].error_message)
    ]
    if not cut and not all(seen.calls[case.number] for case in large):
        return Line(
            what, True, Verdict.unclear, "the model was not asked about all documents over 1,048,575 bytes"
        )
    said = f"{len(cut)} of {len(large)} documents over 1,048,575 bytes are cut: decode all of docs.content"
    return _line(what, not cut, said if cut else f"{len(large)} documents over 1,048,575 bytes are not cut")


def _names_base64(message: str | None) -> bool:
    words = ("base64", "base-64", "multiple of 4", "incorrect padding")
    return message is not None and any(word in message.lower() for word in words)


def _results(seen: Seen) -> Iterator[Line]:
    answered = [case for case in seen.cases if case.is_text and case.answer is Answer.score]
    rows = {case.number: seen.rows[case.number] for case in answered}
    told = [case for case in answered if case.reply in (rows[case.number].response_text or "")]
    yield _line(
        "the model's text is kept in response_text",
        len(told) == len(answered),
        f"in {len(told)} of {len(answered)} rows",
    )
    right = [case for case in answered if rows[case.number].overall_score == case.score]
    wrong = [case for case in answered if case not in right]
    shown = f"; {wrong[0].score:g} became {rows[wrong[0].number].overall_score}" if wrong else ""
    yield _line(
        "the score is the model's; 0 is a score",
        not wrong,
        f"in {len(right)} of {len(answered)} rows{shown}",
    )
    by_answer: dict[Answer, Callable[[Seen, Case], Line]] = {
        Answer.nul: _nul,
        Answer.refuse: _refused,
        Answer.busy_once: _busy,
        Answer.busy: _busy_for_long,
    }
    yield from (by_answer[case.answer](seen, case) for case in seen.cases if case.answer in by_answer)
    tokens = [r for r in rows.values() if (r.input_tokens, r.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)]
    yield _line(
        "tokens are written", len(tokens) == len(rows), f"in {len(tokens)} of {len(rows)} rows", False
    )
    yield _line(
        "the key is the one that api_key_env names", seen.keys == {KEY}, f"{len(seen.keys)} keys seen", False
    )


def _nul(seen: Seen, case: Case) -> Line:
    row, asked = seen.rows[case.number], bool(seen.calls[case.number])
    said = f"the row is {row.status}" if asked else "the model was not asked"
    return _line("a NUL in the answer does no harm", row.done and asked, said)


def _refused(seen: Seen, case: Case) -> Line:
    row = seen.rows[case.number]
    what = "a refusal by the model is a failure with its reason"
    if not seen.calls[case.number]:
        return _line(what, False, "the model was not asked")
    kept = row.done and not row.succeeded and bool(row.error_message)
    said = f"the row is {row.status}" + (
        f": {row.error_message}" if row.error_message else ", without a reason"
    )
    return _line(what, kept, said)


def _busy(seen: Seen, case: Case) -> Line:
    row, calls = seen.rows[case.number], len(seen.calls[case.number])
    return _line("a busy model is asked again", row.succeeded, f"asked {calls} times; {row.status}", False)


def _busy_for_long(seen: Seen, case: Case) -> Line:
    row, calls = seen.rows[case.number], len(seen.calls[case.number])
    what = f"a model that is busy for {SECONDS_BUSY:g} s fails no row"
    return _line(what, row.succeeded, f"asked {calls} times; {row.status}", False)


def _together(seen: Seen) -> Line:
    twice = [case for case in seen.cases if len(seen.calls[case.number]) > 1]
    open_rows = [case for case in seen.cases if not seen.rows[case.number].done]
    unasked = [case for case in seen.cases if not seen.calls[case.number]]
    said = f"{len(seen.cases)} rows, {len(twice)} asked about more than once, {len(open_rows)} not done"
    said += f", {len(unasked)} never asked about" if unasked else ""
    return _line("three instances at once take each row once", not (twice or open_rows or unasked), said)


def _killed(seen: Seen) -> Line:
    what = "after kill -9, another instance does the row"
    (row,) = seen.rows.values()
    if not seen.asked:
        return _line(what, False, "the model was not asked")
    if not row.deliveries:
        return Line(what, False, Verdict.absent, f"the row stays {row.status}: a plain claim has no lease")
    return _line(
        what, row.succeeded and row.deliveries == 2, f"delivered {row.deliveries} times; {row.status}"
    )


def _late(seen: Seen) -> Iterator[Line]:
    (row,) = seen.rows.values()
    if not seen.asked:
        yield _line("a late result changes nothing", False, "the model was not asked")
        return
    stands = row.overall_score == 99 and row.response_text == "taken over"
    yield _line("a late result changes nothing", stands, f"the row is {row.status}, {row.overall_score}")
    survived = seen.exit_code in (None, 0)
    said = "it goes on" if survived else f"it ended with code {seen.exit_code}: {seen.last_words}"
    yield _line("a processor goes on after a late result", survived, said)
    yield _renewed(seen)


def _renewed(seen: Seen) -> Line:
    what = "a lease is renewed while the model takes its time"
    if seen.heartbeat or not seen.uses_leases:
        return _line(
            what, seen.heartbeat, "renewed" if seen.heartbeat else "a plain claim has no lease", False
        )
    said = f"not within {seen.watched:.0f} s of a lease of {seen.lease:.0f} s"
    if seen.watched < seen.lease / 2:
        return Line(what, False, Verdict.unclear, f"{said}: it may be renewed later")
    return _line(what, False, said, False)


def _stops(seen: Seen) -> Line:
    seconds = seen.seconds_to_stop
    said = (
        f"after {seconds:.1f} s" if seconds is not None else f"not within {SECONDS_TO_STOP} s: it was killed"
    )
    return _line(_ENDS, seconds is not None, said, False)
