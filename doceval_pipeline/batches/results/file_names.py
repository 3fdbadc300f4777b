"""Reads the labels of a batch's files and documents, as people see them."""

from collections.abc import Iterable

from sqlalchemy import Connection

from doceval_pipeline.doc_eval import report_queries
from doceval_pipeline.domain.files import FileLabels, FileName


class FileNames:
    """Labels of the files and documents of a batch, read for many documents at once.

    Load documents before you name them.
    """

    def __init__(self, connection: Connection, batch_id: int) -> None:
        self._connection, self._batch_id = connection, batch_id
        self._first_files: dict[int, FileName | None] = {}
        self._folders = tuple(report_queries.folders(connection, batch_id))

    @property
    def labels(self) -> FileLabels:
        """The labels of the files and of all documents loaded so far."""
        return FileLabels(self._folders, dict(self._first_files))

    def load(self, document_ids: Iterable[int]) -> None:
        """Read the names of documents, by their `docs.id`."""
        missing = sorted({*document_ids} - self._first_files.keys())
        if missing:
            names = report_queries.first_names(self._connection, self._batch_id, missing)
            self._first_files |= {document_id: names.get(document_id) for document_id in missing}

    def of_document(self, document_id: int) -> str:
        """The label of a loaded document."""
        return FileLabels(self._folders, self._first_files).of_document(document_id)
