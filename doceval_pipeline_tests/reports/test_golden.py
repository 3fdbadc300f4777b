"""Pages stay as they were looked at, until somebody looks again; see `golden_pages`."""

import pytest

from doceval_pipeline_tests.reports.golden_pages import FOLDER, NAMES, file_of, kept


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_as_it_was_looked_at(name: str) -> None:
    assert kept(name) == file_of(name).read_text(encoding="utf-8"), (
        "see golden_pages.py about a wanted change"
    )


def test_every_page_that_is_kept_is_looked_at() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(NAMES)
