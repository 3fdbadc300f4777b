"""Canaries, and every place where a careless person puts a key into an evaluation."""

import base64
import copy
from pathlib import Path
from typing import Any
from urllib.parse import quote

# In the forms that services give them; all of them are made up.
KEY = "sk-proj-Canary7w3Kq9ZtX4mB8vR2nL6pD1sF5hJ"
AWS_KEY = "AKIACANARY7CANARY7QX"
# No form tells it from other words: it is known by the name of what holds it.
PASSWORD = "canary-plain-words"
JSON_WEB_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl"

Place = tuple[str | int, ...]
_CONNECTION: Place = ("connections", 0)
_BATCH: Place = ("batches", 0)
CARELESS: dict[str, tuple[Place, Any]] = {
    "api_key_env holds a key": ((*_CONNECTION, "api_key_env"), KEY),
    "api_key_env holds a key in capitals": ((*_CONNECTION, "api_key_env"), AWS_KEY),
    "api_key_env holds a token in capitals": ((*_CONNECTION, "api_key_env"), "CANARY9F86D081884C7D65"),
    "a field of one's own": ((*_CONNECTION, "api_key"), KEY),
    "user and password in the URL": ((*_CONNECTION, "base_url"), f"https://u:{PASSWORD}@h/v1"),
    "a user alone in the URL": ((*_CONNECTION, "base_url"), f"https://{KEY}@h/v1"),
    "a query of the URL": ((*_CONNECTION, "base_url"), f"https://h/v1?api_key={PASSWORD}"),
    "a query of another name": ((*_CONNECTION, "base_url"), f"https://h/v1?q={KEY}"),
    "a signed URL": ((*_CONNECTION, "base_url"), f"https://h/v1?X-Amz-Signature={PASSWORD}"),
    "a fragment of the URL": ((*_CONNECTION, "base_url"), f"https://h/v1#access_token={PASSWORD}"),
    "the path of the URL": ((*_CONNECTION, "base_url"), f"https://h/{KEY}/v1"),
    "a setting": ((*_CONNECTION, "config"), {"api_key": PASSWORD}),
    "a setting of another name": ((*_CONNECTION, "config"), {"extra": KEY}),
    "a setting spelled otherwise": ((*_CONNECTION, "config"), {"X-API-Key": PASSWORD}),
    "a setting that is a number": ((*_CONNECTION, "config"), {"password": 31415926535}),
    "a setting of several": ((*_CONNECTION, "config"), {"api_keys": [PASSWORD]}),
    "a setting in a setting": ((*_CONNECTION, "config"), {"secret": {"value": PASSWORD}}),
    "the name of a setting": ((*_CONNECTION, "config"), {KEY: True}),
    "a key of a subscription": ((*_CONNECTION, "config"), {"Ocp-Apim-Subscription-Key": PASSWORD}),
    "a header": ((*_CONNECTION, "config"), {"headers": {"Authorization": PASSWORD}}),
    "a header of a session": ((*_CONNECTION, "config"), {"headers": {"Cookie": PASSWORD}}),
    "headers as objects": (
        (*_CONNECTION, "config"),
        {"headers": [{"name": "x-api-key", "value": PASSWORD}]},
    ),
    "headers as pairs": ((*_CONNECTION, "config"), {"headers": [["x-api-key", PASSWORD]]}),
    "headers as lines": ((*_CONNECTION, "config"), {"headers": [f"Authorization: {PASSWORD}"]}),
    "a bearer": ((*_CONNECTION, "config"), {"extra": f"Bearer {PASSWORD}"}),
    "a proxy": ((*_CONNECTION, "config"), {"proxy": f"http://u:{PASSWORD}@proxy:3128"}),
    "a JSON Web Token": ((*_CONNECTION, "config"), {"extra": JSON_WEB_TOKEN}),
    "the name of a connection": ((*_CONNECTION, "name"), KEY),
    "the provider": ((*_CONNECTION, "provider"), KEY),
    "the model": ((*_CONNECTION, "model"), f"gpt?key={KEY}"),
    "a prompt": (("prompts", 0, "text"), f"Use the key {KEY}.\nHow clear?"),
    "the name of a prompt": (("prompts", 0, "name"), KEY),
    "the name of a batch": ((*_BATCH, "name"), f"batch for {KEY}"),
    "a description": ((*_BATCH, "description"), f"paid with {KEY}"),
    "metadata": ((*_BATCH, "metadata"), {"note": f"key={KEY}"}),
    "metadata by name": ((*_BATCH, "metadata"), {"api_key": PASSWORD}),
    "metadata further down": ((*_BATCH, "metadata"), {"a": [{"b": {"password": PASSWORD}}]}),
    "a pattern": ((*_BATCH, "include"), [KEY]),
    "a folder": ((*_BATCH, "folders"), [f"/tmp/{KEY}"]),
    "a user in the URL of a folder": ((*_BATCH, "folders"), [f"s3://{PASSWORD}@bucket/in"]),
    "a signed URL of a folder": ((*_BATCH, "folders"), [f"s3://bucket/in?X-Amz-Signature={PASSWORD}"]),
    "the connection of a batch": ((*_BATCH, "connections"), [KEY]),
    "the prompt of a batch": ((*_BATCH, "prompts"), ["clarity", KEY]),
}
# In what forms a key may turn up again.
FORMS = tuple(
    form
    for secret in (KEY, AWS_KEY, PASSWORD)
    for form in (
        secret,
        quote(secret, safe=""),
        base64.b64encode(secret.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(secret.encode()).decode().rstrip("="),
        secret.encode().hex(),
    )
)


def innocent(folder: Path) -> dict[str, Any]:
    """An evaluation without a key, over a folder of documents."""
    return {
        "connections": [
            {"name": "gpt", "provider": "openai", "model": "gpt-4o", "config": {"temperature": 0}}
        ],
        "prompts": [{"name": "clarity", "text": "How clear?"}],
        "batches": [{"name": "q4", "folders": [str(folder)], "connections": ["gpt"], "prompts": ["clarity"]}],
    }


def with_secret(folder: Path, place: str) -> dict[str, Any]:
    """The same with a key or a password in one of the places of `CARELESS`."""
    (*above, last), value = CARELESS[place]
    content = innocent(folder)
    inner: Any = content
    for part in above:
        inner = inner[part]
    inner[last] = copy.deepcopy(value)
    return content
