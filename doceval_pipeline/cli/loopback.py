"""Asks servers of this machine over HTTP."""

import http.client
import urllib.request

# Nothing for this machine goes through a proxy, whatever http_proxy and no_proxy say.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str, seconds: float) -> bool:
    """Whether the server at an address on loopback has that page, and says so within some seconds."""
    try:
        with _DIRECTLY.open(urllib.request.Request(url, method="HEAD"), timeout=seconds) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False
