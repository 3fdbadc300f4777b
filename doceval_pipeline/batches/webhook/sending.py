"""Sends signed messages to the receiver at DOCEVAL_WEBHOOK_URL, and reports failures in one line each.

No failure of the environment, the network or the receiver raises: each becomes an `AttemptResult`. No result
repeats the text of an exception, because such texts quote URLs, and a URL may contain a token.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil

from doceval_pipeline.domain.webhook import AttemptResult
from doceval_pipeline.settings import SECRET_PREFIX, is_loopback

if TYPE_CHECKING:
    import httpx

# From name resolution to the status of the response.
SECONDS_TO_ANSWER = 15.0
# Extra time for operations that ignore this limit, such as the system's name resolution.
SECONDS_BEYOND = 5.0
# Longest pause that a receiver can request with Retry-After.
LONGEST_REQUESTED_PAUSE = 86_400.0
GONE = 410
# Statuses that can request a pause: too many requests, and service unavailable.
PAUSE_STATUSES = (429, 503)
PROXIES = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY"


@dataclass(frozen=True)
class ReceiverSettings:
    """URL of the receiver and the signing secrets, separated by spaces; hidden in `repr`."""

    url: str = field(repr=False)
    secrets: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message: its id for the receiver, and its body."""

    id: str
    body: bytes


def send_all(receiver: ReceiverSettings, messages: Sequence[OutgoingMessage]) -> list[AttemptResult]:
    """Sends messages concurrently and returns their results in the same order, after at most 20 s."""
    results = [AttemptResult(_no_answer()) for _ in messages]
    # A daemon thread, because the system's name resolution can be neither cancelled nor limited.
    sender = threading.Thread(target=_fill, args=(receiver, messages, results), daemon=True)
    sender.start()
    sender.join(SECONDS_TO_ANSWER + SECONDS_BEYOND)
    return list(results)


