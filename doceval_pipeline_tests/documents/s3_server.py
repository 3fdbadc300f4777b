"""A small S3 server on the loopback: lists, gets, puts, and fails on demand."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from doceval_pipeline.documents.stores import bucket_of

ACCESS_KEY, SECRET_KEY = "AKIACANARY0123456789", "canary/secret/0123456789abcdefghijklmnop"

# moto overwrites no object without one.
_AUTHORIZATION = (
    f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20261101/us-east-1/s3/aws4_request, SignedHeaders=host, "
    "Signature=0"
)


@dataclass
class Answer:
    """A failure: a status with a code, and seconds to wait; status 0 cuts the connection."""

    status: int
    code: str = ""
    retry_after: int | None = None


@dataclass
class S3:
    """Buckets of a server, and the requests that it received; `fails` may answer in its place."""

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    fails: Callable[[str, str], Answer | None] = lambda method, path: None
    buckets: dict[str, dict[str, tuple[bytes, str, float]]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which obstore reaches the server."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def prepared(self, monkeypatch: pytest.MonkeyPatch) -> "S3":
        """The server with an empty bucket `documents`, which the environment of this process names."""
        bucket_of.cache_clear()
        for variable in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(variable)
        for variable, value in self.environment.items():
            monkeypatch.setenv(variable, value)
        self.create_bucket("documents")
        return self

    def create_bucket(self, bucket: str) -> None:
        """Create an empty bucket."""
        self.request("PUT", f"/{bucket}")

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Store an object under any key."""
        self.request("PUT", f"/{bucket}/{quote(key, safe='')}", content)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        self.request("DELETE", f"/{bucket}/{quote(key, safe='')}")

    def request(self, method: str, path: str, body: bytes = b"") -> None:
        """Send an unsigned request; fails unless it succeeds."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Authorization": _AUTHORIZATION})
            response = connection.getresponse()
            response.read()
            assert response.status < 300, (method, path, response.status)
        finally:
            connection.close()

    def gets(self) -> list[str]:
        """The keys that were read."""
        return [unquote(path).split("/", 2)[2] for method, path in self.requests if method == "GET?"]


@contextmanager
def running() -> Iterator[S3]:
    """A running server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    s3 = S3(server.server_port)
    server.s3 = s3  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: without this, the second one waits for 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_PUT(self) -> None:
        bucket, key = self._place()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        objects = self._s3.buckets.setdefault(bucket, {})
        if key:
            objects[key] = body, f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"', time.time()
        self._send(200)

    def do_DELETE(self) -> None:
        bucket, key = self._place()
        self._s3.buckets[bucket].pop(key, None)
        self._send(204)

    def do_GET(self) -> None:
        bucket, key = self._place()
        self._s3.requests.append(("GET?" if key else "LIST", self.path))
        if (answer := self._s3.fails("GET" if key else "LIST", self.path)) is not None:
            if not answer.status:
                self.close_connection = True
                return
            headers = {} if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
            self._send(answer.status, _error(answer.code), headers)
        elif bucket not in self._s3.buckets:
            self._send(404, _error("NoSuchBucket"))
        elif not key:
            self._send(200, self._listing(self._s3.buckets[bucket]))
        elif key not in self._s3.buckets[bucket]:
            self._send(404, _error("NoSuchKey"))
        else:
            self._get(*self._s3.buckets[bucket][key])

    def _get(self, body: bytes, etag: str, modified: float) -> None:
        if self.headers.get("If-Match") not in (None, etag):
            self._send(412, _error("PreconditionFailed"))
            return
        headers = {"ETag": etag, "Last-Modified": self.date_time_string(int(modified))}
        given = self.headers.get("Range")
        if given is None:
            self._send(200, body, headers)
            return
        begin, end = (int(number) for number in given.removeprefix("bytes=").split("-"))
        part = body[begin : end + 1]
        span = f"bytes {begin}-{begin + len(part) - 1}/{len(body)}"
        self._send(206, part, {**headers, "Content-Range": span})

    def _listing(self, objects: dict[str, tuple[bytes, str, float]]) -> bytes:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        after = asked.get("continuation-token", "")
        keys = sorted(key for key in objects if key.startswith(asked.get("prefix", "")) and key > after)
        most = int(asked.get("max-keys", 1000))
        contents = "".join(
            f"<Contents><Key>{escape(quote(key))}</Key>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(objects[key][2]))}"
            f"</LastModified><ETag>{escape(objects[key][1])}</ETag><Size>{len(objects[key][0])}</Size></Contents>"
            for key in keys[:most]
        )
        more = len(keys) > most
        token = f"<NextContinuationToken>{escape(keys[most - 1])}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}"
            "</ListBucketResult>"
        ).encode()

    @property
    def _s3(self) -> S3:
        s3: S3 = self.server.s3  # type: ignore[attr-defined]
        return s3

    def _place(self) -> tuple[str, str]:
        bucket, _, key = urlsplit(self.path).path[1:].partition("/")
        return bucket, unquote(key)

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId></Error>".encode()
