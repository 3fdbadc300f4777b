"""Pages equal their reviewed golden files; see `golden_pages`."""

import pytest

from doceval_pipeline_tests.reports.golden_pages import FOLDER, NAMES, body_of, file_of


@pytest.mark.parametrize("name", NAMES)
def test_a_page_equals_its_golden_file(name: str) -> None:
    assert body_of(name) == file_of(name).read_text(encoding="utf-8"), (
        "see golden_pages.py about a wanted change"
    )


def test_every_golden_file_is_compared() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(NAMES)
