"""Numbers the clusters of documents for statistics: versions and copies of a document are not independent."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.doc_eval.clusters import document_clusters


def cluster_numbers(
    doc_eval: Connection, batch_ids: Iterable[int], documents: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """The cluster of each document, by its smallest `docs.id`; None if each document is its own.

    Parameters
    ----------
    batch_ids
        The batches that the documents are from.
    documents
        `docs.id`, ascending.
    """
    shared = document_clusters(doc_eval, batch_ids, documents.tolist())
    if not shared:
        return None
    numbers = documents.copy()
    numbers[np.searchsorted(documents, list(shared))] = list(shared.values())
    return numbers
