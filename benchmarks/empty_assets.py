"""A Dagster project of four partitioned assets that do nothing: the yardstick of cases 9 and 12.

Imports nothing from this project, so that it measures only Dagster's own cost.
"""

from collections.abc import Iterator

import dagster as dg

PARTITIONS = "batches"
NAMES = ("first", "second", "third", "fourth")


def empty_definitions(*, with_checks: bool) -> dg.Definitions:
    """A chain of four assets of one partition, optionally with as many checks as staging has."""
    partitions = dg.DynamicPartitionsDefinition(name=PARTITIONS)

    def nothing() -> None:
        """Do nothing."""

    def passed() -> dg.AssetCheckResult:
        """Pass."""
        return dg.AssetCheckResult(passed=True)

    def both_passed(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        """Pass both checks."""
        for key in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(passed=True, check_name=key.name, asset_key=key.asset_key)

    assets = [
        dg.asset(name=name, partitions_def=partitions, deps=NAMES[at - 1 : at] if at else [])(nothing)
        for at, name in enumerate(NAMES)
    ]
    one = dg.asset_check(asset="third", partitions_def=partitions, blocking=True)(passed)
    specs = [
        dg.AssetCheckSpec(name, asset="fourth", partitions_def=partitions, blocking=True)
        for name in ("complete", "sound")
    ]
    two = dg.multi_asset_check(specs=specs, can_subset=True)(both_passed)
    job = dg.define_asset_job("empty", selection=list(NAMES))
    return dg.Definitions(
        assets=assets,
        asset_checks=[one, two] if with_checks else [],
        jobs=[job],
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions for `dagster dev -m benchmarks.empty_assets`."""
    return empty_definitions(with_checks=False)
