"""An evaluation file is read as a whole, and each mistake is told with file, line and key."""

from pathlib import Path

import pytest

from doceval_pipeline.doc_eval.evaluation_file import load_evaluation_file
from doceval_pipeline.errors import EvaluationFileError

GOOD = """\
connections:
  - {name: gpt, provider: openai, model: gpt-4o, api_key_env: OPENAI_API_KEY, config: {temperature: 0}}
prompts:
  - {name: clarity, text: "How clear?"}
batches:
  - name: q4
    folders: [./docs]
    connections: [gpt]
    prompts: [clarity]
    metadata: {owner: legal, since: 2026-01-01}
"""


def write(tmp_path: Path, content: str | bytes) -> Path:
    (tmp_path / "docs").mkdir(exist_ok=True)
    path = tmp_path / "evaluation.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems(tmp_path: Path, content: str | bytes) -> list[str]:
    with pytest.raises(EvaluationFileError) as caught:
        load_evaluation_file(write(tmp_path, content))
    return [line.removeprefix(str(tmp_path) + "/") for line in caught.value.problems]


def test_relative_folders_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    evaluation = load_evaluation_file(write(tmp_path, GOOD)).evaluation
    assert evaluation.batches[0].folders == [str(tmp_path / "docs")]


def test_a_date_in_metadata_stays_the_text_that_was_written(tmp_path: Path) -> None:
    evaluation = load_evaluation_file(write(tmp_path, GOOD)).evaluation
    assert evaluation.batches[0].metadata == {"owner": "legal", "since": "2026-01-01"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "name: q4",
            "nane: q4",
            "evaluation.yaml:6: batches[0].nane: is not a known key, those are name, description, folders, ",
        ),
        ("name: q4", "nane: q4", "evaluation.yaml:6: batches[0].name: is missing"),
        ("[./docs]", "[./none]", "evaluation.yaml:7: batches[0].folders[0]: folder './none' does not exist"),
        (
            "[./docs]",
            "[./evaluation.yaml]",
            "evaluation.yaml:7: batches[0].folders[0]: './evaluation.yaml' is not",
        ),
        (
            "[./docs]",
            "[./docs, docs]",
            "evaluation.yaml:7: batches[0].folders[1]: folder 'docs' is named twice",
        ),
        (
            "name: q4",
            "name: q4\n    stage_after: 2026-12-01T22:00",
            "evaluation.yaml:7: batches[0].stage_after: must say its time zone, such as 2026-12-01T22:00Z",
        ),
        (
            "name: q4",
            "name: q4\n    stage_after: tonight",
            "evaluation.yaml:7: batches[0].stage_after: must be a time such as 2026-12-01T22:00Z",
        ),
        (
            "model: gpt-4o",
            "model: gpt-4o, prices: {input_per_million: -1}",
            "connections[0].prices.input_per_million: input should be greater than or equal to 0",
        ),
        (
            "model: gpt-4o",
            "model: gpt-4o, prices: {currency: dollars}",
            "connections[0].prices.currency: string should match pattern",
        ),
        ("[./docs]", "[]", "evaluation.yaml:7: batches[0].folders: list should have at least 1 item"),
        ("name: q4", "name: 12", "evaluation.yaml:6: batches[0].name: input should be a valid string"),
        ("name: q4", 'name: "12"', "evaluation.yaml:6: batches[0].name: must not look like a batch number"),
        (
            "name: q4",
            'name: "a\\nb"',
            "evaluation.yaml:6: batches[0].name: character 2 is U+000A LINE FEED: it is not seen, remove it",
        ),
        (
            "prompts: [clarity]",
            "prompts: [clarity, clarity]",
            "evaluation.yaml:9: batches[0].prompts: names 'clarity'",
        ),
        (
            "owner: legal",
            "owner: .nan",
            "evaluation.yaml:10: batches[0].metadata: must hold only what JSON can",
        ),
        ("owner: legal", 'owner: "a\\0"', "evaluation.yaml:10: batches[0].metadata: holds a NUL"),
        (
            "api_key_env: OPENAI_API_KEY",
            "api_key_env: sk-hunter2",
            "evaluation.yaml:2: connections[0].api_key_env: must",
        ),
        (
            "temperature: 0",
            "api_key: hunter2",
            "evaluation.yaml:2: connections[0].config: 'api_key' looks like a cred",
        ),
        (
            "temperature: 0",
            "nested: [{h: 'Bearer hunter2'}]",
            "evaluation.yaml:2: connections[0].config: holds a value",
        ),
        (
            "model: gpt-4o",
            'model: m, base_url: "http://u:hunter2@h/"',
            "connections[0].base_url: holds a user name",
        ),
        (
            "model: gpt-4o",
            'model: m, base_url: "http://h/?api_key=hunter2"',
            "connections[0].base_url: 'api_key' looks",
        ),
        ("model: gpt-4o", "model: m, base_url: nowhere", "connections[0].base_url: must be a URL"),
        (
            "    metadata",
            '    include: ["!"]\n    metadata',
            "evaluation.yaml:10: batches[0].include: '!' is no pattern",
        ),
        (
            "    metadata",
            "    name: again\n    metadata",
            "evaluation.yaml:10: batches[0].name: stands twice",
        ),
        (
            '  - {name: clarity, text: "How clear?"}',
            '  - {name: c, text: ""}',
            "evaluation.yaml:4: prompts[0].text",
        ),
    ],
)
def test_each_mistake_names_file_line_and_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(expected in line for line in found), found
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("connections: [", "evaluation.yaml:1: is not valid YAML"),
        ("batches:\n  - {name: a\n", "is not valid YAML"),
        ("- 1\n", "evaluation.yaml:1: input should be"),
        (b"\xff\xfe\x00x", "is not UTF-8 text"),
        ("a: &a [*a]", "refers to itself"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: &a [" + "1," * 999 + "1]\nb: &b [" + "*a," * 999 + "*a]", "is too large"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    found = problems(tmp_path, content)
    assert any(expected in line for line in found), found
    assert all("\n" not in line for line in found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationFileError, match=r"none\.yaml: does not exist: check the path"):
        load_evaluation_file(tmp_path / "none.yaml")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("name: q4", "nane: q4").replace("model: gpt-4o", "model: 4"))
    assert len(found) == 3
