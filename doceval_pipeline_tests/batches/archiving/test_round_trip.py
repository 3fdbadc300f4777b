"""What is in a file is in the database, byte for byte, at every length; decoded by two others than us."""

import base64
import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.settings import MIB
from doceval_pipeline_tests.conftest import Sample, evaluation_of

# PostgreSQL decodes by itself, and hashes what comes out.
STORED = """
    SELECT sha256, file_size, content, octet_length(decode(content, 'base64')) AS decoded_size,
           encode(sha256(decode(content, 'base64')), 'hex') AS decoded_sha256
    FROM docs
"""
LARGEST = 64 * MIB
# Where something may be cut: pieces of 768 KiB, what is kept in memory, what old processors decoded.
EDGES = (768 * 1024, 8 * MIB, 1_048_576, 1_398_101)


def staged(databases: Databases, folder: Path) -> Sample:
    located = evaluation_of([{"name": "lengths", "folders": [str(folder)]}], connections=1, prompts=1)
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    batch = Sample(databases, numbers["lengths"], "lengths", folder)
    batch.stage()
    return batch


def write_lengths(folder: Path, lengths: list[int], seed: int) -> dict[str, int]:
    """A file of random bytes for each length; their sizes by sha256."""
    chance, written = random.Random(seed), {}
    for number, length in enumerate(lengths):
        content = chance.randbytes(length)
        path = folder / f"{number:04}-{length}.bin"
        path.write_bytes(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        written[hashlib.sha256(content).hexdigest()] = length
    return written


def require_whole(batch: Sample, written: dict[str, int]) -> None:
    rows = batch.knowledge(STORED)
    assert {row.sha256: row.file_size for row in rows} == written
    for row in rows:
        content = base64.b64decode(row.content, validate=True)
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (row.sha256, row.file_size)
        assert (row.decoded_sha256, row.decoded_size) == (row.sha256, row.file_size)


def test_every_length_up_to_a_thousand_bytes_comes_back(databases: Databases, tmp_path: Path) -> None:
    written = write_lengths(tmp_path, list(range(1001)), seed=1)
    # Nothing is no document: it is listed as skipped.
    del written[hashlib.sha256(b"").hexdigest()]
    batch = staged(databases, tmp_path)
    require_whole(batch, written)
    left_out = "SELECT state, reason FROM batch_documents WHERE state <> 'STAGED'"
    assert batch.doc_eval(left_out) == [("SKIPPED", "empty")]


def test_every_single_byte_and_nothing_but_one_byte_comes_back(databases: Databases, tmp_path: Path) -> None:
    written = {}
    for byte in range(256):
        for length in (1, 2, 3, 100):
            content = bytes([byte]) * length
            path = tmp_path / f"{byte:03}-{length}"
            path.write_bytes(content)
            os.utime(path, (1_000_000_000, 1_000_000_000))
            written[hashlib.sha256(content).hexdigest()] = length
    require_whole(staged(databases, tmp_path), written)


@pytest.mark.slow
def test_random_lengths_up_to_64_mib_come_back(databases: Databases, tmp_path: Path) -> None:
    chance = random.Random(2)
    lengths = [int(2 ** chance.uniform(10, 26)) for _ in range(25)]
    lengths += [edge + by for edge in EDGES for by in (-1, 0, 1)]
    lengths += [LARGEST - 2, LARGEST - 1, LARGEST]
    written = write_lengths(tmp_path, lengths, seed=3)
    larger = replace(databases, settings=replace(databases.settings, max_document_bytes=LARGEST))
    require_whole(staged(larger, tmp_path), written)
