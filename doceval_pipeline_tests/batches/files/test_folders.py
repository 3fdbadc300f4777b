"""Which folders are walked: not doceval's own, not the system's, and each file once."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.files import folders
from doceval_pipeline.batches.files.file_counts import left_out, left_out_by_reason, staged
from doceval_pipeline.batches.files.folders import folder_problems, found_files
from doceval_pipeline.batches.staging import applying
from doceval_pipeline.batches.staging.applying import apply, preview
from doceval_pipeline.batches.staging.planning import plan
from doceval_pipeline.batches.staging.reprocessing import Mode
from doceval_pipeline.batches.staging.rescanning import rescan_folders
from doceval_pipeline.batches.staging.sample_size import note_on_sample
from doceval_pipeline.batches.staging.steps import store_documents
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.files import Tally
from doceval_pipeline.errors import EvaluationFileError, StagingError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

BatchOf = Callable[..., Sample]


def found(*tops: Path, settings: Settings, **choice: Any) -> dict[tuple[int, str], str]:
    """What is found, by the position of its folder and its path."""
    config = {
        "batch": {"include": [], "exclude": [], **choice},
        "folders": [{"id": number, "path": str(top)} for number, top in enumerate(tops)],
    }
    entries = list(found_files(config, settings))
    assert max(Counter((e.folder_id, e.raw_path) for e in entries).values(), default=1) == 1
    return {(e.folder_id, e.filepath): e.reason or e.state for e in entries}


def documents(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_old(folder / name, f"document {name}")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """An installation in a folder of documents."""
    documents(
        tmp_path / "work", "contract.txt", "home/postgres/base/1", "home/reports/r.html", "home/up.json"
    )
    return Settings(home=tmp_path / "work" / "home")


@pytest.mark.parametrize("spelling", ["work", "link", "."])
def test_an_installation_among_documents_is_one_entry_that_is_not_entered(
    tmp_path: Path, home: Settings, spelling: str
) -> None:
    (tmp_path / "link").symlink_to("work")
    seen = found(tmp_path / spelling, settings=home)
    prefix = "work/" if spelling == "." else ""
    expected = {
        (0, f"{prefix}contract.txt"): "ASSIGNED",
        (0, f"{prefix}home"): "folder of doceval's own files",
    }
    if spelling == ".":
        expected[0, "link"] = "symlink"
    assert seen == expected


def test_an_installation_that_is_named_by_a_link_is_known_all_the_same(
    tmp_path: Path, home: Settings
) -> None:
    (tmp_path / "elsewhere").symlink_to("work/home")
    seen = found(tmp_path / "work", settings=replace(home, home=tmp_path / "elsewhere"))
    assert seen[0, "home"] == "folder of doceval's own files"


def test_an_own_folder_that_was_moved_out_of_the_installation_is_not_entered(
    tmp_path: Path, home: Settings
) -> None:
    os.rename(home.home / "reports", tmp_path / "work" / "published")
    (home.home / "reports").symlink_to("../published")
    assert found(tmp_path / "work", settings=home)[0, "published"] == "folder of doceval's own files"


@pytest.mark.parametrize("folder", ["", "reports", "postgres/base", "../link/reports"])
def test_a_folder_of_doceval_itself_is_refused_by_apply_and_by_staging(
    tmp_path: Path, home: Settings, folder: str
) -> None:
    (tmp_path / "work" / "link").symlink_to("home")
    top = home.home / folder
    located = evaluation_of([{"name": "ours", "folders": [str(top)]}], why_not=folder_problems(home))
    with pytest.raises(EvaluationFileError, match=r"^batches\[0\].folders\[0\]: folder .* own files"):
        located.refuse()
    with pytest.raises(StagingError, match=r"holds doceval's own files \(DOCEVAL_HOME\): put the documents"):
        found(top, settings=home)


def test_documents_of_a_person_in_the_installations_folder_are_found(home: Settings) -> None:
    top = documents(home.home / "my documents", "a.txt")
    evaluation_of([{"name": "mine", "folders": [str(top)]}], why_not=folder_problems(home)).refuse()
    assert found(top, settings=home) == {(0, "a.txt"): "ASSIGNED"}


@pytest.mark.parametrize("folder", ["/proc", "/dev", "/sys"])
def test_a_folder_of_the_system_is_refused(home: Settings, folder: str) -> None:
    if not os.path.isdir(folder):
        pytest.skip(f"this machine has no {folder}")
    with pytest.raises(EvaluationFileError, match="belongs to the system: name the folder"):
        evaluation_of([{"name": "system", "folders": [folder]}], why_not=folder_problems(home)).refuse()


def test_what_an_installation_writes_is_in_the_folders_that_are_known_as_its_own(
    settings: Settings, batch_of: BatchOf
) -> None:
    batch_of().stage()
    known = {folder.name for folder in settings.own_folders}
    made = {e.name for e in os.scandir(settings.home) if e.is_dir() and not e.name.startswith(".")}
    assert "postgres" in made
    assert made <= known


def test_a_folder_inside_another_one_is_counted_once(tmp_path: Path, settings: Settings) -> None:
    documents(tmp_path / "outer", "a.txt", "inner/b.txt", "inner/deep/c.txt")
    tops = (tmp_path / "outer", tmp_path / "outer" / "inner")
    inner = {(1, "b.txt"): "ASSIGNED", (1, "deep/c.txt"): "ASSIGNED"}
    outer = {(0, "a.txt"): "ASSIGNED", (0, "inner"): "folder counted by itself"}
    assert found(*tops, settings=settings) == {**outer, **inner}
    seen = found(*reversed(tops), settings=settings)
    assert seen == {(1 - number, path): reason for (number, path), reason in {**outer, **inner}.items()}


def test_a_folder_inside_another_one_by_a_link_is_counted_once(tmp_path: Path, settings: Settings) -> None:
    documents(tmp_path / "outer", "inner/b.txt")
    (tmp_path / "link").symlink_to("outer/inner")
    assert found(tmp_path / "outer", tmp_path / "link", settings=settings) == {
        (0, "inner"): "folder counted by itself",
        (1, "b.txt"): "ASSIGNED",
    }


def test_one_folder_under_two_names_is_counted_once(tmp_path: Path, settings: Settings) -> None:
    documents(tmp_path / "docs", "a.txt")
    (tmp_path / "link").symlink_to("docs")
    tops = (tmp_path / "docs", tmp_path / "link")
    assert found(*tops, settings=settings) == {(0, "a.txt"): "ASSIGNED", (1, "."): "folder counted by itself"}


def test_nested_folders_are_staged_with_each_content_once(
    databases: Databases, settings: Settings, tmp_path: Path
) -> None:
    documents(tmp_path / "outer", "a.txt", "inner/b.txt")
    tops = [str(tmp_path / "outer"), str(tmp_path / "outer" / "inner")]
    located = evaluation_of([{"name": "nested", "folders": tops}])
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    (looked,) = preview(databases, numbers).values()
    assert looked.sentence == "2 usable files; 1 folder not entered: folder counted by itself"
    assert (
        looked.notes[0]
        == f"folder {tops[1]!r} is inside {tops[0]!r}: its files are counted once, as files of {tops[1]!r}"
    )
    assert looked.notes[1:] == [note_on_sample(2, 2, None)]
    batch = Sample(databases, numbers["nested"], "nested", tmp_path)
    batch.stage()
    assert batch.doc_eval("SELECT count(*) FROM batch_documents WHERE state = 'STAGED'") == [(2,)]


def test_a_rescan_says_why_files_are_gone_whose_folder_is_no_longer_entered(
    databases: Databases, batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=1)
    documents(batch.folder, "home/reports/r.html", "home/up.json", "homely/kept.txt", "notes.tmp", "gone.txt")
    with monkeypatch.context() as before:
        # As an earlier version staged it.
        before.setattr("doceval_pipeline.documents.walk.is_temporary_file", lambda name: False)
        batch.stage()
    os.unlink(batch.folder / "gone.txt")
    here = replace(databases, settings=replace(databases.settings, home=batch.folder / "home"))
    assert rescan_folders(here, batch.id).gone == 4
    store_documents(databases, batch.id, lambda *_: None)
    assert dict(
        batch.doc_eval(
            "SELECT d.filepath, coalesce(b.reason, b.state) FROM batch_documents b "
            "JOIN documents d ON d.id = b.document_id"
        )
    ) == {
        "000.txt": "STAGED",
        "gone.txt": "vanished",
        "home": "folder of doceval's own files",
        "home/reports/r.html": "folder of doceval's own files",
        "home/up.json": "folder of doceval's own files",
        "homely/kept.txt": "STAGED",
        "notes.tmp": "temporary",
    }


def test_the_assignment_of_a_staged_batch_stays_as_it_was_made(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=1)
    documents(batch.folder, "notes.tmp")
    with monkeypatch.context() as before:
        before.setattr("doceval_pipeline.documents.walk.is_temporary_file", lambda name: False)
        batch.stage()
    batch.stage()
    assert batch.doc_eval("SELECT state, count(*) FROM batch_documents GROUP BY 1") == [("STAGED", 2)]


def case_batch(databases: Databases, folder: Path) -> Sample:
    documents(folder, "a.pdf", *(f"{number}.PDF" for number in range(12)), "b.txt", "c.pdf.BAK")
    choice = {"include": ["*.pdf", "*.BAK"], "exclude": ["*.bak"]}
    located = evaluation_of([{"name": "cases", "folders": [str(folder)], **choice}])
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    (looked,) = preview(databases, numbers).values()
    assert [note.split(":")[0] for note in looked.notes[:-1]] == NOTES
    assert looked.notes[-1] == note_on_sample(2, 2, None)
    assert all(": add to " in note for note in looked.notes[:-1])
    assert looked.as_json() == {
        "usable": 2,
        "skipped": {"not included by pattern": 13},
        "rejected": {},
        "whole": True,
        "notes": looked.notes,
    }
    return Sample(databases, numbers["cases"], "cases", folder)


NOTES = [
    "12 files are left out by include because of upper and lower case, such as '0.PDF'",
    "1 file is not left out by exclude because of upper and lower case, such as 'c.pdf.BAK'",
]


def test_apply_plan_and_stage_report_files_that_patterns_miss_by_case(
    databases: Databases, tmp_path: Path
) -> None:
    batch = case_batch(databases, tmp_path / "cases")

    def planned() -> list[str]:
        return plan(databases, batch.id, Mode.missing, lambda *_: None, rescan=False).notes

    *notes, on_sample = planned()
    assert [note.split(":")[0] for note in notes] == NOTES
    assert on_sample.startswith("with 2 documents no difference between models will show")
    batch.stage()
    for notes in (planned(), folders.notes_on_assigned(databases, batch.id)):
        assert [note.split(":")[0] for note in notes] == NOTES
        # The patterns are sealed now.
        assert "create a batch with another name whose include has '*.PDF'" in notes[0]


def test_a_preview_ends_after_its_time_and_its_entries_and_says_so(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents(tmp_path / "many", *(f"{number}.txt" for number in range(20)))
    located = evaluation_of([{"name": name, "folders": [str(tmp_path / "many")]} for name in "ab"])
    numbers = apply_evaluation(databases.doc_eval, located).numbers

    def sentences() -> list[str]:
        return [looked.sentence for looked in preview(databases, numbers).values()]

    assert sentences() == ["20 usable files; no file left out"] * 2
    monkeypatch.setattr(applying, "MOST_ENTRIES", 25)
    more = "; no file left out; the rest was not counted, but staging reads all files"
    assert sentences() == ["20 usable files; no file left out", "5 usable files" + more]
    monkeypatch.setattr(applying, "MOST_SECONDS", -1.0)
    assert sentences() == ["0 usable files" + more] * 2


def test_a_preview_is_of_what_the_batch_has_and_not_of_what_the_file_says(
    databases: Databases, tmp_path: Path
) -> None:
    documents(tmp_path, "a.pdf", "b.txt")
    choice = {"name": "kept", "folders": [str(tmp_path)]}
    first, _ = apply(databases, evaluation_of([{**choice, "include": ["*.pdf"]}]))
    _, looked = apply(databases, evaluation_of([{**choice, "description": "new"}]))
    assert looked["kept"].sentence == "1 usable file; 1 file skipped: not included by pattern"
    Sample(databases, first.numbers["kept"], "kept", tmp_path).stage()
    _, looked = apply(databases, evaluation_of([{**choice, "priority": 50}]))
    assert looked == {}, "the files of a staged batch are frozen"


def test_a_mistake_about_a_folder_names_its_place_also_behind_one_that_cannot_be_read(home: Settings) -> None:
    located = evaluation_of([{"name": "b", "folders": [5, str(home.home)]}], why_not=folder_problems(home))
    with pytest.raises(EvaluationFileError, match=r"batches\[0\].folders\[1\]: folder .* own files"):
        located.refuse()


def test_counts_by_reason_are_one_sentence() -> None:
    tallies = [
        Tally("STAGED", "", 1, 9),
        Tally("SKIPPED", "empty", 2, 0),
        Tally("SKIPPED", "excluded by pattern", 3, 9),
        Tally("SKIPPED", "hidden", 7, 9),
        Tally("REJECTED", "too large", 1, 9),
    ]
    assert left_out(tallies) == (
        "12 files skipped: 7 hidden, 3 excluded by pattern, 2 empty; 1 rejected: too large"
    )
    assert left_out(tallies[-1:]) == "1 file rejected: too large"
    assert left_out(tallies[:1]) == left_out([]) == "no file left out"
    assert left_out_by_reason(tallies) == {
        "skipped": {"hidden": 7, "excluded by pattern": 3, "empty": 2},
        "rejected": {"too large": 1},
    }
    assert (staged(1, 1), staged(3, 2)) == ("1 document staged", "2 documents staged from 3 files")


def test_the_forms_of_a_path_are_told_as_they_are_on_the_disk(settings: Settings, tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Prüfung.txt")
    documents(tmp_path / "docs", name)
    assert found(tmp_path / "docs", settings=settings, include=["Prüfung.txt"]) == {(0, name): "ASSIGNED"}


def test_a_preview_in_which_no_file_matches_says_so(databases: Databases, tmp_path: Path) -> None:
    documents(tmp_path, "a.pdf", "b.txt")
    _, looked = apply(
        databases, evaluation_of([{"name": "none", "folders": [str(tmp_path)], "include": ["*.{pdf,txt}"]}])
    )
    assert looked["none"].usable == 0
    assert any(note.startswith("none of 2 files matches include") for note in looked["none"].notes)
