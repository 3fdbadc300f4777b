"""A model on loopback: an OpenAI-compatible endpoint that notes what it was asked, and can make one wait.

It answers every POST as a chat completion, whatever the path. docs/processors.md says what it answers.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from doceval_pipeline.conformance.cases import Answer, Case, number_in
from doceval_pipeline.conformance.document_match import Arrival, arrival_of

KEY = "conformance-key"
INPUT_TOKENS, OUTPUT_TOKENS = 120, 12
# How long a busy model stays so, and what it says with each 429.
SECONDS_BUSY = 2.0
RETRY_AFTER = "1"


@dataclass
class Model:
    """What was asked, by the number of the case, and who has to wait for an answer.

    `calls` holds one arrival for each call; `keys` the keys that were sent.
    """

    cases: dict[int, Case] = field(default_factory=dict)
    calls: dict[int, list[Arrival]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    first_calls: dict[int, float] = field(default_factory=dict)
    strangers: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0

    def prepare(self, cases: Sequence[Case], holds: bool = False, seconds: float = 0.0) -> None:
        """Expect calls about these cases; let them wait until `answers` is set, or some seconds each."""
        self.cases = {case.number: case for case in cases}
        self.seconds = seconds
        if holds:
            self.answers.clear()
        else:
            self.answers.set()

    def reply(self, request: Any, key: str) -> tuple[int, Any]:
        """Status and body of the answer to a request."""
        number = number_in(json.dumps(request, ensure_ascii=False))
        case = self.cases.get(-1 if number is None else number)
        if case is None:
            self.strangers += 1
            return 400, _error("the prompt of no case is in this request")
        with self.lock:
            calls = self.calls.setdefault(case.number, [])
            first = not calls
            began = self.first_calls.setdefault(case.number, time.monotonic())
            calls.append(arrival_of(case, request))
            self.keys.add(key)
        self.answers.wait()
        threading.Event().wait(self.seconds)
        if case.answer is Answer.refuse:
            return 400, _error("this model does not read such documents")
        is_busy = case.answer is Answer.busy and time.monotonic() - began < SECONDS_BUSY
        if is_busy or (case.answer is Answer.busy_once and first):
            return 429, _error("too many requests: try again")
        return 200, _completion(case)


@contextmanager
def served(model: Model) -> Iterator[str]:
    """Serve a model on a free port of loopback; gives the base URL."""

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
            # Whoever asked was killed meanwhile.
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing: standard error belongs to the command."""


def _completion(case: Case) -> dict[str, Any]:
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
