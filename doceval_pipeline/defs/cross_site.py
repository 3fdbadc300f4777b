"""Protects the webserver from requests of other sites' pages.

Every page that is open in a browser on this machine can send requests to the webserver, which has no
authentication. A browser adds headers for the origin of a request, the host name and the destination of the
response, and a page cannot change them (https://www.w3.org/TR/fetch-metadata/). Other programs do not send
them.
"""

import re
from collections.abc import Collection
from enum import Enum
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Any other host name for this address means DNS rebinding, unless the operator names it.
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
OTHER_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
PAGE = re.compile(r"(https?)://([^/]*)(/.*)?", re.ASCII | re.IGNORECASE)
REFUSAL = (
    "refused: this request comes from a page of another site, or uses a host name that is neither 127.0.0.1 "
    "nor in DOCEVAL_UI_HOSTS"
)
# Headers of a prefetch before a link is followed (https://wicg.github.io/nav-speculation/). Chromium sends
# prefetches with Sec-Fetch-Site: none.
SPECULATIVE = ("sec-purpose", "purpose", "x-moz")


class Sender(Enum):
    """Who sent a request."""

    OWN = "own"
    LINK = "link"
    FOREIGN = "foreign"


def sender(method: str, headers: Headers, own_hosts: Collection[str] = ()) -> Sender:
    """The sender of a request, from its headers; never raises.

    `OWN` is a page of the webserver, the address bar or a program; `LINK` is a page of another site that
    opens the webserver in its own window or a new one; `FOREIGN` is everything else.

    Parameters
    ----------
    own_hosts
        Names of the webserver besides the loopback, as `Settings.ui_hosts`.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_own(hosts[0], own_hosts):
        return Sender.FOREIGN
    if not all(_is_page_of(hosts[0], f"{origin}/") for origin in headers.getlist("origin")):
        return Sender.FOREIGN
    if not any(name.startswith("sec-fetch-") for name in headers):
        # An old browser, or a program.
        is_own = all(_is_page_of(hosts[0], page) for page in headers.getlist("referer"))
        return Sender.OWN if is_own else Sender.FOREIGN
    site = headers.getlist("sec-fetch-site")
    if site == ["same-origin"]:
        return Sender.OWN
    if method not in ("GET", "HEAD") or any(name in headers for name in SPECULATIVE):
        return Sender.FOREIGN
    if site == ["none"] and "referer" not in headers:
        # The address bar or a bookmark.
        return Sender.OWN
    return Sender.LINK if _opens_a_window(headers) else Sender.FOREIGN


def _is_own(host: str, own_hosts: Collection[str]) -> bool:
    if LOOPBACK.fullmatch(host):
        return True
    match = OTHER_HOST.fullmatch(host)
    return match is not None and match[1].lower() in own_hosts


def _is_page_of(host: str, page: str) -> bool:
    match = PAGE.fullmatch(page)
    if match is None or match[2].lower() != host.lower():
        return False
    # The webserver does not use TLS: pages with https on the same port of loopback belong to another program.
    # Before another name, a proxy uses TLS.
    return match[1].lower() == "http" or not LOOPBACK.fullmatch(host)


def _opens_a_window(headers: Headers) -> bool:
    # Firefox also sends `navigate` for an <object>.
    return (
        headers.getlist("sec-fetch-site") in (["none"], ["cross-site"], ["same-site"])
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )


class OwnPagesOnly:
    """Answers foreign requests with 403, closes foreign websockets, and forbids frames.

    Parameters
    ----------
    own_hosts
        As of `sender`.
    """

    def __init__(self, app: "ASGIApp", own_hosts: Collection[str] = ()) -> None:
        self._app = app
        self._own_hosts = own_hosts

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass on own requests and pages opened by a link; refuse all others."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        sent_by = sender(scope.get("method", "GET"), Headers(scope=scope), self._own_hosts)
        if scope["type"] == "websocket":
            if sent_by is not Sender.OWN:
                return await send({"type": "websocket.close", "code": 1008, "reason": REFUSAL})
            return await self._app(scope, receive, send)

        has_begun = False

        async def send_unframed(message: "Message") -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                # Several policies apply together, so that a page keeps its own.
                headers.append("Content-Security-Policy", "frame-ancestors 'none'")
                headers["X-Frame-Options"] = "DENY"
            await send(message)

        if sent_by is Sender.FOREIGN:
            return await refuse()(scope, receive, send_unframed)
        try:
            return await self._app(scope, receive, send_unframed)
        except Exception:
            # Starlette would answer outside of this layer, without these headers.
            if not has_begun:
                await PlainTextResponse("Internal Server Error", 500)(scope, receive, send_unframed)
            raise


def refuse() -> PlainTextResponse:
    """The response to a foreign request."""
    return PlainTextResponse(f"{REFUSAL}\n", status_code=403)
