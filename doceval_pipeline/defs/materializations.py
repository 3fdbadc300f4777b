"""Reads the materializations of assets."""

from collections.abc import Iterator

import dagster as dg

_PORTION = 100


def newest_materializations(
    instance: dg.DagsterInstance, wanted: dg.AssetKey | dg.AssetRecordsFilter
) -> Iterator[dg.EventLogRecord]:
    """All materializations, newest first, read in portions as they are needed."""
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(wanted, limit=_PORTION, cursor=cursor)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor
