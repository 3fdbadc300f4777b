"""Cases 1 to 3: staging documents, compared with psql's \\copy of rows that are already encoded.

The yardstick reads no folder, hashes nothing, encodes nothing, and writes no queue row; it writes the
same rows into the same table with the same constraints.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import BenchmarkError, WrongResult
from benchmarks.figures import (
    MIB,
    Figure,
    Measured,
    absolute,
    cpu_seconds,
    ratio,
    reported,
    seconds,
    server_cpu,
    wal_bytes,
)
from benchmarks.harness import Experiment, Measurement, Side
from benchmarks.installation import Installation
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants import audit
from doceval_pipeline.batches.staging import steps as staging
from doceval_pipeline.embedded.server import USER, EmbeddedServer, _binary

OURS, UNCHECKED, COPY = "ours", "ours without the check", "psql \\copy"
TWO_BINARY = "binary \\copy on two connections"
CORES = os.cpu_count() or 1
PDFS = "pdfs"
_COPY = "\\copy docs (document_id, sha256, content_type, doc_type, file_size, content) FROM '{file}'{options}"
_STORED = """
    SELECT count(*), encode(sha256(coalesce(string_agg(found, '' ORDER BY found), '')::bytea), 'hex')
    FROM (SELECT encode(sha256(decode(content, 'base64')), 'hex') AS found FROM docs) AS decoded
"""


def stage(databases: Databases, batch: int, *, check: bool) -> Timed:
    """Stage a batch, from walking the folder to the commit of the last queue row.

    Dagster runs the check `documents_round_trip` before it lets `queue_rows` begin, so its time is included.
    """
    staging.seal_batch(databases, batch)

    def timed() -> Figures:
        took: dict[str, Any] = {}
        steps: dict[str, Callable[[], Any]] = {
            "assign_seconds": partial(staging.assign_documents, databases, batch),
            "store_seconds": partial(staging.store_documents, databases, batch, lambda *_: None),
            "check_seconds": partial(audit.check_round_trip, databases, batch),
            "queue_seconds": partial(staging.queue_evaluations, databases, batch),
        }
        for name, step in steps.items():
            if name != "check_seconds" or check:
                started = time.perf_counter()
                step()
                took[name] = time.perf_counter() - started
        return took

    return timed


def copy_rows(databases: Databases, files: list[str], options: str = "") -> Timed:
    """Copy files of rows with psql, each on its own connection at the same time."""
    server = EmbeddedServer(databases.settings.home)
    psql = [_binary("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(server.sockets), "-U", USER]
    copies = [
        [*psql, "-d", "KnowledgeDocuments", "-c", _COPY.format(file=file, options=options)] for file in files
    ]

    def timed() -> Figures:
        started = [subprocess.Popen(copy) for copy in copies]
        if failed := [code for code in [process.wait() for process in started] if code]:
            raise BenchmarkError(f"psql ended with code {failed[0]}: see its output")
        return {}

    return timed


def require_contents(installation: Installation, expected: tuple[int, str]) -> None:
    """Decode all stored documents in the database, and compare them with the files.

    Raises
    ------
    WrongResult
        The bytes or the number of documents differ.
    """
    ((count, digest),) = installation.knowledge(_STORED)
    if (count, digest) != expected:
        raise WrongResult(
            f"docs has {count} documents, expected {expected[0]}; or their bytes differ from the files"
        )


def require_rows(installation: Installation, expected: int) -> None:
    """Count the queue's rows.

    Raises
    ------
    WrongResult
        There are more or fewer.
    """
    ((count,),) = installation.knowledge("SELECT count(*) FROM llm_responses")
    if count != expected:
        raise WrongResult(f"llm_responses has {count} rows, expected {expected}")


class Documents:
    """The documents of one case, and the runs on them.

    Parameters
    ----------
    make
        Creates the documents in a new folder: gets the folder, their number, and the size of each in bytes.
    """

    def __init__(
        self, name: str, count: int, size: int, make: Callable[..., Path] = material.documents
    ) -> None:
        self._name, self._count, self._size, self._make = name, count, size, make
        self.expected = (0, "")

    def experiment(self, name: str, sides: list[Side], rounds: int) -> Experiment:
        """Sides that run on these documents."""
        return Experiment(name, self.prepare, sides, rounds)

    def ours(
        self, name: str = OURS, *, check: bool = True, environment: Mapping[str, str] = MappingProxyType({})
    ) -> Side:
        """Staging by the functions that Dagster's assets and checks call."""
        return Side(name, stage, partial(self._batch, check=check), self.check_ours, environment)

    def copied(self) -> Side:
        """The yardstick."""
        return Side(COPY, copy_rows, self._rows, self._check_copy)

    def copied_in_binary(self) -> Side:
        """The least work that stores the same rows."""
        return Side(TWO_BINARY, copy_rows, self._binary_rows, self._check_copy)

    def prepare(self, installation: Installation) -> None:
        """Create the documents, and their rows for the yardstick."""
        folder = self._make(self.folder(installation), self._count, self._size)
        material.encoded_rows(folder, installation.folder / f"{self._name}.rows")
        self.expected = (self._count, material.digests(folder))

    def folder(self, installation: Installation) -> Path:
        """Their folder."""
        return installation.folder / self._name

    def batch(self, installation: Installation) -> dict[str, Any]:
        """Create the only batch, with these documents."""
        installation.empty()
        return {"batch": installation.apply(self.folder(installation))}

    def check_ours(self, installation: Installation, _: Figures) -> None:
        """Compare the stored documents with the files, and count the queue's rows."""
        require_contents(installation, self.expected)
        require_rows(installation, self._count)

    def _batch(self, installation: Installation, *, check: bool) -> dict[str, Any]:
        return {**self.batch(installation), "check": check}

    def _rows(self, installation: Installation) -> dict[str, Any]:
        installation.empty()
        return {"files": [str(installation.folder / f"{self._name}.rows")]}

    def _binary_rows(self, installation: Installation) -> dict[str, Any]:
        installation.empty()
        target = installation.folder / f"{self._name}.binary"
        files = material.binary_rows(self.folder(installation), target, parts=2)
        return {"files": [str(file) for file in files], "options": " (FORMAT binary)"}

    def _check_copy(self, installation: Installation, _: Figures) -> None:
        require_contents(installation, self.expected)


