"""How the files and documents of a batch are called in what people read."""

from collections.abc import Iterable

from sqlalchemy import Connection

from doceval_pipeline.doc_eval import report_queries
from doceval_pipeline.doc_eval.report_queries import FileName


class Names:
    """How files and documents of a batch are called: with their folder where the batch has several.

    Documents are to be made known before they are named, many at once.
    """

    def __init__(self, connection: Connection, batch_id: int) -> None:
        self._connection, self._batch_id = connection, batch_id
        self._firsts: dict[int, FileName | None] = {}
        self.folders = report_queries.folders(connection, batch_id)

    def know(self, document_ids: Iterable[int]) -> None:
        """Read the names of some documents, by their `docs.id`."""
        unknown = sorted({*document_ids} - self._firsts.keys())
        if unknown:
            found = report_queries.first_names(self._connection, self._batch_id, unknown)
            self._firsts |= {id_: found.get(id_) for id_ in unknown}

    def of_file(self, file: FileName) -> str:
        """Its path."""
        return f"{file.folder.rstrip('/')}/{file.path}" if len(self.folders) > 1 else file.path

    def of_document(self, document_id: int) -> str:
        """The name of its first file; its number where the batch has no such file."""
        file = self._firsts[document_id]
        return f"document {document_id}" if file is None else self.of_file(file)

    def twin(self, file: FileName, document_id: int | None) -> str | None:
        """The name of the first file with the same content, where that is another one."""
        first = None if document_id is None else self._firsts[document_id]
        return None if first is None or first == file else self.of_file(first)
