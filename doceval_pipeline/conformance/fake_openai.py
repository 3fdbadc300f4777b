"""A fake model on loopback: an OpenAI-compatible endpoint that records requests and can delay responses.

It answers every POST as a chat completion, on any path. docs/processors.md documents the responses.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from doceval_pipeline.conformance.cases import ConformanceCase, ModelBehaviour, case_number_in
from doceval_pipeline.conformance.document_match import DocumentMatch, match_document

KEY = "conformance-key"
INPUT_TOKENS, OUTPUT_TOKENS = 120, 12
# How long the model stays busy, and the Retry-After header of each 429.
SECONDS_BUSY = 2.0
RETRY_AFTER = "1"


@dataclass
class Model:
    """The fake model: its cases, and the requests it received by case number.

    `calls` has one document match per request; `keys` are the API keys of all requests. `unknown_requests`
    counts requests without the prompt of a case.
    """

    cases: dict[int, ConformanceCase] = field(default_factory=dict)
    calls: dict[int, list[DocumentMatch]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    first_calls: dict[int, float] = field(default_factory=dict)
    unknown_requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0

    def prepare(
        self, cases: Sequence[ConformanceCase], *, is_blocked: bool = False, seconds: float = 0.0
    ) -> None:
        """Expect requests about these cases; responds after `seconds`, or blocks until `answers` is set."""
        self.cases = {case.number: case for case in cases}
        self.seconds = seconds
        if is_blocked:
            self.answers.clear()
        else:
            self.answers.set()

    def reply(self, request: Any, key: str) -> tuple[int, Any]:
        """Status and body of the response to a request."""
        number = case_number_in(json.dumps(request, ensure_ascii=False))
        case = self.cases.get(-1 if number is None else number)
        if case is None:
            self.unknown_requests += 1
            return 400, _error("this request contains no prompt of a case")
        with self.lock:
            calls = self.calls.setdefault(case.number, [])
            is_first = not calls
            began = self.first_calls.setdefault(case.number, time.monotonic())
            calls.append(match_document(case, request))
            self.keys.add(key)
        self.answers.wait()
        threading.Event().wait(self.seconds)
        if case.behaviour is ModelBehaviour.refuse:
            return 400, _error("this model does not read such documents")
        is_busy = case.behaviour is ModelBehaviour.busy and time.monotonic() - began < SECONDS_BUSY
        if is_busy or (case.behaviour is ModelBehaviour.busy_once and is_first):
            return 429, _error("too many requests: try again")
        return 200, _completion(case)


@contextmanager
def served(model: Model) -> Iterator[str]:
    """Serve a model on a free loopback port; yields the base URL."""

    class Handler(_Handler):
        answering = model

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        model.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answering: Model

    def do_POST(self) -> None:
        try:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError:
            request = None
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status, body = self.answering.reply(request, key)
        encoded = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            if status == 429:
                self.send_header("Retry-After", RETRY_AFTER)
            self.end_headers()
            self.wfile.write(encoded)
        except OSError:
            # The client was killed in the meantime.
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Log nothing: standard error belongs to the command."""


def _completion(case: ConformanceCase) -> dict[str, Any]:
    return {
        "id": f"conformance-{case.number}",
        "object": "chat.completion",
        "created": 0,
        "model": "conformance-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": case.reply},
            }
        ],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        },
    }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "conformance", "code": None, "param": None}}
