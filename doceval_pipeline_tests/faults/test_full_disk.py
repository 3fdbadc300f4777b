"""The server's disk is full in the middle of a COPY."""

from pathlib import Path

import pytest

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline_tests.conftest import Sample, write_old
from doceval_pipeline_tests.faults.environment import Environment
from doceval_pipeline_tests.faults.full_disk import postmaster, small_disk
from doceval_pipeline_tests.faults.sizes import short_and_full

# Five of them are 40 MB, and 54 MB as base64; each fits, and all do not.
LARGE = 8_000_000


def large_batch(environment: Environment) -> Sample:
    batch = environment.new_batch()
    for number in range(5):
        write_old(environment.folder / f"large {number}.txt", f"{number}" * LARGE)
    return batch


@short_and_full("times", (1,), (5,))
def test_a_full_disk_is_reported_in_one_line_and_the_rerun_completes(
    environment: Environment, tmp_path: Path, times: int
) -> None:
    server = EmbeddedServer(environment.databases.settings.home)
    batch = large_batch(environment)
    batch.stage()
    state = environment.state(batch)
    for number in range(times):
        batch = large_batch(environment)
        with small_disk(server, tmp_path / f"small disk {number}") as disk:
            before = postmaster(server)
            with pytest.raises(DatabaseError, match=disk.line) as told:
                batch.stage()
            assert "\n" not in str(told.value)
            assert postmaster(server) == before, "the server stays"
            assert batch.status() == "FAILED_STAGING"
            assert batch.doc_eval("SELECT failure_reason FROM batches") == [(str(told.value),)]
            whole = batch.knowledge("SELECT count(*) FROM docs WHERE file_size = :size", size=LARGE)[0][0]
            assert 0 < whole < 5
            disk.enlarge()
            batch.stage()
            environment.require(batch, state)
