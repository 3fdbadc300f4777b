"""Protects the webserver from requests of other sites' pages.

Every page that is open in a browser on this machine can send requests to the webserver, which has no
authentication. A browser adds headers for the origin of a request, the host name and the destination of the
response, and a page cannot change them (https://www.w3.org/TR/fetch-metadata/). Other programs do not send
them.
"""

import re
from enum import Enum
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Any other host name for this address means DNS rebinding.
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
# This webserver does not use TLS: pages with https on the same port of loopback belong to another program.
PAGE = re.compile(r"http://([^/]*)(/.*)?", re.ASCII | re.IGNORECASE)
REFUSAL = "refused: this request comes from a page of another site, or uses another host name than 127.0.0.1"
# Headers of a prefetch before a link is followed (https://wicg.github.io/nav-speculation/). Chromium sends
# prefetches with Sec-Fetch-Site: none.
SPECULATIVE = ("sec-purpose", "purpose", "x-moz")


class Sender(Enum):
    """Who sent a request."""

    OWN = "own"
    LINK = "link"
    FOREIGN = "foreign"


def sender(method: str, headers: Headers) -> Sender:
    """The sender of a request, from its headers; never raises.

    `OWN` is a page of the webserver, the address bar or a program; `LINK` is a page of another site that
    opens the webserver in its own window or a new one; `FOREIGN` is everything else.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not OWN_HOST.fullmatch(hosts[0]):
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


def _is_page_of(host: str, page: str) -> bool:
    match = PAGE.fullmatch(page)
    return match is not None and match[1].lower() == host.lower()


def _opens_a_window(headers: Headers) -> bool:
    # Firefox also sends `navigate` for an <object>.
    return (
        headers.getlist("sec-fetch-site") in (["none"], ["cross-site"], ["same-site"])
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )


class OwnPagesOnly:
    """Answers foreign requests with 403, closes foreign websockets, and forbids frames."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass on own requests and pages opened by a link; refuse all others."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        sent_by = sender(scope.get("method", "GET"), Headers(scope=scope))
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
