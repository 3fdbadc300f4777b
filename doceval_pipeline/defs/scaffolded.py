"""Definitions that users add to this folder, with `dg scaffold defs` or by hand: files and component folders.

The project's own definitions are listed in `definitions.py`. Everything else in this folder is loaded by
Dagster's rules for a `defs` folder, which are slow and therefore used only if there is something to load.
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
        "assembly",
        "catalog",
        "celery_runs",
        "cross_site",
        "cursors",
        "daemon",
        "dead_runs",
        "engines",
        "idle",
        "instance",
        "jobs",
        "json_logs",
        "launcher",
        "launchpads",
        "leaderboard",
        "lost_runs",
        "maintenance",
        "materializations",
        "metrics",
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
    """Files and folders that users added beside the project's modules, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith((".", "__"))
        and (path.is_dir() or (path.suffix == ".py" and path.stem not in OWN))
    )


# As in Dagster's own loaders of such folders: users need no warning of the preview features they use.
@suppress_dagster_warnings
def users_definitions(own: dg.Definitions) -> list[dg.Definitions]:
    """The definitions that users added; if there are none, nothing is loaded.

    Assets of the project that users' files import are removed, because `own` has copies with catalog
    metadata.
    """
    added = added_by_users()
    if not added:
        return []
    from dagster.components.core.component_tree import ComponentTree

    from doceval_pipeline import defs

    tree = ComponentTree(defs_module=defs, project_root=FOLDER.parent.parent)
    own_keys = {key for asset in own.assets or () for key in _keys(asset)}
    loaded = [tree.build_defs_at_path(path) for path in added]
    return [
        replace(each, assets=[asset for asset in each.assets or () if own_keys.isdisjoint(_keys(asset))])
        for each in loaded
    ]


def _keys(asset: Any) -> Iterable[dg.AssetKey]:
    """The keys of an asset definition or asset spec."""
    return asset.keys if isinstance(asset, dg.AssetsDefinition) else [asset.key]
