"""Numbers the clusters of documents for statistics: versions and copies of a document are not independent."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from doceval_pipeline.doc_eval.clusters import document_clusters


def cluster_numbers(
    doc_eval: Connection, batch_ids: Iterable[int], documents: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """The cluster of each document, as a number; None if each document is its own.

    Parameters
    ----------
    batch_ids
        The batches that the documents are from.
    documents
        `docs.id`, each once.
    """
    connected = document_clusters(doc_eval, batch_ids)
    numbers = np.array([connected.get(number, number) for number in documents.tolist()], dtype=np.int64)
    return None if np.unique(numbers).size == documents.size else numbers
