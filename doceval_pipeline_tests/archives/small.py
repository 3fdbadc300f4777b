"""A small archive without a database, and ways to write it anew with something changed."""

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    CONFIG,
    DOCS,
    FILES,
    HISTORY,
    PROGRESS,
    REPORT,
    Manifest,
)
from doceval_pipeline.archives.writing import ArchiveWriter

Members = dict[str, bytes]
CONFIG_BYTES = b'{"version":1}'
CONTENTS = (b"one", b"two two")
WHEN = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_small(path: Path) -> Manifest:
    """Batch 7 with two documents, an attempt at each, and one file that was skipped."""
    batch = {"id": 7, "config_sha256": sha256(CONFIG_BYTES)}
    attempts = [{"id": 30 + n, "batch_id": 7, "document_id": n, "response_text": "ä\n"} for n in (1, 2)]
    places: list[tuple[int, int | None]] = [(1, 1), (2, 2), (3, None)]
    with path.open("wb") as file, ArchiveWriter(file, WHEN) as writer:
        content = {"batch": batch, "folders": [], "connections": [], "prompts": []}
        writer.add(BATCH, [json.dumps(content).encode()])
        writer.add(CONFIG, [CONFIG_BYTES])
        writer.add(REPORT, [b"<p>", b"report"])
        writer.add_rows(PROGRESS, [])
        writer.add_rows(HISTORY, [])
        writer.add_rows(FILES, [json.dumps(_place(number, stored)) for number, stored in places])
        writer.add_rows(ATTEMPTS, [json.dumps(row) for row in attempts])
        documents = [
            {"id": n, "sha256": sha256(c), "file_size": len(c)} for n, c in enumerate(CONTENTS, start=1)
        ]
        writer.add_rows(DOCS, [json.dumps(row) for row in documents])
        for content_bytes in CONTENTS:
            writer.add_document(sha256(content_bytes), len(content_bytes), [content_bytes])
        return writer.finish(7, "small", "0.1.0", {"doc_eval": "0004", "knowledge": "0002"})


def _place(file: int, stored: int | None) -> dict[str, Any]:
    place = {"batch_id": 7, "document_id": file, "knowledge_document_id": stored}
    return {"document": {"id": file}, "in_batch": place}


def read_members(path: Path) -> Members:
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def change(path: Path, edit: Callable[[Members], None]) -> None:
    """Write an archive anew with other members; its manifest is made to fit what it lists."""
    members = read_members(path)
    edit(members)
    manifest = json.loads(members["manifest.json"])
    for name, listed in manifest.get("members", {}).items():
        if name in members:
            listed |= {"sha256": sha256(members[name]), "bytes": len(members[name])}
            if "rows" in listed:
                listed["rows"] = members[name].count(b"\n")
    members["manifest.json"] = json.dumps(manifest).encode()
    write_members(path, members.items())


def edit_manifest(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    members = read_members(path)
    manifest = json.loads(members["manifest.json"])
    edit(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    write_members(path, members.items())
