"""Corruptions in the contract with processors, by invariant."""

from collections.abc import Callable

from sqlalchemy import text

from doceval_pipeline_tests.batches.invariants.corruptions.corruption import LEASED, ROW, THE_ROW, Corruption
from doceval_pipeline_tests.batches.invariants.installation import Installation


def _without_the_constraint(assignment: str) -> Callable[[Installation], None]:
    def act(installation: Installation) -> None:
        with installation.databases.knowledge.begin() as connection:
            connection.execute(text("ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_lease_whole"))
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(f"UPDATE llm_responses SET {assignment} WHERE id = {LEASED}"))

    return act


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "leases-are-whole": (
        Corruption(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            knowledge=f"UPDATE llm_responses SET deliveries = 0 WHERE id = {LEASED}",
        ),
        Corruption(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            knowledge=f"UPDATE llm_responses SET started_processing_at = NULL WHERE id = {LEASED}",
        ),
        Corruption(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            operation=_without_the_constraint("status = 'S'"),
        ),
        Corruption(
            "running",
            f"SELECT 'llm_responses.id ' || {LEASED}",
            "lease_expires_at = NULL",
            operation=_without_the_constraint("lease_token = NULL"),
        ),
    ),
    "deliveries-end": (
        Corruption(
            "running",
            THE_ROW,
            "deliveries = uncounted + 5",
            knowledge=f"UPDATE llm_responses SET deliveries = 6 WHERE id = {ROW}",
        ),
    ),
    "places-are-in-the-queue": (
        Corruption(
            "running",
            "SELECT 'llm_responses.id ' || min(id) FROM llm_responses "
            "WHERE batch_id = {id} AND status = 'QUEUED'",
            "doceval pause {id}",
            knowledge="UPDATE llm_responses SET queue_position = 1000000000000000 WHERE id = "
            "(SELECT min(id) FROM llm_responses WHERE batch_id = {id} AND status = 'QUEUED')",
        ),
    ),
    "ended-rows-say-when": (
        Corruption(
            "cancelled",
            "SELECT 'llm_responses.id ' || id FROM llm_responses "
            "WHERE batch_id = {id} AND status = 'F' ORDER BY id",
            "doceval reprocess {id} --failed",
            knowledge="UPDATE llm_responses SET completed_processing_at = NULL WHERE batch_id = {id}",
        ),
        *(
            Corruption(
                "paused",
                THE_ROW,
                "doceval reprocess {id} --failed",
                knowledge=f"UPDATE llm_responses SET status = 'F', error_message = '{message}' "
                f"WHERE id = {ROW}",
            )
            for message in (
                "given up after 5 deliveries, the last of which failed",
                "the batch was cancelled, and the delivery failed",
            )
        ),
    ),
}
