"""Finds versions and copies among documents: figures across them must not count them as independent.

Two documents belong to one cluster if one file had both as its content, or if a chain of such files connects
them. A file is a row of `documents`: a folder and the exact bytes of a path, so that names in another case or
Unicode form are other files. Moved and copied files are connected by their content. The contents of a file
are those of all batches that are not archived. Only files of the batches that are looked at connect
documents: looking for others would read the files of all batches for each report.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, text

from doceval_pipeline import arrays

# Rows per fetch.
_CHUNK = 10_000
# Pairs of contents of one file. Files that always had one content are most of them and connect nothing.
_PAIRS = text("""
    WITH file AS MATERIALIZED (
        SELECT DISTINCT document_id FROM batch_documents WHERE batch_id = ANY(CAST(:batch_ids AS int[])))
    SELECT DISTINCT first, content
    FROM (SELECT min(b.knowledge_document_id) OVER (PARTITION BY document_id) AS first,
                 b.knowledge_document_id AS content
          FROM file JOIN batch_documents b USING (document_id)
          WHERE b.knowledge_document_id IS NOT NULL) AS of_file
    WHERE first <> content
""")


def document_clusters(connection: Connection, batch_ids: Iterable[int]) -> dict[int, int]:
    """The cluster of each document that is a version or copy of another one, by `docs.id`.

    Parameters
    ----------
    batch_ids
        The batches whose files connect documents.

    Returns
    -------
    dict[int, int]
        The smallest `docs.id` of the cluster; documents that are alone are left out. It has the documents of
        other batches, too, if files of these batches had them.
    """
    parameters = {"batch_ids": arrays.of_numbers(batch_ids)}
    rows = connection.execute(_PAIRS, parameters, execution_options={"yield_per": _CHUNK})
    return _connected((row.first, row.content) for row in rows)


def _connected(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The smallest member of each connected component, by member."""
    parents: dict[int, int] = {}

    def root(number: int) -> int:
        while (parent := parents.setdefault(number, number)) != number:
            # Halves the path, so that later searches are short.
            parents[number] = number = parents[parent]
        return number

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        parents[second] = first
    return {number: root(number) for number in parents}
