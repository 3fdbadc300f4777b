"""What users add to this folder, by `dg scaffold defs` or by hand: files and component folders.

Our own definitions are listed one by one in `definitions.py`; everything else that lies here is loaded by
Dagster's own rules for a `defs` folder, which take their time and are used only where there is something.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._utils.warnings import suppress_dagster_warnings
from dagster_shared.record import replace

FOLDER = Path(__file__).parent
OWN = frozenset(
    {
        "catalog",
        "cursors",
        "dead_runs",
        "foreign_pages",
        "idle",
        "instance",
        "jobs",
        "launcher",
        "launchpads",
        "leaderboard",
        "lost_runs",
        "maintenance",
        "naming",
        "partitions",
        "recurring",
        "recurring_text",
        "report_pages",
        "reporting",
        "requests",
        "resources",
        "responses",
        "result_checks",
        "scaffolded",
        "schedules",
        "sensors",
        "series",
        "staging",
        "steps",
        "storage",
        "warm",
        "webhook",
        "webserver",
    }
)


def added_by_users(folder: Path = FOLDER) -> list[Path]:
    """Files and folders beside our own modules that may hold definitions, in the order of their names."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith((".", "__"))
        and (path.is_dir() or (path.suffix == ".py" and path.stem not in OWN))
    )


# As Dagster's own loaders of such folders: how they work is nothing to warn users of.
@suppress_dagster_warnings
def users_definitions(own: dg.Definitions) -> list[dg.Definitions]:
    """The definitions of what users added; empty, and nothing is loaded, where they added nothing.

    Assets of ours that a file of theirs imports are left out: the catalog has completed copies of them.
    """
    added = added_by_users()
    if not added:
        return []
    from dagster.components.core.component_tree import ComponentTree

    from doceval_pipeline import defs

    tree = ComponentTree(defs_module=defs, project_root=FOLDER.parent.parent)
    ours = {key for asset in own.assets or () for key in _keys(asset)}
    found = [tree.build_defs_at_path(path) for path in added]
    return [
        replace(each, assets=[asset for asset in each.assets or () if ours.isdisjoint(_keys(asset))])
        for each in found
    ]


def _keys(asset: Any) -> Iterable[dg.AssetKey]:
    """The keys of an asset, however it was defined."""
    return asset.keys if isinstance(asset, dg.AssetsDefinition) else [asset.key]
