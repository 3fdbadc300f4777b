"""Sends signed messages to the receiver at DOCEVAL_WEBHOOK_URL, and says in a line why one was not taken.

Whatever happens becomes an answer: no failure of the environment, the network or the receiver raises. No
answer repeats an exception's text, because such texts quote URLs, and a URL may hold a token.
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

from doceval_pipeline.settings import SECRET_PREFIX, is_loopback

if TYPE_CHECKING:
    import httpx

# For everything from the look-up of the name to the status of the answer.
SECONDS_TO_ANSWER = 15.0
# Until whatever does not listen to that limit, such as the system's look-up of a name, is left behind.
SECONDS_BEYOND = 5.0
# What a receiver may ask for with Retry-After.
LONGEST_ASKED_PAUSE = 86_400.0
GONE = 410
# Who asks for a pause: too many requests, and not available.
ASKING_FOR_A_PAUSE = (429, 503)
PROXIES = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY"


@dataclass(frozen=True)
class Receiver:
    """Where messages go, and the secrets that they are signed with, with spaces in between; not shown."""

    url: str = field(repr=False)
    secrets: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: the id that the receiver knows it by, and the body."""

    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt.

    Parameters
    ----------
    failure
        Why the receiver does not have the message, in a line of ours; None where it has.
    is_final
        The receiver wants no further attempt.
    pause
        Seconds that the receiver asked to be left alone, at most `LONGEST_ASKED_PAUSE`.
    """

    failure: str | None = None
    is_final: bool = False
    pause: float = 0.0


def send_all(receiver: Receiver, messages: Sequence[Message]) -> list[Answer]:
    """Send messages at once; the answers in their order, after at most 20 s."""
    answers = [Answer(_no_answer()) for _ in messages]
    # A thread that nobody waits for, because the system's look-up of a name can be neither ended nor limited.
    sender = threading.Thread(target=_fill, args=(receiver, messages, answers), daemon=True)
    sender.start()
    sender.join(SECONDS_TO_ANSWER + SECONDS_BEYOND)
    return list(answers)


def signature(secrets: str, identifier: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a message, as https://www.standardwebhooks.com says.

    One signature for each of the secrets, with spaces in between, so that a receiver may know either.
    """
    signed = f"{identifier}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets.split()]
    digests = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return " ".join(f"v1,{digest}" for digest in digests)


def asked_pause(status: int, retry_after: str | None, now: datetime) -> float:
    """Seconds that an answer asks for, from 0 to `LONGEST_ASKED_PAUSE`; 0 for what cannot be read.

    Pure. `retry_after` is the header: whole seconds, or a date as HTTP writes it.
    """
    if retry_after is None or status not in ASKING_FOR_A_PAUSE:
        return 0.0
    said = retry_after.strip()
    if re.fullmatch(r"[0-9]+", said):
        # No int of thousands of digits.
        return LONGEST_ASKED_PAUSE if len(said) > 9 else min(float(said), LONGEST_ASKED_PAUSE)
    try:
        until = parsedate_to_datetime(said[:100])
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_ASKED_PAUSE)


def _fill(receiver: Receiver, messages: Sequence[Message], answers: list[Answer]) -> None:
    try:
        answers[:] = asyncio.run(_send_each(receiver, messages))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded and the message sent again
        answers[:] = [Answer(_why(error))] * len(messages)


async def _send_each(receiver: Receiver, messages: Sequence[Message]) -> list[Answer]:
    # Loading it takes a tenth of a second, which is only worth it where somebody is told.
    import httpx

    # Both tell the URL, which may hold a token.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    url = httpx.URL(receiver.url)
    is_here = is_loopback(url.host) or await _leads_here(url.host)
    client = httpx.AsyncClient(
        # The user's certificates count for this machine too; http needs none.
        verify=_certificates() if url.scheme == "https" else False,
        # What is for this machine does not leave it: no proxy.
        trust_env=not is_here,
        timeout=SECONDS_TO_ANSWER,
        follow_redirects=False,
    )
    async with client:
        return await asyncio.gather(*(_send(client, receiver, message) for message in messages))


