"""Sums over clusters: documents that are copies or versions of each other, or evaluations of one document."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Smaller differences are rounding errors: 0.3 - 0.1 and 0.2 are equal and take the same rank.
DECIMALS = 9

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """Values added up within each cluster; the clusters are sorted by sum, then by size."""

    sums: Values
    sizes: Values
    """The number of values in each cluster, as floats."""

    @property
    def n(self) -> int:
        """The number of values."""
        return int(self.sizes.sum())

    @property
    def singletons(self) -> bool:
        """Whether no cluster has more than one value."""
        return bool((self.sizes == 1).all())

    def turned(self) -> "ClusterSums":
        """The sums of the same values with the opposite sign."""
        return _sorted(0.0 - self.sums, self.sizes)

    def before(self, other: "ClusterSums") -> bool:
        """Whether these sort before another sample of as many clusters: lists of sums, then of sizes."""
        for mine, others in ((self.sums, other.sums), (self.sizes, other.sizes)):
            apart = np.flatnonzero(mine != others)
            if apart.size:
                return bool(mine[apart[0]] < others[apart[0]])
        return False


def cluster_sums(values: Values, clusters: ArrayLike | None = None) -> ClusterSums:
    """The sums of values over clusters, which do not depend on the order of the values.

    Parameters
    ----------
    clusters
        The number of the cluster of each value; None if each is its own.
    """
    rounded = np.round(values, DECIMALS)
    if clusters is None:
        return _sorted(rounded, np.ones(rounded.size))
    # Sorted first, because the sum of floats depends on their order.
    order = np.argsort(rounded, kind="stable")
    _, places = np.unique(np.asarray(clusters)[order], return_inverse=True)
    sums = np.bincount(places.ravel(), weights=rounded[order])
    return _sorted(np.round(sums, DECIMALS), np.bincount(places.ravel()).astype(np.float64))


def _sorted(sums: Values, sizes: Values) -> ClusterSums:
    order = np.lexsort((sizes, sums))
    return ClusterSums(sums[order], sizes[order])
