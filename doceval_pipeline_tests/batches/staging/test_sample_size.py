"""The warning that a batch is too small to tell its models apart."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from doceval_pipeline.batches.staging import sample_size
from doceval_pipeline.batches.staging.sample_size import (
    POINTS_TO_SHOW,
    detectable_points,
    least_for_margin,
    note_on_sample,
)
from doceval_pipeline.domain.findings import Conclusion
from doceval_pipeline.statistics import inference
from doceval_pipeline.statistics.margins import conclude, margin_test


def test_the_example_of_the_documentation() -> None:
    assert note_on_sample(10, 2, None) == (
        "with 10 documents only differences between models above about 15 points will show; "
        "5 points take about 73 documents"
    )


@pytest.mark.parametrize(
    ("documents", "warns"), [(5, True), (30, True), (70, True), (80, False), (200, False)]
)
def test_a_batch_that_shows_five_points_is_not_warned_of(documents: int, warns: bool) -> None:
    assert (note_on_sample(documents, 2, None) is not None) is warns


def test_the_margin_of_the_batch_decides_if_there_is_one() -> None:
    assert note_on_sample(100, 3, 2.0) == (
        "with 100 documents no model can be shown to be no worse within the margin of 2 points: that takes "
        "at least 183, and more if scores differ"
    )
    assert note_on_sample(183, 3, 2.0) is None


@pytest.mark.parametrize(("documents", "connections"), [(5, 2), (6, 3), (8, 10)])
def test_no_difference_is_promised_that_the_test_cannot_find(documents: int, connections: int) -> None:
    note = note_on_sample(documents, connections, None)
    assert note is not None
    assert "no difference between models will show" in note


def test_one_model_or_no_document_needs_no_warning() -> None:
    assert note_on_sample(3, 1, None) is None
    assert note_on_sample(0, 2, None) is None


def test_one_document_shows_nothing() -> None:
    note = note_on_sample(1, 2, None)
    assert note is not None
    assert note.startswith("with 1 document no difference between models will show; ")


def test_the_quick_figure_is_that_of_the_statistics() -> None:
    assert sample_size.TYPICAL_SPREAD == inference.TYPICAL_SPREAD
    for documents in [*range(1, 200), 500, 10_000, 1_000_000]:
        exact = inference.detectable_difference(documents, inference.TYPICAL_SPREAD)
        quick = detectable_points(documents)
        assert (exact is None) is (quick is None), documents
        if exact is not None:
            assert quick == pytest.approx(exact, rel=0.04 if documents < 5 else 0.01), documents


def test_an_apply_loads_no_scipy() -> None:
    program = (
        "import sys; from doceval_pipeline.batches.staging.sample_size import note_on_sample; "
        "note_on_sample(5, 2, 3); print({'numpy', 'scipy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@given(documents=st.integers(1, 100_000))
@examples(deadline=None, derandomize=True, database=None)
def test_it_warns_exactly_where_a_wanted_difference_does_not_show(documents: int) -> None:
    smallest = detectable_points(documents)
    note = note_on_sample(documents, 2, None)
    assert (note is None) is (smallest is not None and smallest <= POINTS_TO_SHOW)
    needed = re.search(r"take about ([\d,]+) documents", note or "")
    if needed:
        enough = int(needed[1].replace(",", ""))
        shown = detectable_points(enough)
        assert shown is not None
        assert shown <= POINTS_TO_SHOW * 1.06, "two digits of the number are shown"


@pytest.mark.parametrize("margin", [1.0, 3.0, 5.0, 20.0])
@pytest.mark.parametrize("candidates", [1, 3])
def test_equal_scores_on_the_least_documents_for_a_margin_show_no_worse(
    margin: float, candidates: int
) -> None:
    least = least_for_margin(candidates, margin)
    for documents, shown in ((least, Conclusion.NO_WORSE), (least - 1, Conclusion.UNKNOWN)):
        equal = margin_test([50.0] * documents, [50.0] * documents, margin)
        assert {test.conclusion for test in conclude([equal] * candidates)} == {shown}
