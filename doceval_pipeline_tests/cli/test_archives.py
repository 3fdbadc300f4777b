"""The commands archive and restore in a process of their own."""

import shutil
from pathlib import Path

import pytest

from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline_tests.cli.redirected import run_redirected
from doceval_pipeline_tests.cli.running import doceval, read_json, write_evaluation

pytestmark = pytest.mark.usefixtures("databases")


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """A batch that is staged and answered; completed by nobody yet."""
    doceval("apply", str(write_evaluation(tmp_path, "q4")))
    doceval("stage", "q4")
    doceval("simulate-processor", "--until-empty", "--latency", "0")
    return "q4"


def test_a_batch_is_archived_shown_as_archived_and_restored(batch: str) -> None:
    ended = doceval("archive", batch)
    assert ended.returncode == 0, ended.stderr
    said, path = ended.stdout.splitlines()
    assert "COMPLETED, archived: 12 rows and 3 documents in " in said
    assert Path(path).is_file()
    shown = doceval("status").stdout
    assert "COMPLETED, archived" in shown
    (status,) = read_json("status")
    assert (status["status"], status["archived"][:2]) == ("COMPLETED", "20")
    for command in ("stage", "documents"):
        refused = doceval(command, batch)
        assert refused.returncode == 1
        assert refused.stderr.endswith(f"is archived: run doceval restore {Path(path).name} first\n")
        assert refused.stderr.count("\n") == 1
    assert read_json("check") == []
    ended = doceval("restore", Path(path).name)
    assert ended.returncode == 0, ended.stderr
    assert "COMPLETED: 12 rows, 3 files and 3 documents restored" in ended.stdout
    assert read_json("status")[0]["archived"] is None
    assert read_json("check") == []
    again = doceval("restore", path)
    assert again.returncode == 1
    assert "is not archived: its rows are in the databases" in again.stderr


def test_both_print_data_for_other_programs(batch: str) -> None:
    archived = read_json("archive", batch)
    assert archived["archive"].keys() == {"path", "sha256", "size", "rows", "documents", "documents_removed"}
    assert archived["archive"]["documents_removed"] == 3
    restored = read_json("restore", archived["archive"]["path"])
    assert restored["restored"] == {
        "batch_id": archived["batch"],
        "path": archived["archive"]["path"],
        "sha256": archived["archive"]["sha256"],
        "rows": 12,
        "documents": 3,
        "documents_stored": 3,
        "files": 3,
    }
    assert restored["cells"]["succeeded"] == 12


def test_another_installation_is_shown_the_connections_before_it_restores_anything(
    batch: str, tmp_path: Path
) -> None:
    path = read_json("archive", batch)["archive"]["path"]
    home = {"DOCEVAL_HOME": str(tmp_path / "other")}
    copy = str(tmp_path / "copy.zip")
    shutil.copy(path, copy)
    try:
        refused = doceval("restore", copy, **home)
        assert refused.returncode == 1
        assert "archived 20" in refused.stdout
        assert "new folder: " in refused.stdout
        assert refused.stderr.count("\n") == 1
        assert "copy.zip brings connections that are new or different here: " in refused.stderr
        assert refused.stderr.endswith("restore the archive with --accept-connections\n")
        assert read_json("status", **home) == []
        restored = read_json("restore", copy, "--accept-connections", **home)
        assert restored["cells"]["succeeded"] == 12
        assert read_json("check", **home) == []
    finally:
        EmbeddedServer(tmp_path / "other").stop()


def test_what_cannot_be_is_one_line() -> None:
    refused = {
        ("archive", "nobody"): "batch 'nobody' does not exist",
        ("restore", "nothing.zip"): "nothing.zip cannot be read (No such file or directory)",
        ("restore", __file__): "is not a doceval archive",
    }
    for ended, line in zip(run_redirected("terminal-200", list(refused)), refused.values(), strict=True):
        assert ended.code == 1
        assert line in ended.said
        assert len(ended.said.strip().splitlines()) == 1


def test_an_archive_that_is_refused_is_one_line(tmp_path: Path) -> None:
    doceval("apply", str(write_evaluation(tmp_path, "new")))
    ended = doceval("archive", "new")
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("has nothing to archive because it is SAVED: stage it first")
    assert ended.stderr.count("\n") == 1
