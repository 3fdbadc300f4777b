"""The input of a report: the statements of the databases count as the reference model does."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.batches.results import report_input
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.evaluations import WORDS, Outcome
from doceval_pipeline.knowledge import failures
from doceval_pipeline.redaction import without_keys
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.reports import reference_model, sample_reports
from doceval_pipeline_tests.reports.reference_model import File, Row

LIMITS = {
    "CHANGES_SHOWN": 2,
    "GROUPS_SHOWN": 2,
    "NAMES_SHOWN": 2,
    "DETAILS_SHOWN": 4,
    "DETAILS_BYTES": 3_000,
}
OUTCOME_OF = {word: str(outcome) for outcome, words in WORDS.items() for word in words}
OUTCOME_OF |= {"ODD": str(Outcome.UNKNOWN), "HALF_DONE": str(Outcome.UNKNOWN)}
MESSAGES = (None, "", " \n", "overloaded", "\toverloaded\r\n", "Bad base64", "x" * 2_001, "é\U0001f600")
MESSAGES += (
    "HTTP 429: request a1-b2",
    "HTTP 429: request 7",
    "HTTP 500: request 7",
    "no 'a b.pdf' after 2 s",
)
MESSAGES += ("no 'c' after 30 ms", '{"error": "no \'c\'"}', "x" * 2_002)
PRICES = {
    1: Prices(input_per_million=2_000.0, output_per_million=0, currency="EUR"),
    2: Prices(input_per_million=1.5, output_per_million=7.25),
}
# Documents with odd numbers.
STORED_BEFORE = (1, 3, 5)
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)
NEVER = datetime(9_999, 1, 1, tzinfo=UTC)
FOLDERS = ("/a", "/b/")

_PLANT_DOCUMENTS = text("""
    INSERT INTO docs (id, document_id, sha256, content_type, doc_type, file_size, content, created_at)
    SELECT n, 'sha256:' || lpad(to_hex(n), 64, '0'), lpad(to_hex(n), 64, '0'), 'text/plain', 'txt', size,
           CASE size WHEN 2 THEN 'YWI=' WHEN 3 THEN 'YWJj' ELSE '' END,
           CASE n % 2 WHEN 1 THEN '2000-01-01' ELSE now() END
    FROM unnest(CAST(:sizes AS bigint[])) WITH ORDINALITY AS sizes(size, n)
""")
_PLANT_ROW = text("""
    INSERT INTO llm_responses (batch_id, document_id, connection_id, prompt_id, attempt, status,
                               connection_details, overall_score, error_message, response_text, input_tokens,
                               output_tokens, time_taken_seconds, task_id, superseded_at, created_at,
                               completed_processing_at, "timestamp")
    VALUES (:batch_id, :document_id, :connection_id, :prompt_id, :attempt, :status, '{}', :score, :error,
            :response_text, :input_tokens, :output_tokens, :seconds,
            CASE WHEN :simulated THEN 'simulated-1' END, CASE WHEN :superseded THEN now() END, :queued_at,
            CASE WHEN NOT :simulated THEN CAST(:finished_at AS timestamptz) END,
            CASE WHEN :simulated THEN CAST(:finished_at AS timestamptz) END)
""")
_PLANT_FILE = text("""
    WITH document AS (
        INSERT INTO documents (folder_id, raw_path, filepath, filename)
        SELECT id, convert_to(:name, 'UTF8'), :name, :name FROM folders
        WHERE folder_path = :folder RETURNING id)
    INSERT INTO batch_documents (batch_id, document_id, state, reason, file_size, knowledge_document_id,
                                 sha256)
    SELECT :batch_id, id, :state, :reason, :size, :document_id,
           CASE WHEN :state = 'STAGED' THEN lpad(to_hex(CAST(:document_id AS bigint)), 64, '0') END
    FROM document
""")

_PRICE = """
    INSERT INTO connections (id, name, provider_id, model_id, prices)
    SELECT :connection, 'priced ' || :connection, m.provider_id, m.id, CAST(:prices AS jsonb)
    FROM models m LIMIT 1
    ON CONFLICT (id) DO UPDATE SET prices = EXCLUDED.prices
