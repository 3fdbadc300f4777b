"""Reads one document: its folder is opened for it alone."""

from pathlib import Path

from doceval_pipeline.documents.reading import LastFolder, ReadDocument, read_document


def read_alone(folder: Path, path: bytes, max_bytes: int) -> ReadDocument:
    with LastFolder() as last:
        return read_document(folder, path, max_bytes, last)
