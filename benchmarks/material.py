"""Material of the benchmarks: documents, and rows in both databases. Reproducible, and never timed."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.installation import Installation
from doceval_pipeline.batches.staging.steps import assign_documents, seal_batch, store_documents
from doceval_pipeline.documents.content_type import content_type
from doceval_pipeline.documents.reading import doc_type, encode
from doceval_pipeline.documents.source import Source

KIB = 1024
# Modification time of all files: reading waits for files that were written just now.
_LONG_AGO = (1_000_000_000, 1_000_000_000)
_FILES_IN_A_FOLDER = 100
_WORDS = b"The parties agree that this document is made of words that repeat themselves. "
# The share of a document that cannot be compressed; the rest is words.
NOISE = 0.8

_FINISHED_ROWS = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, status, connection_details,
                               task_id, started_processing_at, completed_processing_at, response_text,
                               error_message, overall_score, input_tokens, output_tokens, time_taken_seconds)
    SELECT b, d.id, p, c, CASE WHEN failed THEN 'F' ELSE 'S' END, CAST(:details AS jsonb),
           'task-' || d.id, now(), now(),
           CASE WHEN NOT failed THEN repeat('An answer. ', CAST(:answer AS int)) END,
           CASE WHEN failed THEN 'the model is overloaded' END,
           CASE WHEN NOT failed THEN (d.id * 7 + p * 13 + c) % 101 END, 5000, 300, 2.5
    FROM generate_series(CAST(:first_batch AS int), CAST(:last_batch AS int)) AS b
    CROSS JOIN docs AS d
    CROSS JOIN generate_series(1, CAST(:prompts AS int)) AS p
    CROSS JOIN generate_series(1, CAST(:connections AS int)) AS c
    CROSS JOIN LATERAL (SELECT (d.id + p + c) % 20 = 0) AS chance(failed)
    ORDER BY b, d.id, p, c
"""
DETAILS = (
    '{"id": 1, "name": "model-0", "provider_type": "openai", "model_name": "model-0", "base_url": '
    '"https://api.example.org/v1", "port_no": null, "api_key_env": "EXAMPLE_API_KEY", '
    '"connection_config": {"temperature": 0, "max_tokens": 2000}}'
)


def documents(folder: Path, count: int, size: int, noise: float = NOISE) -> Path:
    """Create documents of `size` bytes each; returns the folder.

    With noise they resemble PDFs, which are mostly compressed; without it they are plain text. An existing
    folder is not changed.
    """
    if folder.exists():
        return folder
    for number in range(count):
        name = f"{number:06}.{'pdf' if noise else 'txt'}"
        path = folder / f"{number // _FILES_IN_A_FOLDER:04}" / name
        if number % _FILES_IN_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.writelines(_pieces(number, size, noise))
        os.utime(path, _LONG_AGO)
    return folder


def paths(folder: Path) -> list[Path]:
    """The documents of a folder, in the order of their creation."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> str:
    """One sha256 over the sorted sha256 of all documents of a folder."""
    found = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths(folder))
    return hashlib.sha256("".join(found).encode()).hexdigest()


def encoded_rows(folder: Path, target: Path) -> Path:
    """Write the rows of `docs` for all documents of a folder, as COPY reads text; returns `target`.

    The columns are document_id, sha256, content_type, doc_type, file_size and content.
    """
    if target.exists():
        return target
    with target.open("wb") as file:
        for path in paths(folder):
            content = path.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            kind = content_type(Source.of(content))
            words = (f"sha256:{sha256}", sha256, kind, doc_type(os.fsencode(path)), str(len(content)))
            file.write("\t".join(words).encode() + b"\t" + encode(content) + b"\n")
    return target


def stored_batch(installation: Installation, folder: Path, connections: int, prompts: int) -> int:
    """Create a batch and store its documents, without queue rows; returns its number."""
    number = installation.apply(folder, connections, prompts)
    store_batch(installation, number)
    return number


def store_batch(installation: Installation, number: int) -> None:
    """Store the documents of a batch, without queue rows."""
    seal_batch(installation.databases, number)
    assign_documents(installation.databases, number)
    store_documents(installation.databases, number, lambda *_: None)


def finished_rows(
    installation: Installation, batches: range, connections: int, prompts: int, answer: int = 30
) -> None:
    """Write finished rows of the given batches for every stored document, prompt and connection.

    An answer has `answer` times 11 characters.
    """
    for first in range(batches.start, batches.stop, 100):
        last = min(first + 100, batches.stop) - 1
        installation.make_rows(
            _FINISHED_ROWS,
            range(first, last + 1),
            first_batch=first,
            last_batch=last,
            prompts=prompts,
            connections=connections,
            details=DETAILS,
            answer=answer,
        )
    installation.vacuum("llm_responses")


def _pieces(number: int, size: int, noise: float) -> Iterator[bytes]:
    """The bytes of one document, a MiB at a time."""
    chance = random.Random(number)
    left = size
    while left:
        piece = min(left, KIB * KIB)
        words = piece - int(piece * noise)
        beginning = f"{'%PDF-1.7' if noise else 'Agreement'} {number}, {left} bytes to come.\n".encode()
        yield (beginning + _WORDS * (words // len(_WORDS) + 1))[:words] + chance.randbytes(piece - words)
        left -= piece
