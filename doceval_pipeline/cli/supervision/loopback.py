"""Checks over HTTP whether a server on this machine answers."""


def answers(url: str, seconds: float) -> bool:
    """Whether the server at an address on loopback answers with that page within `seconds`."""
    # Imported here, because most commands need neither.
    import http.client
    import urllib.request

    # Requests to this machine use no proxy, whatever http_proxy and no_proxy contain.
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(urllib.request.Request(url, method="HEAD"), timeout=seconds) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False
