"""Finds versions and copies among documents: figures across them must not count them as independent.

Two documents belong to one cluster if one file had both as its content, or if a chain of such files connects
them. A file is a row of `documents`: a folder and the exact bytes of a path, so that names in another case or
Unicode form are other files. Moved and copied files are connected by their content. The contents of a file
are those of all batches that are not archived.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, text

from doceval_pipeline import arrays

# Rows per fetch.
_CHUNK = 10_000
# Pairs of contents of one file. Only contents that are given or that several changed files had can connect
# given ones, so the pairs stay few even if every file changed in every batch.
_PAIRS = text("""
    WITH changed AS MATERIALIZED (
        SELECT document_id FROM batch_documents
        GROUP BY document_id HAVING min(knowledge_document_id) <> max(knowledge_document_id)
    ), held AS MATERIALIZED (
        SELECT DISTINCT document_id AS file_id, knowledge_document_id AS content
        FROM changed JOIN batch_documents USING (document_id)
        WHERE knowledge_document_id IS NOT NULL
    ), connecting AS (
        SELECT content FROM held GROUP BY content HAVING count(*) > 1
        UNION SELECT unnest(CAST(:given AS bigint[]))
    )
    SELECT first, content
    FROM (SELECT min(content) OVER (PARTITION BY file_id) AS first, content
          FROM held JOIN connecting USING (content)) AS of_file
    WHERE first <> content
""")


def document_clusters(connection: Connection, document_ids: Iterable[int]) -> dict[int, int]:
    """The cluster of each given document that is a version or copy of another given one.

    Parameters
    ----------
    document_ids
        `docs.id` in KnowledgeDocuments, as in `batch_documents.knowledge_document_id`.

    Returns
    -------
    dict[int, int]
        The smallest given `docs.id` of its cluster, by `docs.id`; without documents that are alone.
    """
    given = sorted(set(document_ids))
    # Fewer than two documents share no cluster.
    rows = (
        connection.execute(
            _PAIRS, {"given": arrays.of_numbers(given)}, execution_options={"yield_per": _CHUNK}
        )
        if len(given) > 1
        else ()
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
