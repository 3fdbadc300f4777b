"""A local receiver of webhooks with scripted responses."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Message:
    """What came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Keeps every message, and answers the first with the first of `answers`; without any left, with 200."""

    answers: list[Answer] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Receiver":
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.messages.append(Message(self.path, headers, body))
                (receiver.answers.pop(0) if receiver.answers else status(200))(self)

            do_GET = do_CONNECT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook?token=SESAME"

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        """Say nothing for a long time."""
        self.over.wait(20)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        """Begin an answer that takes ten seconds, a byte at a time."""
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500:
            if self.over.wait(0.02):
                return
            request.connection.sendall(bytes([byte]))


def status(code: int, **headers: str) -> Answer:
    """Answer with a status alone."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("content-length", "0")
        request.end_headers()

    return answer


def break_off(request: BaseHTTPRequestHandler) -> None:
    """End the connection without an answer."""
    request.close_connection = True


def flood(request: BaseHTTPRequestHandler) -> None:
    """Answer with more than anybody wants to read."""
    request.send_response(200)
    request.send_header("content-length", str(10**12))
    request.end_headers()
