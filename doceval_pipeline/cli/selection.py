"""Commands on several batches: selects them, acts on each in turn, prints each result."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from doceval_pipeline.cli.output import console, fail, in_words, print_json, warn
from doceval_pipeline.errors import DocEvalError, UnknownBatch
from doceval_pipeline.names import normal

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from doceval_pipeline.doc_eval.batches import BatchRecord


@dataclass(frozen=True)
class Selection:
    """The batches of a command, each once, and an error for each word that matches no batch.

    `is_one` if a single batch was named without a pattern: its data is printed as one object.
    """

    batches: "list[BatchRecord]"
    unknown: list[UnknownBatch] = field(default_factory=list)
    is_one: bool = False


@dataclass(frozen=True)
class ActionResult:
    """The result of a command for one batch: a line for people (with markup), data for programs, and counts.

    `notes` are warnings that follow the line.
    """

    line: str
    data: Any
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def show(self) -> None:
        """Print the line and the notes."""
        console.print(self.line)
        for note in self.notes:
            warn(note)


def select(engine: "Engine", words: Sequence[str], *, with_archived: bool = False) -> Selection:
    """The batches that match numbers, keys, names and patterns.

    Raises
    ------
    UnknownBatch
        No word matches a batch; one line for each word.
    """
    from doceval_pipeline.doc_eval.batches import find_batches, is_pattern

    batches, unknown = find_batches(engine, words, with_archived=with_archived)
    if not batches:
        raise UnknownBatch("\n".join(str(error) for error in unknown))
    is_one = len(words) == 1 and (normal(words[0]) == normal(batches[0].name) or not is_pattern(words[0]))
    return Selection(batches, unknown, is_one)


def act_on_each(selection: Selection, act: "Callable[[BatchRecord], ActionResult]", *, as_json: bool) -> None:
    """Act on each batch in turn and print its result; the last line is a total.

    A batch that fails does not stop the others. If a single batch was named, its failure is the command's.

    Raises
    ------
    SystemExit
        With 1 if a batch failed or a word matches no batch; with 130 after Ctrl-C.
    DocEvalError
        The single batch failed.
    """
    if selection.is_one:
        done = act(selection.batches[0])
        print_json(done.data) if as_json else done.show()
        return
    output = _ActionOutput(len(selection.batches), as_json=as_json)
    for error in selection.unknown:
        output.failed({}, str(error))
    try:
        for batch in selection.batches:
            _act_on(batch, act, output)
    except KeyboardInterrupt:
        output.total()
        raise SystemExit(130) from None
    output.total()
    if output.failures:
        raise SystemExit(1)


def _act_on(
    batch: "BatchRecord", act: "Callable[[BatchRecord], ActionResult]", output: "_ActionOutput"
) -> None:
    named = {"batch": batch.id, "name": batch.name, "partition": batch.key}
    try:
        done = act(batch)
    except DocEvalError as error:
        output.failed(named, str(error) if batch.key in str(error) else f"{batch.key}: {error}")
    except KeyboardInterrupt:
        output.failed(named, f"{batch.key}: interrupted; repeat the command to continue")
        raise
    else:
        output.done(done)


class _ActionOutput:
    """Prints the results of a command on several batches, or collects them as JSON."""

    def __init__(self, batches: int, *, as_json: bool) -> None:
        self._batches = batches
        self._as_json = as_json
        self._data: list[Any] = []
        self._done = 0
        self._counts: Counter[str] = Counter()
        self.failures = 0

    def done(self, done: ActionResult) -> None:
        """Print the result of a batch."""
        self._done += 1
        self._counts.update(done.counts)
        self._data.append(done.data)
        if not self._as_json:
            done.show()

    def failed(self, named: Mapping[str, Any], line: str) -> None:
        """Print why a batch failed, or that it does not exist."""
        self.failures += 1
        self._data.append({**named, "error": line})
        fail(line)

    def total(self) -> None:
        """Print the total, or the data of all batches as JSON."""
        if self._as_json:
            print_json(self._data)
            return
        line = f"{self._done:,} of {self._batches:,} batches done"
        line += f", {self.failures:,} failed" if self.failures else ""
        console.print(f"{line}: {in_words(self._counts)}" if self._counts else line)