"""


@dataclasses.dataclass(frozen=True)
class Holdings:
    """Files of a batch in their order, sizes of stored documents by number, and all attempts."""

    files: list[File]
    sizes: list[int]
    rows: list[Row]


@st.composite
def holdings(draw: st.DrawFn) -> Holdings:
    sizes = draw(st.lists(st.sampled_from([0, 2, 3]), min_size=1, max_size=5))
    files = draw(st.lists(_files(sizes), max_size=8, unique_by=lambda file: (file.folder, file.name)))
    keys = draw(
        st.lists(
            st.tuples(st.integers(1, len(sizes)), st.integers(1, 3), st.integers(1, 2)),
            max_size=12,
            unique=True,
        )
    )
    rows = [row for key in keys for row in draw(_attempts(key))]
    return Holdings(sorted(files, key=lambda file: (file.folder, file.name)), sizes, rows)


def _files(sizes: list[int]) -> st.SearchStrategy[File]:
    def file(name: str, folder: str, state: str, reason: str | None, number: int) -> File:
        staged, left_out = state == "STAGED", state in ("SKIPPED", "REJECTED")
        size = sizes[number - 1] if staged else None
        return File(name, folder, state, reason if left_out else None, size, number if staged else None)

    return st.builds(
        file,
        st.sampled_from("abcdefgh"),
        st.sampled_from(FOLDERS),
        st.sampled_from(["STAGED", "STAGED", "ASSIGNED", "SKIPPED", "REJECTED"]),
        st.sampled_from(["hidden", "empty"]),
        st.integers(1, len(sizes)),
    )


_FINISHED_AT = st.none() | st.sampled_from([BEGAN - timedelta(days=2), NEVER])
_FINISHED_AT |= st.builds(
    lambda seconds: BEGAN + timedelta(seconds=seconds),
    st.sampled_from([0.0, 1.25, 2.0, 3.5, 5.0, 400.0]) | st.integers(0, 5_000),
)


@st.composite
def _attempts(draw: st.DrawFn, key: tuple[int, int, int]) -> list[Row]:
    made = []
    for attempt in range(1, draw(st.sampled_from([1, 1, 2, 3])) + 1):
        status = draw(st.sampled_from([*OUTCOME_OF, "S", "F"]))
        made.append(
            Row(
                *key,
                attempt,
                OUTCOME_OF[status],
                status,
                draw(st.none() | st.sampled_from([0.0, 9.9999, 10.0, 99.5, 100.0]) | st.floats(0, 100)),
                draw(st.sampled_from(MESSAGES)),
                draw(st.sampled_from([None, "fine", "y" * 2_001, "<é>" * 600])),
                draw(st.none() | st.integers(0, 10**6)),
                draw(st.none() | st.integers(0, 10**6)),
                draw(st.none() | st.sampled_from([0.25, -1.0, 1e10, 1e-300])),
                draw(st.booleans()),
                draw(_FINISHED_AT),
                BEGAN + timedelta(seconds=draw(st.sampled_from([0.0, 0.0, 0.5, 3_000.0]))),
            )
        )
    return made


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits, so that every list is cut."""
    for module in (report_input, reference_model):
        for name, limit in LIMITS.items():
            monkeypatch.setattr(module, name, limit, raising=module is report_input)
        monkeypatch.setattr(module, "rows_shown", lambda _: 3)
    for module in (failures, reference_model):
        monkeypatch.setattr(module, "KNOWN_PROCESSOR_LIMIT_BYTES", 2)


def hold(batch: Sample, held: Holdings) -> None:
    """Make both databases hold exactly this, past guards and triggers."""
    highest = {row.key: row.attempt for row in reference_model.current(held.rows)}
    batch.plant("DELETE FROM llm_responses")
    batch.plant("DELETE FROM docs")
    with batch.databases.knowledge.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(_PLANT_DOCUMENTS, {"sizes": held.sizes})
        for row in held.rows:
            values = dataclasses.asdict(row) | {"superseded": row.attempt < highest[row.key]}
            connection.execute(_PLANT_ROW, values | {"batch_id": batch.id})
    batch.doc_eval("DELETE FROM batch_documents")
    batch.doc_eval("DELETE FROM documents")
    with batch.databases.doc_eval.begin() as connection:
        for file in held.files:
            connection.execute(_PLANT_FILE, dataclasses.asdict(file) | {"batch_id": batch.id})


