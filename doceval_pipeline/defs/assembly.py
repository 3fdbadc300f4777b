"""Puts definitions together: with catalog metadata, resources and executor; and those of staging alone."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from doceval_pipeline.defs import staging
from doceval_pipeline.defs.catalog import with_catalog_metadata
from doceval_pipeline.defs.resources import DocEval, StagingProgress
from doceval_pipeline.settings import Settings

STAGING_ASSETS = (
    staging.batch_config_snapshot,
    staging.document_assignment,
    staging.encoded_documents,
    staging.queue_rows,
)
STAGING_CHECKS = (staging.documents_round_trip, staging.queue_checks)


def assembled(
    settings: Settings, *, assets: Iterable[dg.AssetsDefinition | dg.AssetSpec], **more: Any
) -> dg.Definitions:
    """Definitions with the resources, the executor and the catalog metadata of this project."""
    return dg.Definitions(
        assets=with_catalog_metadata(assets, settings),
        resources={"doc_eval": DocEval(), "progress": StagingProgress()},
        # All steps of a run share one process: a process per step costs more than the steps of a small batch.
        executor=dg.in_process_executor,
        **more,
    )


def staging_definitions(settings: Settings) -> dg.Definitions:
    """The definitions of the job `stage_batch` alone, which is the same as among all definitions.

    Importing all of them takes 0.2 CPU-seconds more, an eighth of `doceval stage`.
    """
    return assembled(
        settings,
        assets=STAGING_ASSETS,
        asset_checks=STAGING_CHECKS,
        jobs=[staging.stage_batch],
    )
