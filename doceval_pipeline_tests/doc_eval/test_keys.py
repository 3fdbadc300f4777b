"""A key in any place where a careless person would put one is refused, without being repeated."""

import json
from pathlib import Path
from typing import Any

import pytest

from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, load_evaluation_file, locate
from doceval_pipeline.errors import EvaluationFileError
from doceval_pipeline_tests.secret_canaries import CARELESS, KEY, PASSWORD, innocent, with_secret


def told(content: Any) -> str:
    with pytest.raises(EvaluationFileError) as caught:
        locate(content, None, key_path).refuse()
    assert caught.value.problems == str(caught.value).splitlines()
    return str(caught.value)


@pytest.mark.parametrize("place", CARELESS)
def test_a_key_or_password_is_refused_and_not_repeated(tmp_path: Path, place: str) -> None:
    message = told(with_secret(tmp_path, place))
    assert KEY not in message
    assert PASSWORD not in message
    assert "key" in message


@pytest.mark.parametrize(
    "text",
    [
        f"connections: [{{{KEY}: 1}}]",
        f"{KEY}: 1",
        f"prompts: *{KEY}",
        f"a: &{KEY} 1\nb: &{KEY} 2",
        f"batches: [{{name: a, {KEY}: 1, {KEY}: 2}}]",
        f"a: !{KEY} x",
        f"'{KEY}",
    ],
)
def test_a_key_in_a_broken_file_is_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evaluation.yaml"
    path.write_text(text)
    with pytest.raises(EvaluationFileError) as caught:
        load_evaluation_file(path).refuse()
    assert KEY not in str(caught.value)
    assert KEY not in "".join(caught.value.problems)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"max_tokens": 100, "prompt_cache_key": "a", "sort_keys": True}},
        {"config": {"password": None, "use_authorization": True, "api_key": ""}},
        {"config": {"headers": {"X-Team": "legal", "Accept": "application/json"}}},
        {"base_url": "http://localhost:11434/v1?api-version=2024-06-01"},
        {"base_url": "https://sk-learn-models.example/v1"},
        {"api_key_env": "OPENAI_API_KEY"},
        {"api_key_env": "KEY2"},
        {"api_key_env": "AZURE_EASTUS2_KEY_2025"},
    ],
)
def test_settings_that_only_sound_like_credentials_are_taken(tmp_path: Path, change: dict[str, Any]) -> None:
    content = innocent(tmp_path)
    content["connections"][0] |= change
    locate(content, None, key_path).refuse()


@pytest.mark.parametrize(
    "text",
    [
        "Does the contract name a password: yes or no?",
        "Score the sk-learn-datasets-2024-release-notes for basic responsibilities and clarity.",
        "See https://example.com:443/a@b and mail a@example.com.",
    ],
)
def test_prompts_and_metadata_may_speak_of_keys(tmp_path: Path, text: str) -> None:
    content = innocent(tmp_path)
    content["prompts"][0]["text"] = text
    content["batches"][0] |= {"description": text, "metadata": {"note": text, "secretary": "Jane Doe"}}
    locate(content, None, key_path).refuse()


def test_what_is_kept_of_an_innocent_evaluation_is_what_was_written(tmp_path: Path) -> None:
    content = innocent(tmp_path)
    kept = locate(content, None, key_path).evaluation.model_dump(mode="json")
    assert json.loads(json.dumps(kept))["connections"][0]["config"] == content["connections"][0]["config"]
