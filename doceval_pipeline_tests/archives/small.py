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
CONTENTS = (b"two two", b"one")
WHEN = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)
MADE = {"created_at": WHEN.isoformat()}
FOLDER = {"id": 3, "path": "/documents"}
CONNECTION = {
    "id": 2,
    "name": "gpt",
    "provider_type": "openai",
    "model_name": "gpt-4o",
    "base_url": "https://api.example.com/v1",
    "port_no": None,
    "connection_config": {},
    "api_key_env": "SOME_KEY",
}
PROMPT = {"id": 1, "name": "clarity", "text": "Clear?"}
CONFIG_VALUE = {
    "version": 1,
    "batch": {"id": 7, "name": "small", "description": "", "metadata": {}, "include": [], "exclude": []},
    "folders": [FOLDER],
    "connections": [CONNECTION],
    "prompts": [PROMPT],
}
CONFIG_BYTES = json.dumps(CONFIG_VALUE, sort_keys=True, separators=(",", ":")).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_small(path: Path) -> Manifest:
    """Batch 7 with two documents, an attempt at each, and one file that was skipped."""
    attempts = [
        {
            "id": 30 + n,
            "batch_id": 7,
            "document_id": n,
            "prompt_id": 1,
            "connection_id": 2,
            "status": "S",
            "connection_details": CONNECTION,
            "response_text": "ä\n",
            **MADE,
        }
        for n in (1, 2)
    ]
    documents = [
        {
            "id": n,
            "document_id": f"sha256:{sha256(content)}",
            "sha256": sha256(content),
            "file_size": len(content),
            "content_type": "text/plain",
            "doc_type": "txt",
            **MADE,
        }
        for n, content in enumerate(CONTENTS, start=1)
    ]
    places = [_place(n, n, content) for n, content in enumerate(CONTENTS, start=1)]
    with path.open("wb") as file, ArchiveWriter(file, WHEN) as writer:
        writer.add(BATCH, [json.dumps(_batch()).encode()])
        writer.add(CONFIG, [CONFIG_BYTES])
        writer.add(REPORT, [b"<p>", b"report"])
        writer.add_rows(PROGRESS, [])
        writer.add_rows(HISTORY, [])
        writer.add_rows(FILES, map(json.dumps, [*places, _place(3, None, None)]))
        writer.add_rows(ATTEMPTS, map(json.dumps, attempts))
        writer.add_rows(DOCS, map(json.dumps, documents))
        for content in CONTENTS:
            writer.add_document(sha256(content), len(content), [content])
        return writer.finish(7, "small", "0.1.0", {"doc_eval": "0004", "knowledge": "0002"})


def _batch() -> dict[str, Any]:
    changed = MADE | {"updated_at": WHEN.isoformat()}
    connection = dict(CONNECTION)
    return {
        "batch": {
            "id": 7,
            "batch_number": 7,
            "batch_name": "small",
            "status": "COMPLETED",
            "config_snapshot": CONFIG_VALUE,
            "config_sha256": sha256(CONFIG_BYTES),
            "expected_cells": 2,
            "status_changed_at": WHEN.isoformat(),
            **MADE,
        },
        "published": {"batch_id": 7, "config": CONFIG_VALUE, "sha256": sha256(CONFIG_BYTES), **MADE},
        "folders": [{"id": 3, "folder_path": "/documents", "folder_name": "documents", **MADE}],
        "connections": [{**connection, "provider_id": 1, "model_id": 1, **changed}],
        "prompts": [{"id": 1, "name": "clarity", "prompt_text": "Clear?", **changed}],
    }


def _place(file: int, stored: int | None, content: bytes | None) -> dict[str, Any]:
    name = f"{file}.txt"
    document = {"id": file, "folder_id": 3, "filepath": name, "filename": name}
    return {
        "document": {**document, "raw_path": f"\\x{name.encode().hex()}", **MADE},
        "in_batch": {
            "batch_id": 7,
            "document_id": file,
            "state": "SKIPPED" if stored is None else "STAGED",
            "reason": "empty" if stored is None else None,
            "file_size": None if content is None else len(content),
            "sha256": None if content is None else sha256(content),
            "knowledge_document_id": stored,
        },
    }


def read_members(path: Path) -> Members:
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def change(path: Path, edit: Callable[[Members], object]) -> None:
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
