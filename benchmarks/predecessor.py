"""Case 4: complete staging of many cells, compared with one COPY and one INSERT of the same rows.

That is the least anybody can do: it reads no file, and none of it can be repeated. A third side is the best
version of the predecessor's method, which commits each document and each queue row separately, and queries
the connection for each of them. Its other weaknesses (new database connections, an ORM, line breaks in
base64) are left out.
"""

import hashlib
import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.figures import Figure, Measured, cpu_seconds, ratio, server_cpu, wal_bytes
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, require_contents, require_rows, stage
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.documents.content_type import content_type
from doceval_pipeline.documents.reading import encode
from doceval_pipeline.documents.source import Source

PREDECESSOR = "one commit per row"
LEAST = "one COPY and one INSERT"
CONNECTIONS = PROMPTS = 2
_INSERT_DOCUMENT = """
    INSERT INTO docs (document_id, sha256, content_type, doc_type, file_size, content)
    VALUES (%s, %s, %s, 'txt', %s, %s) RETURNING id
"""
_CONNECTION = """
    SELECT c.id, c.name, p.provider_type, m.model_name, c.base_url, c.port_no, c.connection_config,
           c.api_key_env
    FROM connections c JOIN llm_providers p ON p.id = c.provider_id JOIN models m ON m.id = c.model_id
    WHERE c.id = %s
"""
_KEYS = (
    "id",
    "name",
    "provider_type",
    "model_name",
    "base_url",
    "port_no",
    "connection_config",
    "api_key_env",
)
_INSERT_ROW = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details)
    VALUES (%s, %s, %s, %s, %s)
"""
_COPY = "COPY docs (document_id, sha256, content_type, doc_type, file_size, content) FROM STDIN"
_INSERT_ALL = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details,
                               file_name, queue_position)
    SELECT cell.batch, d.id, p, c, cell.details,
           to_char((d.id - 1) / 100, 'FM0000') || '/' || to_char(d.id - 1, 'FM000000') || '.pdf',
           row_number() OVER () * 100000
    FROM (VALUES (%s, %s, %s, %s::jsonb)) AS cell (batch, prompts, connections, details)
    CROSS JOIN docs AS d
    CROSS JOIN generate_series(1, cell.prompts) AS p
    CROSS JOIN generate_series(1, cell.connections) AS c
"""


def stage_row_by_row(databases: Databases, batch: int, folder: str) -> Timed:
    """Read, store and queue one document after the other."""
    pairs = [(p, c) for p in range(1, PROMPTS + 1) for c in range(1, CONNECTIONS + 1)]

    def timed() -> Figures:
        with (
            closing(_connect(databases, "knowledge")) as knowledge,
            closing(_connect(databases, "doc_eval")) as own,
        ):
            for path in material.paths(Path(folder)):
                document = _store(knowledge, path)
                for prompt, connection in pairs:
                    _queue(knowledge, own, (batch, document, prompt, connection))
        return {}

    return timed


def copy_and_insert(databases: Databases, file: str, batch: int) -> Timed:
    """The least work: copy encoded rows, then insert the queue rows, in two commits."""

    def timed() -> Figures:
        with closing(_connect(databases, "knowledge")) as knowledge, open(file, "rb") as rows:
            with knowledge, knowledge.cursor() as cursor:
                cursor.copy_expert(_COPY, rows)
            with knowledge, knowledge.cursor() as cursor:
                cursor.execute(_INSERT_ALL, (batch, PROMPTS, CONNECTIONS, material.DETAILS))
        return {}

    return timed


def predecessor(*, quick: bool) -> Case:
    """Case 4."""
    count = 10 if quick else 200
    cells = count * CONNECTIONS * PROMPTS
    expected: list[tuple[int, str]] = []

    def prepare(installation: Installation) -> None:
        folder = material.documents(installation.folder / "cells", count, 20 * material.KIB)
        material.encoded_rows(folder, installation.folder / "cells.rows")
        expected.append((count, material.digests(folder)))

    def before(installation: Installation, **more: Any) -> dict[str, Any]:
        installation.empty()
        batch = installation.apply(installation.folder / "cells", CONNECTIONS, PROMPTS)
        return {"batch": batch, **more}

    def before_theirs(installation: Installation) -> dict[str, Any]:
        return before(installation, folder=str(installation.folder / "cells"))

    def before_least(installation: Installation) -> dict[str, Any]:
        return before(installation, file=str(installation.folder / "cells.rows"))

    def check(installation: Installation, _: Figures) -> None:
        require_contents(installation, expected[0])
        require_rows(installation, cells)

    sides = [
        Side(OURS, stage, partial(before, check=True), check),
        Side(PREDECESSOR, stage_row_by_row, before_theirs, check),
        Side(LEAST, copy_and_insert, before_least, check),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["cells"]
        return [
            ratio("time", found, OURS, LEAST, 1.5),
            ratio("CPU of client and server", found, OURS, LEAST, None, cpu_seconds),
            ratio("server CPU", found, OURS, LEAST, None, server_cpu),
            ratio("WAL", found, OURS, LEAST, None, wal_bytes),
            ratio(f"time of {PREDECESSOR}", found, PREDECESSOR, LEAST),
        ]

    experiment = Experiment("cells", prepare, sides, 1 if quick else 9)
    work = f"stage {count} documents of 20 KiB × {CONNECTIONS * PROMPTS} cells"
    return Case("4", work, f"{LEAST} of the same rows", [experiment], judge)


def _connect(databases: Databases, name: str) -> "psycopg2.extensions.connection":
    url = getattr(databases, name).url.set(drivername="postgresql")
    return psycopg2.connect(url.render_as_string(hide_password=False))


def _store(knowledge: "psycopg2.extensions.connection", path: Path) -> int:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    row = (
        f"sha256:{sha256}",
        sha256,
        content_type(Source.of(content)),
        len(content),
        encode(content).decode(),
    )
    with knowledge, knowledge.cursor() as cursor:
        cursor.execute(_INSERT_DOCUMENT, row)
        (number,) = cursor.fetchone() or (0,)
    return int(number)


def _queue(
    knowledge: "psycopg2.extensions.connection",
    own: "psycopg2.extensions.connection",
    cell: tuple[int, int, int, int],
) -> None:
    with own, own.cursor() as cursor:
        cursor.execute(_CONNECTION, (cell[-1],))
        details = json.dumps(dict(zip(_KEYS, cursor.fetchone() or (), strict=True)))
    with knowledge, knowledge.cursor() as cursor:
        cursor.execute(_INSERT_ROW, (*cell, details))
