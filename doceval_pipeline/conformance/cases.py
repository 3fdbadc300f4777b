"""What a processor is confronted with: one case for each document, with what the model answers to it.

Pure: no database, no network. The cases of one trial are rows of one batch.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MIB = 1024 * 1024
# The known processor cuts here: 1 MiB of base64 by its reckoning, and no multiple of 4.
KNOWN_CUT = 1_398_101
_MARKER = re.compile(r"\[conformance case (\d+)\]")
_LINE = "The parties agree that clause {number} of this document holds until further notice.\n"


class Answer(StrEnum):
    """What the model does when it is asked about a case."""

    score = "score"
    nul = "a NUL in its text"
    refuse = "400 Bad Request"
    busy_once = "429 Too Many Requests, once"
    busy = "429 Too Many Requests, for some seconds"


class Trial(StrEnum):
    """The trials, in their order; each is a batch of its own."""

    rights = "rights"
    documents = "documents"
    together = "together"
    killed = "killed"
    late = "late"


@dataclass(frozen=True)
class Case:
    """One document and what the model answers: `score` from 0 to 100, if it gives one."""

    number: int
    name: str
    content: bytes
    answer: Answer = Answer.score
    score: float = 50.0

    @property
    def prompt(self) -> str:
        """The prompt of the case's row; the endpoint knows the case by it."""
        return (
            f"[conformance case {self.number}] Score the clarity of this document from 0 to 100. "
            "Answer with one line of the form 'Score: N'."
        )

    @property
    def reply(self) -> str:
        """The text that the model answers with."""
        nul = "\0" if self.answer is Answer.nul else ""
        return f"The document{nul} was read.\nScore: {self.score:g}"

    @property
    def sha256(self) -> str:
        """Of the document's bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def is_text(self) -> bool:
        """Whether the document is UTF-8."""
        try:
            self.content.decode()
        except UnicodeDecodeError:
            return False
        return True


def cases_of(trial: Trial) -> Sequence[Case]:
    """The cases of a trial; their numbers are unique over all trials."""
    if trial is Trial.documents:
        return _documents()
    first = {Trial.together: 100, Trial.killed: 200, Trial.late: 300, Trial.rights: 400}[trial]
    count = 40 if trial is Trial.together else 1
    return [
        Case(first + number, f"{trial} {number}", text_of(200, f"{trial} {number}"))
        for number in range(count)
    ]


def number_in(text: str) -> int | None:
    """The number of the case whose prompt stands in a text."""
    found = _MARKER.search(text)
    return int(found[1]) if found else None


def text_of(size: int, seed: str) -> bytes:
    """Readable text of exactly so many bytes, different for each seed."""
    start = f"{seed}: ".encode() if size > len(seed) + 2 else b""
    line = _LINE.format(number=seed).encode()
    return (start + line * (size // len(line) + 1))[:size]


def _documents() -> list[Case]:
    sizes = {
        "0 bytes": 0,
        "1 byte": 1,
        "2 bytes": 2,
        "3 bytes": 3,
        "4 bytes": 4,
        "1 MiB - 1 byte": MIB - 1,
        "1 MiB": MIB,
        "1 MiB + 1 byte": MIB + 1,
        "1 MiB + 2 bytes": MIB + 2,
        "16 MiB": 16 * MIB,
    }
    made = [Case(n, name, text_of(size, name), score=10 + n) for n, (name, size) in enumerate(sizes.items())]
    made += [
        Case(20, "UTF-8 text", "Übergabe der Räume, 漢字, 🗎.\n".encode() * 50, score=61.5),
        Case(21, "binary", random.Random(21).randbytes(3_000), score=62),  # noqa: S311 - no secret
        Case(22, "score 0", text_of(300, "worst"), score=0),
        Case(23, "score 100", text_of(300, "best"), score=100),
        Case(24, "a NUL in the answer", text_of(300, "nul"), Answer.nul),
        Case(25, "refused by the model", text_of(300, "refused"), Answer.refuse),
        Case(26, "the model is busy once", text_of(300, "busy"), Answer.busy_once, score=63),
        Case(27, "the model is busy for some seconds", text_of(300, "busier"), Answer.busy, score=64),
    ]
    return made
