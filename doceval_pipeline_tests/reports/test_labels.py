"""Labels that people read: of files in several folders, and the word for a connection."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.files import FileLabels, FileName
from doceval_pipeline.reports.labels import CONNECTION_WORDS, MODEL_WORDS, Words, connection_words

PARTS = st.lists(st.sampled_from(["a", "b", "srv", "x y"]), min_size=1, max_size=4)
FOLDERS = st.lists(PARTS.map(lambda parts: "/" + "/".join(parts)), min_size=2, max_size=6, unique=True)


def test_a_batch_of_one_folder_names_no_folder() -> None:
    assert FileLabels(("/srv/data",), {}).of_file(FileName("/srv/data", "a/b.pdf")) == "a/b.pdf"


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("/srv/legal", "/srv/sales"), ["legal", "sales"]),
        (("/srv/legal/2026", "/srv/sales/2026"), ["legal/2026", "sales/2026"]),
        (("/2026", "/srv/2026/"), ["2026", "srv/2026"]),
        (("s3://bucket/q1", "gs://bucket/q1"), ["s3:/bucket/q1", "gs:/bucket/q1"]),
    ],
)
def test_folders_are_named_by_the_shortest_end_that_tells_them_apart(
    folders: tuple[str, ...], labels: list[str]
) -> None:
    known = FileLabels(folders, {})
    assert [known.of_folder(folder) for folder in folders] == labels
    assert known.of_file(FileName(folders[0], "x.pdf")) == f"{labels[0]}/x.pdf"


@given(folders=FOLDERS)
def test_no_two_folders_have_the_same_label_and_none_could_be_shorter(folders: list[str]) -> None:
    known = FileLabels(tuple(folders), {})
    labels = {folder: known.of_folder(folder) for folder in folders}
    assert len({*labels.values()}) == len(folders)
    for folder, label in labels.items():
        assert f"/{folder}".endswith(f"/{label}")
        shorter = label.partition("/")[2]
        assert not shorter or sum(other.endswith(f"/{shorter}") for other in folders) > 1


def test_a_folder_that_the_batch_no_longer_has_is_named_by_its_last_part() -> None:
    assert FileLabels(("/srv/a", "/srv/b"), {}).of_folder("/srv/gone") == "gone"


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["one"], MODEL_WORDS),
        (["one", "two"], MODEL_WORDS),
        (["one", "two", "one"], CONNECTION_WORDS),
        (["one", ""], CONNECTION_WORDS),
        (["one", None], CONNECTION_WORDS),
        ([], CONNECTION_WORDS),
    ],
)
def test_a_connection_is_called_a_model_where_each_model_has_one(models: list[Any], words: Words) -> None:
    assert connection_words({"connections": [{"model_name": model} for model in models]}) == words


@pytest.mark.parametrize("config", [{}, {"connections": None}, {"connections": "x"}, {"connections": ["x"]}])
def test_a_configuration_of_an_unknown_shape_has_connections(config: dict[str, Any]) -> None:
    assert connection_words(config) == CONNECTION_WORDS
