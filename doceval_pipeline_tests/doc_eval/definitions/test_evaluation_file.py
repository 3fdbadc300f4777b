"""Reading an evaluation file: every mistake is reported with file, line and key."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, load_evaluation_file, locate
from doceval_pipeline.doc_eval.definitions.schema import BatchDefinition, PromptDefinition
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
        load_evaluation_file(write(tmp_path, content)).refuse()
    return [line.removeprefix(str(tmp_path) + "/") for line in caught.value.problems]


def test_a_backslash_before_u0000_is_text_and_no_nul(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    path = tmp_path / "evaluation.yaml"
    path.write_text(GOOD.replace("owner: legal", r"owner: 'a\u0000b'"))
    located = load_evaluation_file(path)
    located.refuse()
    assert located.evaluation.batches[0].metadata["owner"] == r"a\u0000b"


def test_a_name_with_joiners_is_shown_as_it_is_in_a_mistake(tmp_path: Path) -> None:
    name = "می\u200cخواهم"
    assert name in problems(tmp_path, GOOD.replace("name: q4", f"name: {name}\n    {name}: 1"))[0]


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
            "evaluation.yaml:6: batches[0].nane: is not a known key: did you mean name?",
        ),
        ("name: q4", "priority: 1", "evaluation.yaml:6: batches[0].name: is missing: add it"),
        ("[./docs]", "[./none]", "evaluation.yaml:7: batches[0].folders[0]: folder './none' does not exist"),
        (
            "[./docs]",
            "[./evaluation.yaml]",
            "evaluation.yaml:7: batches[0].folders[0]: './evaluation.yaml' is not",
        ),
        (
            "[./docs]",
            "[./docs, docs]",
            "evaluation.yaml:7: batches[0].folders[1]: folder 'docs' is listed twice",
        ),
        (
            "name: q4",
            "name: q4\n    stage_after: 2026-12-01T22:00",
            "evaluation.yaml:7: batches[0].stage_after: has no time zone: write it as 2026-12-01T22:00Z",
        ),
        (
            "name: q4",
            "name: q4\n    stage_after: tonight",
            "evaluation.yaml:7: batches[0].stage_after: must be a time such as 2026-12-01T22:00Z",
        ),
        (
            "model: gpt-4o",
            "model: gpt-4o, prices: {input_per_million: -1}",
            "connections[0].prices.input_per_million: must be 0 or more",
        ),
        (
            "model: gpt-4o",
            "model: gpt-4o, prices: {currency: dollars}",
            "connections[0].prices.currency: must be three capital letters, such as USD",
        ),
        *(
            ("name: q4", f"name: q4\n    margin: {given}", f"evaluation.yaml:7: batches[0].margin: {problem}")
            for given, problem in (
                ("0", "must be more than 0"),
                ("-3", "must be more than 0"),
                ("100.5", "must be 100 or less"),
                ("1" + "0" * 400, "must be "),
                ("true", "must be a number"),
                ('"3"', "must be a number"),
                ("3 points", "must be a number"),
                ("[3]", "must be a number"),
                (".nan", "is infinite or not a number"),
                (".inf", "is infinite or not a number"),
            )
        ),
        *(
            (
                '"How clear?"',
                f'"How clear?", {key}: {given}',
                f"evaluation.yaml:4: prompts[0].{key}: {problem}",
            )
            for key, given, problem in (
                ("threshold", "-0.5", "must be 0 or more"),
                ("threshold", "101", "must be 100 or less"),
                ("threshold", "yes", "must be a number"),
                ("threshold", "false", "must be a number"),
                ("threshold", "-.inf", "is infinite or not a number"),
                ("treshold", "60", "is not a known key: did you mean threshold?"),
                ("weight", "0", "must be more than 0"),
                ("weight", "-1", "must be more than 0"),
                ("weight", "1000001", "must be 1,000,000 or less"),
                ("weight", "true", "must be a number"),
                ("weight", ".nan", "is infinite or not a number"),
                ("margin", "3", "is not a key of a prompt: move it to a batch or a recurring evaluation"),
            )
        ),
        ("[./docs]", "[]", "evaluation.yaml:7: batches[0].folders: is empty: add at least one item"),
        ("name: q4", "name: 12", "evaluation.yaml:6: batches[0].name: must be text: put it in quotes"),
        ("name: q4", 'name: "12"', "evaluation.yaml:6: batches[0].name: looks like a batch number"),
        (
            "name: q4",
            'name: "a\\nb"',
            "evaluation.yaml:6: batches[0].name: character 2 is U+000A LINE FEED: it is invisible, remove it",
        ),
        (
            "prompts: [clarity]",
            "prompts: [clarity, clarity]",
            "evaluation.yaml:9: batches[0].prompts: contains 'clarity'",
        ),
        (
            "owner: legal",
            "owner: .nan",
            "evaluation.yaml:10: batches[0].metadata.owner: is infinite or not a number",
        ),
        ("owner: legal", 'owner: "a\\0"', "evaluation.yaml:10: batches[0].metadata: contains a NUL"),
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
            "evaluation.yaml:2: connections[0].config: contains a value",
        ),
        (
            "model: gpt-4o",
            'model: m, base_url: "http://u:hunter2@h/"',
            "connections[0].base_url: contains a user name",
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
            "evaluation.yaml:10: batches[0].include: '!' is not a valid .gitignore pattern",
        ),
        (
            "    metadata",
            "    name: again\n    metadata",
            "evaluation.yaml:6: batches[0].name: appears again in line 10: keep one of them",
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
        (
            "- 1\n",
            "evaluation.yaml:1: must be a mapping with the keys connections, prompts, batches and recurring",
        ),
        (b"\xff\xfe\x00x", "is UTF-16 or UTF-32 text: save it as UTF-8"),
        ("a: &a [*a]", "refers to itself"),
        (
            "a: !!python/object:os.system {}",
            "has the tag tag:yaml.org,2002:python/object:os.system, which is not supported",
        ),
        ("a: &a [" + "1," * 999 + "1]\nb: &b [" + "*a," * 999 + "*a]", "contains more than 50,000 values"),
    ],
)
def test_a_file_that_is_not_an_evaluation_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    found = problems(tmp_path, content)
    assert any(expected in line for line in found), found
    assert all("\n" not in line for line in found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationFileError, match=r"none\.yaml: does not exist: check the path"):
        load_evaluation_file(tmp_path / "none.yaml")


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("name: q4", "nane: q4").replace("model: gpt-4o", "model: 4"))
    assert len(found) == 2


def test_a_file_has_the_same_folders_by_every_path_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path.resolve() / "shared" / "evaluations"
    real.mkdir(parents=True)
    for folder in (real.parent, tmp_path):
        (folder / "docs").mkdir()
    (real / "e.yaml").write_text(GOOD.replace("[./docs]", "[../docs]"))
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "e.yaml").symlink_to("link/e.yaml")
    (tmp_path / "other").mkdir()
    expected = [str(real.parent / "docs")]
    for folder in (tmp_path, tmp_path / "other", real, Path("/")):
        monkeypatch.chdir(folder)
        for spelling in (real / "e.yaml", tmp_path / "link" / "e.yaml", tmp_path / "e.yaml"):
            for path in (spelling, Path(os.path.relpath(spelling))):
                located = load_evaluation_file(path)
                located.refuse()
                assert located.evaluation.batches[0].folders == expected


def test_a_folder_whose_name_begins_with_a_tilde_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "~root"
    folder.mkdir()
    write(folder, GOOD.replace("[./docs]", "[./~data]"))
    (folder / "~data").mkdir()
    monkeypatch.chdir(tmp_path)
    located = load_evaluation_file(Path("./~root/evaluation.yaml"))
    located.refuse()
    assert located.evaluation.batches[0].folders == [str(folder.resolve() / "~data")]


@pytest.mark.parametrize(
    "other", ["./docs", "docs/", "docs//.", "link", "link/../docs", "{0}/docs", "//{0}/docs"]
)
def test_two_spellings_of_a_folder_are_one_folder(tmp_path: Path, other: str) -> None:
    (tmp_path / "link").symlink_to("docs")
    (line,) = problems(tmp_path, GOOD.replace("[./docs]", f"[docs, '{other.format(tmp_path)}']"))
    assert "evaluation.yaml:7: batches[0].folders[1]" in line
    assert "is listed twice, also as 'docs': remove one" in line


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("loop/x", "is a loop of links: fix the links"),
        ("dangling", "does not exist"),
        ("nowhere/../docs", "does not exist"),
        ("evaluation.yaml/..", "does not exist"),
        ("~nobody-of-this-name", "no home folder is known for '~nobody-of-this-name'"),
        ("d" * 300, "cannot be read (File name too long)"),
        ("fifo", "is not a folder"),
    ],
)
def test_an_unreachable_folder_is_reported_with_the_reason(
    tmp_path: Path, folder: str, expected: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone")
    os.mkfifo(tmp_path / "fifo")
    (line,) = problems(tmp_path, GOOD.replace("./docs", folder))
    assert line.startswith("evaluation.yaml:7: batches[0].folders[0]: ")
    assert expected in line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fifo", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
        ("-", "is not a regular file"),
        ("loop", "is a loop of links"),
        ("dangling", "is a broken link"),
        (".", "is a folder: give the path of a file"),
        ("none.yaml/x", "does not exist: check the path"),
    ],
)
def test_an_unreadable_file_is_reported_with_the_reason(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(EvaluationFileError, match=re.escape(expected)):
        load_evaluation_file(Path(name) if name == "-" else tmp_path / name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD.encode("utf-16"), "evaluation.yaml: is UTF-16 or UTF-32 text: save it as UTF-8"),
        (GOOD.encode("utf-16-be"), "evaluation.yaml: is UTF-16 or UTF-32 text: save it as UTF-8"),
        (GOOD.replace("clear", "klär").encode("latin-1"), "evaluation.yaml:4: is not UTF-8 text"),
        (b"#" * (5 << 20), "evaluation.yaml: is larger than 4 MiB"),
    ],
)
def test_bytes_that_are_not_an_evaluation_are_reported_in_one_line(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (line,) = problems(tmp_path, content)
    assert line.startswith(expected)


def test_a_byte_order_mark_is_not_a_mistake(tmp_path: Path) -> None:
    load_evaluation_file(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())).refuse()


def test_free_fields_are_read_by_yaml_1_2_and_json_alike(tmp_path: Path) -> None:
    settings = "{stop: [No, Yes], temperature: 1e-1, at: 22:30, logit_bias: {50256: -100, true: 1}}"
    expected = {
        "stop": ["No", "Yes"],
        "temperature": 0.1,
        "at": "22:30",
        "logit_bias": {"50256": -100, "true": 1},
    }
    for content in (settings, json.dumps(expected)):
        text = GOOD.replace("{temperature: 0}", content).replace("{owner: legal, since: 2026-01-01}", content)
        located = load_evaluation_file(write(tmp_path, text))
        located.refuse()
        assert located.evaluation.connections[0].config == expected
        assert located.evaluation.batches[0].metadata == expected


def test_a_json_file_with_escaped_emoji_and_tabs_is_read_in_every_field(tmp_path: Path) -> None:
    emoji = "😀"
    content = {
        "connections": [{"name": emoji, "provider": emoji, "model": emoji, "config": {emoji: [emoji]}}],
        "prompts": [{"name": emoji, "text": f"How\u2028clear\x85?\x7f {emoji}"}],
        "batches": [
            {
                "name": emoji,
                "description": emoji,
                "folders": [emoji],
                "connections": [emoji],
                "prompts": [emoji],
                "metadata": {emoji: emoji},
                "include": [emoji],
            }
        ],
    }
    (tmp_path / emoji).mkdir()
    for escaped in (True, False):
        text = json.dumps(content, ensure_ascii=escaped, indent="\t")
        located = load_evaluation_file(write(tmp_path, text))
        located.refuse()
        read = located.evaluation.model_dump(exclude_defaults=True)
        assert read == {
            **content,
            "batches": [{**content["batches"][0], "folders": [str(tmp_path.resolve() / emoji)]}],
        }


def test_every_mistake_is_reported_at_once_sorted_by_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
connections:
  - {name: gpt, provider: openai, model: 4, temperature: 0}
  - {name: gpt, provider: openai, model: m, api_key_env: openai_key}
prompts:
  - {name: clarity, txt: x}
batches:
  - name: q4
    folder: [./gone]
    folders: [./gone, ./docs, docs]
    connections: gpt
    prompts: [clarity]
    metadata: {a: !!binary aa, b: .nan}
    priority: 1000
  - {name: q5, folders: [./gone], connections: [gpt], prompts: [clarity]}
""",
    )
    assert [line.partition(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "evaluation.yaml:2 connections[0].model",
        "evaluation.yaml:2 connections[0].temperature",
        "evaluation.yaml:3 connections[1].name",
        "evaluation.yaml:3 connections[1].api_key_env",
        "evaluation.yaml:5 prompts[0].txt",
        "evaluation.yaml:8 batches[0].folder",
        "evaluation.yaml:9 batches[0].folders[0]",
        "evaluation.yaml:9 batches[0].folders[2]",
        "evaluation.yaml:10 batches[0].connections",
        "evaluation.yaml:12 batches[0].metadata.a",
        "evaluation.yaml:12 batches[0].metadata.b",
        "evaluation.yaml:13 batches[0].priority",
        "evaluation.yaml:14 batches[1].folders[0]",
    ]
    assert "put the model's settings under config (config: {temperature: …})" in found[1]
    assert "must be in capitals" in found[3]
    assert "did you mean text?" in found[4]
    assert "did you mean folders?" in found[5]


def test_a_mistake_that_aliases_repeat_is_reported_once(tmp_path: Path) -> None:
    repeated = ", ".join(["&a {name: 1, provider: p, model: m}", *["*a"] * 36])
    assert problems(tmp_path, f"connections: [{repeated}]") == [
        "evaluation.yaml:1: connections[0].name: must be text: put it in quotes"
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("batches:", "batch:", "evaluation.yaml:5: batch: is not a known key: did you mean batches?"),
        (
            "model: gpt-4o",
            "model: m, url: x",
            "connections[0].url: is not a known key: did you mean base_url?",
        ),
        (
            "model: gpt-4o",
            "model: m, top_p: 1",
            "put the model's settings under config (config: {top_p: …})",
        ),
        (
            "model: gpt-4o",
            "model: m, prices: {input: 1}",
            "prices.input: is not a known key: did you mean input_per_million?",
        ),
        (
            "name: q4",
            "name: q4\n    config: {}",
            "batches[0].config: is not a key of a batch: move it to a connection",
        ),
        ("name: clarity", "name: clarity, colour: 1", "the keys of a prompt are name, text"),
    ],
)
def test_an_unknown_key_is_reported_with_a_suggestion(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    (line,) = problems(tmp_path, GOOD.replace(old, new, 1))
    assert expected in line


def test_a_mistake_is_one_bounded_line_whatever_a_key_contains(tmp_path: Path) -> None:
    long = "x" * 5000
    content = {"a\nb\u2028c\x85": 1, "prompts": [{"name": long, "text": "x"}] * 2, long[:900]: 1}
    found = problems(tmp_path, json.dumps(content))
    assert len(found) == 5
    assert all(len(line.splitlines()) == 1 and len(line) <= 1100 for line in found)
    assert any("a\\nb\\u2028c\\x85: is not a known key" in line for line in found)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({50256: 1}, "config[50256]: the key must be text: put the key in quotes"),
        ({"a": [{"b": {False: 1}}]}, "config: has a key that is not text: put the key in quotes"),
        ({"a": {None: 1}}, "config: has a key that is not text: put the key in quotes"),
    ],
)
def test_a_key_that_dagster_did_not_read_as_text_is_refused(config: dict[str, Any], expected: str) -> None:
    """YAML 1.1, and so a launchpad, has keys that JSON does not."""
    content = {"connections": [{"name": "a", "provider": "p", "model": "m", "config": config}]}
    with pytest.raises(EvaluationFileError) as caught:
        locate(content, None, key_path).refuse()
    assert caught.value.problems == [f"connections[0].{expected}"]