def signature(secrets: str, identifier: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a message, as specified by https://www.standardwebhooks.com.

    One signature per secret, separated by spaces, so that the receiver needs only one of the secrets.
    """
    signed = f"{identifier}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets.split()]
    digests = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return " ".join(f"v1,{digest}" for digest in digests)


def requested_pause(status: int, retry_after: str | None, now: datetime) -> float:
    """Pause in seconds that a response requests, from 0 to `LONGEST_REQUESTED_PAUSE`; 0 if unreadable.

    `retry_after` is the header: whole seconds or an HTTP date.
    """
    if retry_after is None or status not in PAUSE_STATUSES:
        return 0.0
    value = retry_after.strip()
    if re.fullmatch(r"[0-9]+", value):
        # Avoids parsing thousands of digits.
        return LONGEST_REQUESTED_PAUSE if len(value) > 9 else min(float(value), LONGEST_REQUESTED_PAUSE)
    try:
        until = parsedate_to_datetime(value[:100])
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_REQUESTED_PAUSE)


def _fill(
    receiver: ReceiverSettings, messages: Sequence[OutgoingMessage], results: list[AttemptResult]
) -> None:
    try:
        results[:] = asyncio.run(_send_each(receiver, messages))
    except Exception as error:  # noqa: BLE001 - every failure is recorded and the message sent again
        results[:] = [AttemptResult(_why(error))] * len(messages)


async def _send_each(receiver: ReceiverSettings, messages: Sequence[OutgoingMessage]) -> list[AttemptResult]:
    # Importing httpx takes a tenth of a second, so it is imported only when a message is sent.
    import httpx

    # Both log the URL, which may contain a token.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    url = httpx.URL(receiver.url)
    is_local = is_loopback(url.host) or await _is_this_machine(url.host)
    client = httpx.AsyncClient(
        # Custom certificates apply to this machine too; http needs none.
        verify=_certificates() if url.scheme == "https" else False,
        # Messages to this machine do not leave it: no proxy.
        trust_env=not is_local,
        timeout=SECONDS_TO_ANSWER,
        follow_redirects=False,
    )
    async with client:
        return await asyncio.gather(*(_send(client, receiver, message) for message in messages))


async def _send(
    client: "httpx.AsyncClient", receiver: ReceiverSettings, message: OutgoingMessage
) -> AttemptResult:
    """Sends one message. Only the status and Retry-After of the response are read."""
    headers = _headers(receiver, message, int(time.time()))
    try:
        # Covers the whole exchange, because a receiver may respond one byte at a time.
        async with (
            asyncio.timeout(SECONDS_TO_ANSWER),
            client.stream("POST", receiver.url, content=message.body, headers=headers) as response,
        ):
            status: int = response.status_code
            pause = requested_pause(status, response.headers.get("retry-after"), datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - as above; messages fail independently
        return AttemptResult(_why(error))
    if 200 <= status < 300:
        return AttemptResult()
    if status == GONE:
        return AttemptResult("the receiver answered 410: it does not want this message", is_final=True)
    return AttemptResult(f"the receiver answered {status}", pause=pause)


def _headers(receiver: ReceiverSettings, message: OutgoingMessage, timestamp: int) -> Mapping[str, str]:
    return {
        "content-type": "application/json",
        "user-agent": f"doceval-pipeline/{version('doceval-pipeline')}",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(receiver.secrets, message.id, timestamp, message.body),
    }


class _CertificatesFailed(Exception):
    """SSL_CERT_FILE or SSL_CERT_DIR cannot be read, for the reason in the message."""


class _ResolutionTimedOut(Exception):
    """The system's name resolution did not end in time."""


def _certificates() -> ssl.SSLContext:
    import httpx

    try:
        return httpx.create_ssl_context()
    except ssl.SSLError:
        raise _CertificatesFailed("it holds no certificate") from None
    except OSError as error:
        raise _CertificatesFailed(error.strerror or "it cannot be opened") from None


async def _is_this_machine(host: str) -> bool:
    """Whether a name or address is this machine; False for a name that only a proxy may resolve."""
    try:
        async with asyncio.timeout(SECONDS_TO_ANSWER):
            addresses = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise _ResolutionTimedOut from None
    except (OSError, UnicodeError):
        return False
    own = {address.address for each in psutil.net_if_addrs().values() for address in each}
    return any(is_loopback(str(address[0])) or address[0] in own for *_, address in addresses)


def _no_answer() -> str:
    return f"no answer within {SECONDS_TO_ANSWER:g} s"


def _why(error: Exception) -> str:
    """Why an attempt failed, in one line that repeats nothing of the error except a reason of the system."""
    import httpx

    match error:
        case _CertificatesFailed():
            return f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used ({error}): correct it where doceval up runs"
        case _ResolutionTimedOut():
            return f"the receiver's name was not resolved within {SECONDS_TO_ANSWER:g} s"
        case httpx.ConnectTimeout():
            return f"the receiver cannot be reached: no connection within {SECONDS_TO_ANSWER:g} s"
        case TimeoutError() | httpx.TimeoutException():
            return _no_answer()
        case httpx.ProxyError():
            # Only the status: the rest is text of the proxy.
            status = re.match(r"\d{3}\b", str(error))
            return f"the proxy refused the connection{f' ({status[0]})' if status else ''}: see {PROXIES}"
        case httpx.ConnectError():
            return f"the receiver cannot be reached ({_reason(error)})"
        case httpx.NetworkError():
            return f"the connection to the receiver broke ({_reason(error)})"
        case httpx.RemoteProtocolError():
            return "the connection to the receiver broke (the receiver closed it, or does not speak HTTP)"
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | ValueError() | ImportError():
            # Raised when a client is created from the environment, and when the URL is parsed.
            return (
                f"DOCEVAL_WEBHOOK_URL or one of {PROXIES} cannot be used: write proxies as http://HOST:PORT "
                "or socks5://HOST:PORT, and NO_PROXY as names and addresses without [ ], separated by commas"
            )
        case OSError():
            return f"the message cannot be sent ({_reason(error)})"
    return f"the message cannot be sent for an unknown reason ({type(error).__name__})"


def _reason(error: BaseException) -> str:
    """The system's reason behind an error, without the address."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                # The text after the comma contains the receiver's name.
                return f"its certificate is not accepted: {cause.verify_message.split(',')[0]}"
            case ssl.SSLError():
                return f"TLS failed: {(cause.reason or 'no reason given').lower().replace('_', ' ')}"
            case socket.gaierror():
                return "its name cannot be resolved" if cause.strerror is None else cause.strerror
            case OSError(errno=int() as number):
                return os.strerror(number)
    return "no reason given"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its causes, and the members of exception groups among them."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__
