"""Figures of an installation for its monitoring."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Figures of the queue.

    Parameters
    ----------
    evaluations
        Evaluations of all batches that are not archived, by outcome.
    oldest_waiting_seconds
        Age of the oldest waiting row; 0 without one.
    active_leases, expired_leases
        Rows under a valid lease, and rows whose lease has expired and was not returned yet.
    """

    evaluations: Mapping[str, int]
    oldest_waiting_seconds: float
    active_leases: int
    expired_leases: int


@dataclass(frozen=True, slots=True)
class OpenFigures:
    """Figures of the batches with unfinished evaluations.

    Parameters
    ----------
    evaluations
        Their evaluations, finished ones included, by outcome and name of the connection.
    last_result_at
        When their newest result was written, in seconds since 1970; None without one.
    """

    evaluations: Mapping[tuple[str, str], int]
    last_result_at: float | None


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """Figures of batches.

    Parameters
    ----------
    batches
        Batches that are not archived, by status.
    completed_at
        When a batch was last completed, in seconds since 1970; None without one.
    """

    batches: Mapping[str, int]
    completed_at: float | None
