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


def document_clusters(
    connection: Connection, batch_ids: Iterable[int], document_ids: Iterable[int]
) -> dict[int, int]:
    """The cluster of each given document that is a version or copy of another given one.

    Parameters
    ----------
    batch_ids
        The batches that the documents are from: their files connect documents.
    document_ids
        `docs.id` in KnowledgeDocuments, as in `batch_documents.knowledge_document_id`.

    Returns
    -------
    dict[int, int]
        The smallest given `docs.id` of its cluster, by `docs.id`; without documents that are alone.
    """
    given = sorted(set(document_ids))
    # Fewer than two documents share no cluster.
    if len(given) < 2:
        return {}
    rows = connection.execute(
        _PAIRS, {"batch_ids": arrays.of_numbers(batch_ids)}, execution_options={"yield_per": _CHUNK}
    )
    return _shared(given, ((row.first, row.content) for row in rows))


def _shared(given: Iterable[int], pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The smallest given member of each connected component that has at least two given members."""
    parents: dict[int, int] = {}

    def root(number: int) -> int:
        while (parent := parents.get(number, number)) != number:
            # Halves the path, so that later searches are short.
            parents[number] = number = parents.get(parent, parent)
        return number

    for one, other in pairs:
        parents[root(one)] = root(other)
    members: dict[int, list[int]] = {}
    for number in given:
        members.setdefault(root(number), []).append(number)
    return {number: min(group) for group in members.values() if len(group) > 1 for number in group}
