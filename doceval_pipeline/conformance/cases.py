"""Test cases: one document each, with the behaviour of the fake model.

No database, no network. The cases of one scenario are the rows of one batch.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MIB = 1024 * 1024
# Length at which the known processor truncates base64: its idea of 1 MiB, and not a multiple of 4.
KNOWN_CUT = 1_398_101
_MARKER = re.compile(r"\[conformance case (\d+)\]")
_LINE = "The parties agree that clause {number} of this document holds until further notice.\n"


class ModelBehaviour(StrEnum):
    """How the fake model responds to a case."""

    score = "score"
    nul = "a NUL in its text"
    refuse = "400 Bad Request"
    busy_once = "429 Too Many Requests, once"
    busy = "429 Too Many Requests, for some seconds"


class Scenario(StrEnum):
    """The scenarios in their order; each is a separate batch."""

    rights = "rights"
    documents = "documents"
    together = "together"
    killed = "killed"
    late = "late"


@dataclass(frozen=True)
class ConformanceCase:
    """One document and the response of the model: `score` from 0 to 100, if it gives one."""

    number: int
    name: str
    content: bytes
    behaviour: ModelBehaviour = ModelBehaviour.score
    score: float = 50.0

    @property
    def prompt(self) -> str:
        """The prompt of the case's row, which identifies the case to the fake model."""
        return (
            f"[conformance case {self.number}] Score the clarity of this document from 0 to 100. "
            "Answer with one line of the form 'Score: N'."
        )

    @property
    def reply(self) -> str:
        """The text of the model's response."""
        nul = "\0" if self.behaviour is ModelBehaviour.nul else ""
        return f"The document{nul} was read.\nScore: {self.score:g}"

    @property
    def sha256(self) -> str:
        """sha256 of the document's bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def is_text(self) -> bool:
        """Whether the document is valid UTF-8."""
        try:
            self.content.decode()
        except UnicodeDecodeError:
            return False
        return True


def cases_of(scenario: Scenario) -> Sequence[ConformanceCase]:
    """The cases of a scenario; case numbers are unique across all scenarios."""
    if scenario is Scenario.documents:
        return _documents()
    first = {Scenario.together: 100, Scenario.killed: 200, Scenario.late: 300, Scenario.rights: 400}[scenario]
    count = 40 if scenario is Scenario.together else 1
    return [
        ConformanceCase(first + number, f"{scenario} {number}", text_of(200, f"{scenario} {number}"))
        for number in range(count)
    ]


def case_number_in(text: str) -> int | None:
    """The number of the case whose prompt is in a text; None without one."""
    match = _MARKER.search(text)
    return int(match[1]) if match else None


def text_of(size: int, seed: str) -> bytes:
    """Readable text of exactly `size` bytes, different for each seed."""
    start = f"{seed}: ".encode() if size > len(seed) + 2 else b""
    line = _LINE.format(number=seed).encode()
    return (start + line * (size // len(line) + 1))[:size]


def _documents() -> list[ConformanceCase]:
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
    cases = [
        ConformanceCase(n, name, text_of(size, name), score=10 + n)
        for n, (name, size) in enumerate(sizes.items())
    ]
    cases += [
        ConformanceCase(20, "UTF-8 text", "Übergabe der Räume, 漢字, 🗎.\n".encode() * 50, score=61.5),
        ConformanceCase(21, "binary", random.Random(21).randbytes(3_000), score=62),  # noqa: S311 - no secret
        ConformanceCase(22, "score 0", text_of(300, "worst"), score=0),
        ConformanceCase(23, "score 100", text_of(300, "best"), score=100),
        ConformanceCase(24, "a NUL in the answer", text_of(300, "nul"), ModelBehaviour.nul),
        ConformanceCase(25, "refused by the model", text_of(300, "refused"), ModelBehaviour.refuse),
        ConformanceCase(
            26, "the model is busy once", text_of(300, "busy"), ModelBehaviour.busy_once, score=63
        ),
        ConformanceCase(
            27, "the model is busy for some seconds", text_of(300, "busier"), ModelBehaviour.busy, score=64
        ),
    ]
    return cases
