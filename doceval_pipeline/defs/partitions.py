"""One dynamic partition per batch, and asset checks by batch.

The sensor `new_batches` adds partitions; they are never deleted.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

NAME = "batches"
batches = dg.DynamicPartitionsDefinition(name=NAME)


def unregistered(instance: dg.DagsterInstance, keys: Sequence[str]) -> list[str]:
    """The given keys that have no partition yet, in their order; reads only these partitions."""
    known = instance.get_existing_dynamic_partitions(NAME, keys) if keys else set()
    return [key for key in dict.fromkeys(keys) if key not in known]


def of_runs(requests: Iterable[dg.RunRequest]) -> list[str]:
    """The partitions of requested runs; runs without one are left out."""
    return [request.partition_key for request in requests if request.partition_key is not None]


def batch_check_spec(*args: Any, **kwargs: Any) -> dg.AssetCheckSpec:
    """`dg.AssetCheckSpec` with a result for each batch."""
    with _preview_accepted():
        return dg.AssetCheckSpec(*args, partitions_def=batches, **kwargs)


def batch_check(**kwargs: Any) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """`dg.asset_check` with a result for each batch."""

    def decorate(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
        with _preview_accepted():
            return dg.asset_check(partitions_def=batches, **kwargs)(function)

    return decorate


@contextmanager
def _preview_accepted() -> Iterator[None]:
    """Suppress a warning about a preview feature: Dagster's release is pinned, so the feature is stable."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Specifying a partitions_def on an AssetCheckSpec", category=dg.PreviewWarning
        )
        yield