async def _send(client: "httpx.AsyncClient", receiver: Receiver, message: Message) -> Answer:
    """Send one message. Nothing that the receiver says is read but its status and Retry-After."""
    headers = _headers(receiver, message, int(time.time()))
    try:
        # Around all of it, since a receiver may answer a byte at a time.
        async with (
            asyncio.timeout(SECONDS_TO_ANSWER),
            client.stream("POST", receiver.url, content=message.body, headers=headers) as response,
        ):
            status: int = response.status_code
            pause = asked_pause(status, response.headers.get("retry-after"), datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - as above; one message fails without the others
        return Answer(_why(error))
    if 200 <= status < 300:
        return Answer()
    if status == GONE:
        return Answer("the receiver answered 410: it does not want this message", is_final=True)
    return Answer(f"the receiver answered {status}", pause=pause)


def _headers(receiver: Receiver, message: Message, timestamp: int) -> Mapping[str, str]:
    return {
        "content-type": "application/json",
        "user-agent": f"doceval-pipeline/{version('doceval-pipeline')}",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(receiver.secrets, message.id, timestamp, message.body),
    }


class _CertificatesFailed(Exception):
    """SSL_CERT_FILE or SSL_CERT_DIR cannot be read; says why."""


class _LookupFailed(Exception):
    """The system's look-up of a name does not end."""


def _certificates() -> ssl.SSLContext:
    import httpx

    try:
        return httpx.create_ssl_context()
    except ssl.SSLError:
        raise _CertificatesFailed("it holds no certificate") from None
    except OSError as error:
        raise _CertificatesFailed(error.strerror or "it cannot be opened") from None


async def _leads_here(host: str) -> bool:
    """Whether a name or an address leads to this machine; False for a name that only a proxy may know."""
    try:
        async with asyncio.timeout(SECONDS_TO_ANSWER):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise _LookupFailed from None
    except (OSError, UnicodeError):
        return False
    own = {address.address for each in psutil.net_if_addrs().values() for address in each}
    return any(is_loopback(str(place[0])) or place[0] in own for *_, place in found)


def _no_answer() -> str:
    return f"no answer within {SECONDS_TO_ANSWER:g} s"


def _why(error: Exception) -> str:
    """Why an attempt failed, in a line that repeats nothing of the error but a reason of the system."""
    import httpx

    match error:
        case _CertificatesFailed():
            return f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used ({error}): correct it where doceval up runs"
        case _LookupFailed():
            return f"the receiver's name was not looked up within {SECONDS_TO_ANSWER:g} s"
        case httpx.ConnectTimeout():
            return f"the receiver cannot be reached: no connection within {SECONDS_TO_ANSWER:g} s"
        case TimeoutError() | httpx.TimeoutException():
            return _no_answer()
        case httpx.ProxyError():
            # The status alone: the rest is what the proxy says.
            status = re.match(r"\d{3}\b", str(error))
            return f"the proxy refused the connection{f' ({status[0]})' if status else ''}: see {PROXIES}"
        case httpx.ConnectError():
            return f"the receiver cannot be reached ({_reason(error)})"
        case httpx.NetworkError():
            return f"the connection to the receiver broke ({_reason(error)})"
        case httpx.RemoteProtocolError():
            return "the connection to the receiver broke (it ended it, or does not speak HTTP)"
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | ValueError() | ImportError():
            # Raised where a client is made of the environment, and where the URL is read.
            return (
                f"DOCEVAL_WEBHOOK_URL or one of {PROXIES} cannot be used: write proxies as http://HOST:PORT "
                "or socks5://HOST:PORT, and NO_PROXY as names and addresses without [ ], with commas between"
            )
        case OSError():
            return f"the message cannot be sent ({_reason(error)})"
    return f"the message cannot be sent, for a reason that doceval does not know ({type(error).__name__})"


def _reason(error: BaseException) -> str:
    """The system's reason behind an error, without the address that it was about."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                # What follows the comma is the name of the receiver.
                return f"its certificate is not accepted: {cause.verify_message.split(',')[0]}"
            case ssl.SSLError():
                return f"TLS failed: {(cause.reason or 'no reason given').lower().replace('_', ' ')}"
            case socket.gaierror():
                return "its name cannot be looked up" if cause.strerror is None else cause.strerror
            case OSError(errno=int() as number):
                return os.strerror(number)
    return "no reason given"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, those that it was raised from, and those in groups of them."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__
