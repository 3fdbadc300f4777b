"""Maintenance of an installation: the audit, and the removal of old events."""

from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg

from doceval_pipeline.batches.invariants.audit import AuditFinding, audit_installation
from doceval_pipeline.batches.retention import delete_old_rows
from doceval_pipeline.defs.catalog import CODE_VERSIONS
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.steps import NoConfig, open_step

CHECK = "every_invariant_holds"


@dg.asset(
    group_name="upkeep",
    kinds={"postgres"},
    check_specs=[
        dg.AssetCheckSpec(
            CHECK, asset="audit", description="Checks that every invariant of docs/invariants.md holds."
        )
    ],
    code_version=CODE_VERSIONS["audit"],
)
def audit(
    context: dg.AssetExecutionContext, config: NoConfig, doc_eval: DocEval
) -> Iterator[dg.MaterializeResult[None]]:
    """Checks both databases for consistency, as `doceval check` does. Changes nothing."""
    with open_step(context, doc_eval) as databases:
        findings = list(audit_installation(databases, lambda *_: None, every_document=False))
    summary = (
        f"{len(findings):,} violations: see what_to_do, or run doceval check"
        if findings
        else "every invariant holds"
    )
    context.log.info(summary)
    yield dg.MaterializeResult(
        metadata={"violations": len(findings), "what_to_do": _as_table(findings)},
        # The databases may have changed since the last audit.
        data_version=dg.DataVersion(context.run.run_id),
        check_results=[
            dg.AssetCheckResult(
                check_name=CHECK,
                passed=not findings,
                description=summary,
            )
        ],
    )


@dg.op
def forget_old_events(context: dg.OpExecutionContext, config: NoConfig, doc_eval: DocEval) -> dict[str, int]:
    """Deletes log lines, progress samples and fulfilled requests older than DOCEVAL_KEEP_DAYS."""
    with open_step(context, doc_eval) as databases:
        counts = asdict(delete_old_rows(databases))
    context.log.info("deleted: " + ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()))
    context.add_output_metadata(counts)
    return counts


@dg.job
def retention() -> None:
    """Deletes old log lines, progress samples and requests; results, reports and asset history are kept."""
    forget_old_events()


audit_databases = dg.define_asset_job(
    "audit_databases",
    selection=dg.AssetSelection.assets(audit),
    description="Checks both databases for consistency.",
)


def _as_table(findings: list[AuditFinding]) -> dg.TableMetadataValue:
    columns = [dg.TableColumn(name) for name in ("invariant", "batch", "problem", "mend")]
    return dg.MetadataValue.table(
        [dg.TableRecord(finding.as_json()) for finding in findings], dg.TableSchema(columns)
    )