def expected(batch: Sample, held: Holdings, gathered: ReportInput) -> ReportInput:
    """The input by the reference model, with the fields that it does not compute taken from `gathered`."""
    unchanged = ("partition_key", "batch_id", "name", "status", "description", "created_at", "started_at")
    unchanged += ("completed_at", "expected_cells", "config", "config_sha256", "digest", "versions")
    same: dict[str, Any] = {name: getattr(gathered, name) for name in unchanged}
    sizes = dict(enumerate(held.sizes, 1))
    failures = reference_model.failures(reference_model.current(held.rows), sizes)[: LIMITS["GROUPS_SHOWN"]]
    found = reference_model.insights(held.files, gathered.columns, held.rows, PRICES, STORED_BEFORE)
    changes = same | {"failures": failures, "insights": found}
    return sample_reports.report_input(held.files, gathered.columns, held.rows, **changes)


def comparable(data: ReportInput) -> dict[str, Any]:
    """A report's input as plain values, with sets for what has no order and floats that are near."""
    values = dataclasses.asdict(data)
    del values["labels"]
    values["shown labels"] = shown_labels(data)
    values["cells"] = sorted(values["cells"], key=lambda c: (c.document_id, c.connection_id, c.prompt_id))
    values["files"] = {state: count for state, count in values["files"].items() if count}
    for sums in (values["total"], *values["column_sums"].values()):
        if sums["scores"]:
            for name in ("mean", "median"):
                sums["scores"][name] = pytest.approx(sums["scores"][name])
    values["insights"] = near(values["insights"])
    return values


def shown_labels(data: ReportInput) -> dict[str, Any]:
    """The folders, and every label that the page prints."""
    labels = data.labels
    return {
        "folders": list(labels.folders),
        "rows": [
            (labels.of_file(file.name), labels.twin(file)) for file in data.rows if file.name is not None
        ],
        "documents": [
            *(labels.of_document(f.document_id) for f in data.rows if f.document_id is not None),
            *(labels.of_document(change.document_id) for change in data.changes),
            *(name for group in data.failures for name in labels.of_documents(group.document_ids)),
        ],
        "files left out": [labels.of_files(group.names) for group in data.not_evaluated],
    }


def near(value: Any) -> Any:
    """A value with approximate floats, and lists for tuples."""
    match value:
        case float():
            return pytest.approx(value)
        case dict():
            return {key: near(item) for key, item in value.items()}
        case list() | tuple():
            return [near(item) for item in value]
    return value


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(held=holdings())
def test_the_input_equals_that_of_the_reference_model(
    batch_of: Callable[..., Sample], small_pages: None, held: Holdings, request: pytest.FixtureRequest
) -> None:
    batch = _sealed(batch_of, request)
    hold(batch, held)
    gathered = gather(batch.databases, batch.id)
    assert comparable(gathered) == comparable(expected(batch, held, gathered))


def _sealed(batch_of: Callable[..., Sample], request: pytest.FixtureRequest) -> Sample:
    """One sealed batch with two columns, made by the first example."""
    made: Sample | None = getattr(request.node, "batch", None)
    if made is None:
        made = batch_of(documents=1, connections=2, prompts=1)
        made.stage()
        made.doc_eval(
            "UPDATE folders SET folder_path = '/a'; "
            "INSERT INTO folders (folder_path, folder_name) VALUES ('/b/', 'b')"
        )
        for connection, prices in PRICES.items():
            made.doc_eval(_PRICE, connection=connection, prices=prices.model_dump_json())
        request.node.batch = made
    return made


@pytest.mark.parametrize("before", range(1_940, 2_010, 7))
def test_a_password_on_the_border_of_what_is_shown_is_hidden_as_a_whole(
    batch_of: Callable[..., Sample], before: int
) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    said = "x" * before + " https://admin:Sup3rS3cretPassw0rd@db.example/ and so on"
    batch.plant("UPDATE llm_responses SET status = 'S', response_text = :said", said=said)
    (cell,) = gather(batch.databases, batch.id).cells
    assert cell.details is not None
    assert cell.details.response is not None
    assert "Sup3r" not in cell.details.response
    whole = without_keys(said)
    assert (cell.details.response, cell.details.response_characters) == (whole[:2_000], len(whole))
