"""A name in two Unicode forms is one name; a path that exists in the other form is suggested."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
import yaml

from doceval_pipeline.doc_eval.definitions.evaluation_file import load_evaluation_file
from doceval_pipeline.errors import EvaluationFileError
from doceval_pipeline.similar_paths import similar_path, spelled_out

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Prüfung") for form in ("NFC", "NFD"))  # type: ignore[arg-type]


def evaluation(folder: Path, named: str) -> Path:
    content = {
        "connections": [{"name": "c", "provider": "p", "model": "m"}],
        "prompts": [{"name": "q", "text": "?"}],
        "batches": [{"name": "b", "folders": [named], "connections": ["c"], "prompts": ["q"]}],
    }
    file = folder / "evaluation.yaml"
    file.write_text(json.dumps(content, ensure_ascii=False))
    return file


@pytest.mark.parametrize(("typed", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_folder_that_exists_in_the_other_unicode_form_is_named_in_the_refusal(
    tmp_path: Path, typed: str, on_disk: str
) -> None:
    (tmp_path / on_disk / "sub").mkdir(parents=True)
    with pytest.raises(EvaluationFileError) as refused:
        load_evaluation_file(evaluation(tmp_path, f"./{typed}/sub")).refuse()
    (line,) = refused.value.problems
    assert "another Unicode form" in line
    written = line.rsplit(", write ", 1)[-1]
    assert written.isascii()
    # What is suggested can be pasted into the file.
    (resolved,) = (
        load_evaluation_file(evaluation(tmp_path, yaml.safe_load(written))).evaluation.batches[0].folders
    )
    assert os.path.samefile(resolved, tmp_path / on_disk / "sub")


def test_a_folder_in_another_letter_case_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "Contracts").mkdir()
    with pytest.raises(EvaluationFileError, match=r"in another letter case exists, write .*Contracts"):
        load_evaluation_file(evaluation(tmp_path, "./contracts")).refuse()


def test_a_folder_that_exists_in_no_form_is_to_be_created(tmp_path: Path) -> None:
    with pytest.raises(EvaluationFileError, match=r"does not exist .*: create it or fix the path"):
        load_evaluation_file(evaluation(tmp_path, f"./{COMPOSED}")).refuse()


def test_of_two_similar_folders_none_is_suggested(tmp_path: Path) -> None:
    for name in ("Contracts", "CONTRACTS"):
        (tmp_path / name).mkdir()
    assert similar_path(str(tmp_path / "contracts")) is None


@pytest.mark.parametrize("name", ["Prüfung", 'a "b"\\c', "tab\there", "👪", "‮x"])
def test_a_name_that_is_spelled_out_is_read_back_by_yaml(name: str) -> None:
    assert yaml.safe_load(spelled_out(name)) == name
