"""What keeps an installation in order by itself: the audit, and the removal of what only grows."""

from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from doceval_pipeline.batches.invariants.audit import Violation, violations
from doceval_pipeline.batches.retention import forget_old
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import NoConfig, open_step

CHECK = "every_invariant_holds"


@dg.asset(
    group_name="upkeep",
    kinds={"postgres"},
    check_specs=[
        dg.AssetCheckSpec(CHECK, asset="audit", description="Every invariant of docs/invariants.md holds.")
    ],
    code_version=CODE_VERSIONS["audit"],
)
def audit(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> Iterator[dg.MaterializeResult[None]]:
    """Checks both databases for consistency, as `doceval check` does. Changes nothing."""
    with open_step(context, doc_eval) as databases:
        found = list(violations(databases, False, lambda *_: None))
    said = (
        f"{len(found):,} violations: see what_to_do, or doceval check" if found else "every invariant holds"
    )
    context.log.info(said)
    yield dg.MaterializeResult(
        metadata={"violations": len(found), "what_to_do": _as_table(found)},
        # What the databases hold may be other each time.
        data_version=dg.DataVersion(context.run.run_id),
        check_results=[
            dg.AssetCheckResult(
                check_name=CHECK,
                passed=not found,
                description=said,
            )
        ],
    )


@dg.op
def forget_old_events(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Remove log lines, samples of progress and fulfilled requests that are older than DOCEVAL_KEEP_DAYS."""
    with open_step(context, doc_eval) as databases:
        counts = asdict(forget_old(databases))
    context.log.info("removed: " + ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()))
    context.add_output_metadata(counts)
    return counts


@dg.job
def retention() -> None:
    """Remove what is old and only grows; results, reports and the history of assets stay."""
    forget_old_events()


audit_databases = dg.define_asset_job(
    "audit_databases",
    selection=dg.AssetSelection.assets(audit),
    description="Check both databases for consistency.",
)


def _as_table(found: list[Violation]) -> dg.TableMetadataValue:
    columns = [dg.TableColumn(name) for name in ("invariant", "batch", "problem", "mend")]
    return dg.MetadataValue.table(
        [dg.TableRecord(asdict(violation)) for violation in found], dg.TableSchema(columns)
    )
