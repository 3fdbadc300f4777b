"""A batch over object storage in Dagster: made in the launchpad, staged, no credentials in events."""

import dagster as dg
import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.batches import find_batch
from doceval_pipeline.documents import stores
from doceval_pipeline_tests.defs.running import QUIET, failure, run
from doceval_pipeline_tests.documents import s3_server
from doceval_pipeline_tests.documents.s3_server import ACCESS_KEY, SECRET_KEY, Answer


def test_a_batch_of_the_launchpad_is_staged_and_no_event_has_credentials(
    databases: Databases, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.01)
    config = {
        "name": "remote",
        "folders": ["s3://documents/in/"],
        "connections": ["model"],
        "prompts": ["clarity"],
        "new_connections": [{"name": "model", "provider": "simulation", "model": "m"}],
        "new_prompts": [{"name": "clarity", "text": "Clear?"}],
    }
    with s3_server.running() as server:
        s3 = server.prepared(monkeypatch)
        s3.put("documents", "in/a.txt", b"a")
        made = run(
            instance, "create_batch", None, run_config={**QUIET, "ops": {"create": {"config": config}}}
        )
        assert made.success
        key = find_batch(databases.doc_eval, "remote").key
        s3.fails = lambda method, path: Answer(400, "ExpiredToken")
        failed = run(instance, "stage_batch", key)
        assert "the credentials have expired (400 ExpiredToken): renew them" in failure(failed)
        s3.fails = lambda method, path: None
        staged = run(instance, "stage_batch", key)
        assert staged.success
    written = [
        repr(record) for result in (made, failed, staged) for record in instance.all_logs(result.run_id)
    ]
    assert len(written) > 30
    for secret in (ACCESS_KEY, SECRET_KEY, "X-Amz"):
        assert not any(secret in record for record in written)
