"""Rough figures for a connection that nothing is known of: ranges, from the sizes of documents alone.

The real figure is expected within a range, but no probability is claimed. Nothing here is used to hold a
batch: a limit compares measured costs only.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from doceval_pipeline.domain.files import MeasuredDocument
from doceval_pipeline.domain.findings import Interval
from doceval_pipeline.domain.usage import Experience, Measure
from doceval_pipeline.statistics.estimation import predict_total

# Bytes of text per token, from few to many tokens. English has about 4 characters per token (OpenAI's
# article "What are tokens and how to count them?"); other languages, code and tables have fewer.
_TEXT_BYTES = (5.0, 2.0)
# A page of a PDF has 1,500 to 3,000 tokens if its text and its image are read (Anthropic's guide "PDF
# support"), and about 400 if a processor extracts the text alone. Its size is a guess: 10 kB if it is
# text, 300 kB if it is a scan.
_PAGE_TOKENS = (400.0, 3_000.0)
_PAGE_BYTES = (300_000.0, 10_000.0)
# Office files are compressed: text that shrank to a third, or mostly pictures. At least a short letter.
_OFFICE_BYTES = (200.0, 1.5)
_OFFICE_TOKENS = 100.0
# An image counts by its pixels: 85 tokens in low detail (OpenAI's guide "Images and vision") to about 1,600
# (Anthropic's guide "Vision").
_IMAGE_TOKENS = (85.0, 1_600.0)
# Sound and video have 500 to 700 bytes per token (32 and 263 tokens per second in Google's guide
# "Understand and count tokens", at usual bit rates); base64 that a model reads as text has about 2.
_OTHER_BYTES = (1_000.0, 1.0)
# Tokens that a processor adds to a prompt, such as the request for a score.
_INSTRUCTIONS = (10.0, 200.0)
# Tokens of an answer: a score with a sentence, to a page of reasons. Hidden reasoning may need more.
_ANSWER = (50.0, 500.0)
# Tokenizers of current models differ by up to about this factor on the same text.
_OTHER_TOKENIZER = 1.5
# From this share of the upper bound on, documents whose tokens hardly depend on their size make it vague.
_VAGUE_SHARE = 0.2


class RoughBasis(StrEnum):
    """What the range of the input tokens is based on."""

    SIZES = "sizes"
    OTHER_CONNECTIONS = "other connections"


@dataclass(frozen=True, slots=True)
class Range:
    """A rough range of a figure."""

    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Range":
        """The range scaled to another unit; `factor` must not be negative."""
        return Range(self.low * factor, self.high * factor)

    def as_json(self) -> list[float]:
        """The range for other programs."""
        return [round(self.low, 6), round(self.high, 6)]


@dataclass(frozen=True, slots=True)
class RoughTokens:
    """The tokens of future evaluations on a connection, where they cannot be estimated from experience."""

    input_tokens: Range
    output_tokens: Range
    basis: RoughBasis
    vague: int = 0
    """Documents that make the range vague, because their tokens hardly depend on their size."""


@dataclass(frozen=True, slots=True)
class DocumentTokens:
    """The tokens of a batch's documents, each sent once, and how many of them make the range vague."""

    tokens: Range
    vague: int


@dataclass(frozen=True, slots=True)
class RoughInput:
    """What rough figures of a batch are made of.

    `bytes` and `documents` are of all documents of the batch, and `others` has the experience of all
    connections.
    """

    documents: int
    tokens: DocumentTokens
    prompts: Sequence[str]
    others: Mapping[tuple[int, Measure], Experience]


def document_tokens(documents: Collection[MeasuredDocument]) -> DocumentTokens:
    """The tokens of documents by content type and size. Pure."""
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    for document in documents:
        sizes[_kind(document.content_type)].append(document.size)
    ranges = {kind: _tokens(kind, own) for kind, own in sizes.items()}
    together = _sum(ranges.values())
    vague = [kind for kind in ranges if kind != "text"]
    is_vague = sum(ranges[kind].high for kind in vague) > _VAGUE_SHARE * together.high
    return DocumentTokens(together, sum(len(sizes[kind]) for kind in vague) if is_vague else 0)


def rough_tokens(connection_id: int, cells: int, bytes_together: int, given: RoughInput) -> RoughTokens:
    """The rough tokens of evaluations on a connection: from other connections, else from sizes. Pure.

    Parameters
    ----------
    cells, bytes_together
        The number of future evaluations, and the sizes of their documents added up.
    """
    of_others = [
        _from_others(connection_id, measure, cells, bytes_together, given.others)
        for measure in (Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS)
    ]
    tokens_out = of_others[1] or Range(*_ANSWER).times(cells)
    if of_others[0] is not None:
        return RoughTokens(of_others[0], tokens_out, RoughBasis.OTHER_CONNECTIONS)
    asked = _sum(_text(len(prompt.encode())) + Range(*_INSTRUCTIONS) for prompt in given.prompts)
    whole = given.tokens.tokens.times(len(given.prompts)) + asked.times(given.documents)
    # Some evaluations may have a result already; the others are taken to be as large as all.
    share = cells / max(1, given.documents * len(given.prompts))
    return RoughTokens(whole.times(share), tokens_out, RoughBasis.SIZES, given.tokens.vague)


def as_range(interval: Interval) -> Range:
    """The bounds of an interval."""
    return Range(interval.low, interval.high)


def _from_others(
    connection_id: int,
    measure: Measure,
    cells: int,
    bytes_together: int,
    others: Mapping[tuple[int, Measure], Experience],
) -> Range | None:
    """The widest range of what other connections used for documents of these sizes."""
    predicted: list[Any] = [
        predict_total(experience, cells, bytes_together)
        for (other, measured), experience in others.items()
        if measured is measure and other != connection_id
    ]
    known = [interval for interval in predicted if interval is not None]
    if not known:
        return None
    low, high = min(each.low for each in known), max(each.high for each in known)
    return Range(low / _OTHER_TOKENIZER, high * _OTHER_TOKENIZER)


def _kind(content_type: str) -> str:
    family, _, name = content_type.partition("/")
    if family in ("text", "message") or name in ("json", "xml", "rtf") or name.endswith(("+json", "+xml")):
        return "image" if family == "image" else "text"
    if name == "pdf":
        return "pdf"
    if family == "image":
        return "image"
    words = ("officedocument", "opendocument", "msword", "ms-excel", "ms-powerpoint", "epub")
    return "office" if any(word in name for word in words) else "other"


def _tokens(kind: str, sizes: Sequence[int]) -> Range:
    """The tokens of documents of one kind; `sizes` in bytes."""
    number, size = len(sizes), sum(sizes)
    if kind == "text":
        return _text(size)
    if kind == "image":
        return Range(*_IMAGE_TOKENS).times(number)
    if kind == "pdf":
        # Each has at least one page.
        low, high = (
            tokens * sum(max(1.0, each / page) for each in sizes)
            for tokens, page in zip(_PAGE_TOKENS, _PAGE_BYTES, strict=True)
        )
        return Range(low, high)
    if kind == "office":
        low, high = (sum(max(_OFFICE_TOKENS, each / ratio) for each in sizes) for ratio in _OFFICE_BYTES)
        return Range(low, high)
    return Range(size / _OTHER_BYTES[0], size / _OTHER_BYTES[1])


def _text(size: int) -> Range:
    return Range(size / _TEXT_BYTES[0], size / _TEXT_BYTES[1])


def _sum(ranges: Iterable[Range]) -> Range:
    return sum(ranges, start=Range(0.0, 0.0))