def test_the_documentation_says_what_values_are_read_as(tmp_path: Path) -> None:
    document = (Path(__file__).parents[3] / "docs" / "evaluation_file.md").read_text()
    _, example = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    located = load_evaluation_file(write(tmp_path, example))
    located.refuse()
    assert located.evaluation.connections[0].config == {
        "temperature": 0.1,
        "stop": ["No", "Yes"],
        "logit_bias": {"50256": -100},
        "at": "22:30",
    }
    for row in re.findall(r"^\| (`.+`.*?) \| text, as written \|$", document, re.MULTILINE):
        for value in re.findall(r"`([^`]+)`", row):
            text = GOOD.replace("owner: legal", f"owner: {value}")
            metadata = load_evaluation_file(write(tmp_path, text)).evaluation.batches[0].metadata
            assert metadata["owner"] == value


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("owner: legal", "owner: 1e-400", "is too close to zero for a number"),
        (
            "api_key_env: OPENAI_API_KEY",
            "api_key_env: $OPENAI_API_KEY",
            "must be the NAME of an environment variable: remove the $",
        ),
        ("folders: [./docs]", "folders: [./nope/../docs]", "one of its parent folders does not exist"),
    ],
)
def test_a_message_names_the_problem_of_a_value(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    assert right in GOOD
    (problem,) = problems(tmp_path, GOOD.replace(right, wrong))
    assert said in problem


@pytest.mark.parametrize("pattern", ["Rechnung [2024-10].pdf", "", " ", "*.pdf ", "# x", "[[:alpha:]]*"])
def test_a_pattern_that_can_match_no_file_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="1 validation error"):
        BatchDefinition(name="b", folders=["/"], connections=["c"], prompts=["p"], include=[pattern])


@pytest.mark.parametrize("text", [" ", "\t\n", "\u200b"])
def test_a_prompt_without_visible_text_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no visible text"):
        PromptDefinition(name="p", text=text)
