"""Corruptions in archived batches, by invariant."""

from doceval_pipeline_tests.batches.invariants.corruptions.corruption import Corruption
from doceval_pipeline_tests.batches.invariants.installation import Installation
from doceval_pipeline_tests.conftest import Sample


def _remove_archive(installation: Installation) -> None:
    batch: Sample = installation["archived"]
    ((file,),) = batch.doc_eval("SELECT archive_file FROM batches WHERE id = :id")
    (batch.databases.settings.archives / file).unlink()


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "archived-is-gone": (
        Corruption(
            "archived",
            "SELECT archive_file FROM batches WHERE id = {id}",
            "doceval archive {id}",
            doc_eval="INSERT INTO documents (id, folder_id, filepath, filename, raw_path) "
            "SELECT 4711, min(id), 'left', 'left', 'left' FROM folders; "
            "INSERT INTO batch_documents (batch_id, document_id, state) VALUES ({id}, 4711, 'ASSIGNED')",
            reported_in="doc_eval",
        ),
        Corruption(
            "archived",
            "SELECT archive_file FROM batches WHERE id = {id}",
            "doceval archive {id}",
            knowledge="INSERT INTO batch_configs VALUES ({id}, '{{}}', repeat('0', 64))",
            reported_in="doc_eval",
        ),
    ),
    "archive-is-there": (
        Corruption(
            "archived",
            "SELECT archive_file FROM batches WHERE id = {id}",
            "put a copy of",
            operation=_remove_archive,
            reported_in="doc_eval",
        ),
    ),
}
