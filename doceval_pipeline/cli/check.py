"""`doceval check`: the consistency of both databases."""

import click

from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases, warn_of_waiting
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, print_json, print_table, warn


@command(epilog=examples("doceval check", "doceval check --every-document"))
@click.option("--every-document", is_flag=True, help="Decode every stored document instead of a sample.")
@as_json_option
def check(*, every_document: bool, as_json: bool) -> None:
    """Check both databases for consistency.

    The exit code is 1 if an invariant is violated (doceval docs invariants). Read-only: a member of
    doceval_reader can run it.

    Also warns on standard error, with the exit code unchanged: about guards missing from the installation's
    dagster.yaml, webhook messages that could not be sent, recurring evaluations whose newest occurrence
    failed, work that waits while no daemon runs, and rights of processors' login roles that endanger others.
    """
    from doceval_pipeline.batches.access_warnings import access_warnings
    from doceval_pipeline.batches.invariants.audit import audit_installation
    from doceval_pipeline.batches.monitoring.status import failed_occurrences
    from doceval_pipeline.batches.webhook import notifications
    from doceval_pipeline.dagster_home.safeguards import missing_safeguards

    opened = databases()
    with bars(visible=not as_json) as new_bar:
        findings = list(
            audit_installation(opened, new_bar("checking invariants"), every_document=every_document)
        )
    if as_json:
        print_json([finding.as_json() for finding in findings])
    elif not findings:
        console.print("[green]every invariant holds[/]")
    else:
        rows = [(f.invariant, f.batch, f.problem, f.fix) for f in findings]
        print_table(("invariant", "batch", "problem", "what to do"), rows)
    for warning in (
        *missing_safeguards(opened.settings),
        *access_warnings(opened),
        *notifications.warnings(opened),
        *failed_occurrences(opened),
    ):
        warn(warning)
    warn_of_waiting(opened)
    if findings:
        raise SystemExit(1)