def small_documents(*, quick: bool) -> Case:
    """Case 1."""
    count, rounds = (50, 1) if quick else (10_000, 7)
    pdfs = Documents(PDFS, count, 20 * material.KIB)
    sides = [pdfs.ours(), pdfs.copied(), pdfs.copied_in_binary()]

    def judge(measured: Measured) -> list[Figure]:
        found = measured[PDFS]
        return [
            *beside_copy(found, 0.90, 1.25),
            ratio(f"time beside {TWO_BINARY}", found, OURS, TWO_BINARY),
            ratio(f"{TWO_BINARY}, time", found, TWO_BINARY, COPY),
        ]

    work = f"stage {count:,} documents of 20 KiB"
    return Case("1", work, COPY, [pdfs.experiment(PDFS, sides, rounds)], judge)


def large_documents(*, quick: bool) -> Case:
    """Case 2."""
    count, mib = (2, 1) if quick else (40, 5)
    documents = Documents(PDFS, count, mib * MIB)
    experiment = documents.experiment(PDFS, [documents.ours(), documents.copied()], 1 if quick else 7)
    work = f"stage {count} documents of {mib} MiB"
    return Case("2", work, COPY, [experiment], lambda measured: beside_copy(measured[PDFS], 0.60))


def one_huge_document(*, quick: bool) -> Case:
    """Case 3."""
    mib = 3 if quick else 500
    documents = Documents("huge", 1, mib * MIB)
    limit = {"DOCEVAL_MAX_DOCUMENT_BYTES": str(mib * MIB)}
    sides = [
        documents.ours(environment=limit),
        documents.ours(UNCHECKED, check=False, environment=limit),
        documents.copied(),
    ]
    experiment = documents.experiment("one document", sides, 1 if quick else 5)

    def judge(measured: Measured) -> list[Figure]:
        found = measured["one document"]
        return [
            absolute("client above idle", "MiB", found, OURS, client_mib, 16),
            ratio("server's memory", found, OURS, COPY, 1.00, server_bytes),
            ratio("server's memory without the check", found, UNCHECKED, COPY, None, server_bytes),
            ratio("time", found, OURS, COPY),
            ratio("time without the check", found, UNCHECKED, COPY),
        ]

    return Case("3", f"one document of {mib} MiB, within the client's memory", COPY, [experiment], judge)


def client_mib(measurement: Measurement) -> float:
    """The client's peak memory above its use before the work, in MiB."""
    return measurement.client_bytes / MIB


def server_bytes(measurement: Measurement) -> float:
    """The server's peak private memory, in bytes."""
    return measurement.server_bytes


def beside_copy(found: list[Measurement], goal: float, cpu_goal: float | None = None) -> list[Figure]:
    """The figures of `OURS` beside those of `COPY`, with goals for the time and the CPU."""

    def without_check(measurement: Measurement) -> float:
        return measurement.seconds - reported("check_seconds")(measurement)

    def on_all_cores(measurement: Measurement) -> float:
        return cpu_seconds(measurement) / CORES

    return [
        ratio("time", found, OURS, COPY, goal),
        ratio("time without the check", found, OURS, COPY, None, without_check, below=seconds),
        ratio("storing alone", found, OURS, COPY, None, reported("store_seconds"), below=seconds),
        ratio("CPU of client and server", found, OURS, COPY, cpu_goal, cpu_seconds),
        ratio(
            f"that CPU on {CORES} cores beside the time", found, OURS, COPY, None, on_all_cores, below=seconds
        ),
        ratio("server CPU", found, OURS, COPY, None, server_cpu),
        ratio("WAL", found, OURS, COPY, None, wal_bytes),
    ]
