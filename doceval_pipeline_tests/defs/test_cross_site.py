"""Requests of other sites' pages are distinguished from those of own pages and of programs."""

import random
from itertools import product

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from doceval_pipeline.defs.cross_site import OwnPagesOnly, Sender, sender

OWN = {"host": "127.0.0.1:3000"}
CLICK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FOREIGN = {
    "a picture": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    "an object in Firefox": {**CLICK, "sec-fetch-dest": "object"},
    "a frame": {**CLICK, "sec-fetch-dest": "iframe"},
    "a browser that does not say what for": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    "a browser that does not say from where": {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    "a page that is fetched before the click": {**CLICK, "sec-purpose": "prefetch;prerender"},
    "a page that Chromium fetches ahead": {**CLICK, "sec-fetch-site": "none", "sec-purpose": "prefetch"},
    "a frame that nobody asked for": {
        **CLICK,
        "sec-fetch-site": "none",
        "sec-fetch-dest": "iframe",
        "referer": "https://evil.invalid/",
    },
    "a script": {"sec-fetch-site": "cross-site", "origin": "https://evil.invalid"},
    "a script of an old browser": {"origin": "https://evil.invalid"},
    "a picture of an old browser": {"referer": "https://evil.invalid/page"},
    "a picture of a page on another port": {"referer": "http://127.0.0.1:8000/"},
    "a page without an origin": {"origin": "null"},
    "a page with an origin that is none": {"origin": "http://[::1"},
    "a page with no scheme": {"origin": "127.0.0.1:3000"},
    "a page that puts our name before its own": {"origin": "http://127.0.0.1:3000@evil.invalid"},
    "a page that puts our name into its own": {"origin": "http://127.0.0.1:3000.evil.invalid"},
    "a program on another port": {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8000"},
    "a link of a program on another port": {
        **CLICK,
        "sec-fetch-site": "same-site",
        "sec-fetch-dest": "image",
    },
    "two answers to from where": {"sec-fetch-site": "same-origin, cross-site"},
    "a page of ours with TLS, which we have not": {"origin": "https://127.0.0.1:3000"},
    "a picture of such a page": {"referer": "https://127.0.0.1:3000/page"},
    "a socket": {"origin": "https://evil.invalid", "upgrade": "websocket"},
    "another name for this address": {"host": "evil.invalid:3000", "sec-fetch-site": "same-origin"},
    "another name and nothing else": {"host": "evil.invalid"},
    "no name": {"host": ""},
}
OURS = {
    "curl": {},
    "the UI": {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:3000"},
    "the UI of an old browser": {
        "origin": "http://127.0.0.1:3000",
        "referer": "http://127.0.0.1:3000/runs?x",
    },
    "the UI without a path": {"referer": "http://127.0.0.1:3000"},
    "the address bar": {**CLICK, "sec-fetch-site": "none"},
    "by the name of the machine": {"host": "localhost:3000", "origin": "http://localhost:3000"},
    "by a name in capitals": {"host": "LOCALHOST:3000", "origin": "http://localhost:3000"},
    "by the new protocol": {"host": "[::1]:3000", "origin": "http://[::1]:3000"},
    "on the port of the web": {"host": "localhost", "origin": "http://localhost"},
}
HOSTS_OF_NOBODY = (
    "[::1",
    "[::1]:99999999",
    "[::1]x",
    "[fe80::1%25lo]:3000",
    "[v1.x]:3000",
    "127.0.0.1:port",
    "127.0.0.1:",
    "127.0.0.1:-1",
    "127.0.0.1:٣",
    "127.0.0.1:3000:3000",
    "127.0.0.1 :3000",
    "127.0.0.1, evil.invalid",
    "127.0.0.1\n",
    "127.0.0.1/@evil.invalid",
    "127.0.0.1:3000#",
    "127.0.0.1.",
    "127.1",
    "127.0.0.2",
    "0.0.0.0:3000",
    "localhoſt",
    "localhost.evil.invalid",
    "localhost\x00",
    "evil.invalid@127.0.0.1:3000",
    "127.0.0.1:3000@evil.invalid",
    "http://127.0.0.1:3000",
    "\xff\xfe",
    "x" * 70_000,
)


def headers_of(*pairs: tuple[str, str]) -> Headers:
    """Headers as they came over the wire, several of a name included."""
    return Headers(raw=[(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in pairs])


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_foreign_page_sends_is_foreign(method: str, headers: dict[str, str]) -> None:
    assert sender(method, Headers({**OWN, **headers})) is Sender.FOREIGN


@pytest.mark.parametrize("headers", OURS.values(), ids=OURS)
def test_requests_of_the_ui_and_of_programs_are_own(headers: dict[str, str]) -> None:
    assert sender("GET", Headers({**OWN, **headers})) is Sender.OWN


@pytest.mark.parametrize("host", HOSTS_OF_NOBODY)
def test_another_host_name_is_foreign(host: str) -> None:
    assert sender("GET", headers_of(("host", host))) is Sender.FOREIGN
    origin = headers_of(("host", "127.0.0.1:3000"), ("origin", f"http://{host}"))
    assert sender("GET", origin) is Sender.FOREIGN


NAMED = frozenset({"doceval.example.org", "10.0.0.7", "[fd00::1]"})


@pytest.mark.parametrize(
    "host", ["doceval.example.org", "Doceval.Example.ORG:8443", "10.0.0.7:3000", "[fd00::1]:3000"]
)
def test_a_host_that_the_operator_names_is_own_for_its_own_pages_alone(host: str) -> None:
    assert sender("GET", Headers({"host": host})) is Sender.FOREIGN
    assert sender("GET", Headers({"host": host}), NAMED) is Sender.OWN
    for scheme in ("http", "https"):
        own = Headers({"host": host, "origin": f"{scheme}://{host}"})
        assert sender("POST", own, NAMED) is Sender.OWN
    for origin in ("https://evil.invalid", "null", f"https://{host}.evil.invalid", f"ftp://{host}"):
        assert sender("POST", Headers({"host": host, "origin": origin}), NAMED) is Sender.FOREIGN
    clicked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert sender("GET", Headers({"host": host, **clicked}), NAMED) is Sender.FOREIGN
    assert sender("GET", Headers({"host": host, **CLICK}), NAMED) is Sender.LINK


@pytest.mark.parametrize(
    "host", [*HOSTS_OF_NOBODY, "a.doceval.example.org", "doceval.example.org.evil.invalid"]
)
def test_no_other_host_is_own_where_the_operator_names_some(host: str) -> None:
    assert sender("GET", headers_of(("host", host)), NAMED) is Sender.FOREIGN


def test_the_loopback_stays_own_and_without_tls_where_the_operator_names_hosts() -> None:
    assert sender("GET", Headers(OWN), NAMED) is Sender.OWN
    foreign = Headers({**OWN, "origin": "https://127.0.0.1:3000"})
    assert sender("POST", foreign, NAMED) is Sender.FOREIGN


def test_two_hosts_or_two_origins_are_foreign_even_if_one_is_own() -> None:
    host, origin = ("host", "127.0.0.1:3000"), ("origin", "http://127.0.0.1:3000")
    assert sender("POST", headers_of(host, origin)) is Sender.OWN
    assert sender("POST", headers_of(host, host, origin)) is Sender.FOREIGN
    assert sender("POST", headers_of(host, origin, ("origin", "null"))) is Sender.FOREIGN
    assert sender("POST", headers_of(origin)) is Sender.FOREIGN
    site = ("sec-fetch-site", "same-origin")
    assert sender("POST", headers_of(host, site, ("sec-fetch-site", "cross-site"))) is Sender.FOREIGN


def test_a_link_of_another_page_opens_pages_and_a_form_sends_nothing() -> None:
    assert sender("GET", Headers({**OWN, **CLICK})) is Sender.LINK
    assert sender("HEAD", Headers({**OWN, **CLICK})) is Sender.LINK
    assert sender("POST", Headers({**OWN, **CLICK})) is Sender.FOREIGN
    assert sender("POST", Headers({**OWN, **CLICK, "sec-fetch-site": "none"})) is Sender.FOREIGN
    led = {"sec-fetch-site": "none", "referer": "https://evil.invalid/"}
    assert sender("GET", Headers({**OWN, **CLICK, **led})) is Sender.LINK


def test_only_the_same_origin_or_no_page_is_own_whatever_the_other_headers() -> None:
    sites = [(), ("same-origin",), ("none",), ("same-site",), ("cross-site",), ("",), ("same-origin", "none")]
    origins = [None, "http://127.0.0.1:3000", "http://127.0.0.1:8000", "null", ""]
    referers = [None, "http://127.0.0.1:3000/", "https://evil.invalid/", ""]
    modes, destinations = [None, "navigate", "no-cors", "websocket"], [None, "document", "object", "empty"]
    count = 0
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        for site, origin, referer, mode, dest in product(sites, origins, referers, modes, destinations):
            named = {"origin": origin, "referer": referer, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
            pairs = [(name, value) for name, value in named.items() if value is not None]
            sent_by = sender(
                method,
                headers_of(("host", "127.0.0.1:3000"), *(("sec-fetch-site", one) for one in site), *pairs),
            )
            if origin not in (None, "http://127.0.0.1:3000"):
                assert sent_by is Sender.FOREIGN
            if sent_by is Sender.OWN and site != ("same-origin",):
                assert referer in (None, "http://127.0.0.1:3000/")
                assert (site, mode, dest) == ((), None, None) or (
                    site == ("none",) and referer is None and method in ("GET", "HEAD")
                )
            if sent_by is Sender.LINK:
                assert method in ("GET", "HEAD")
                assert (mode, dest) == ("navigate", "document")
            count += 1
    assert count == 4 * 7 * 5 * 4 * 4 * 4


def test_no_bytes_make_it_fail() -> None:
    chance = random.Random(1)
    names = [b"host", b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-dest", b"sec-fetch-mode"]
    for _ in range(2_000):
        raw = [(name, chance.randbytes(chance.randrange(12))) for name in chance.choices(names, k=5)]
        own = [(b"host", b"[::1]:3000"), (b"origin", b"http://[" + chance.randbytes(3))]
        assert sender("POST", Headers(raw=raw)) is Sender.FOREIGN
        assert sender("POST", Headers(raw=own)) is Sender.FOREIGN


def test_foreign_requests_do_not_reach_the_application() -> None:
    reached = []

    async def page(request: Request) -> PlainTextResponse:
        reached.append(request.url.path)
        return PlainTextResponse("page", headers={"Content-Security-Policy": "default-src 'none'"})

    async def talk(socket: WebSocket) -> None:
        reached.append("socket")
        await socket.accept()
        await socket.close()

    routes = [Route("/", page), WebSocketRoute("/socket", talk)]
    client = TestClient(
        Starlette(routes=routes, middleware=[Middleware(OwnPagesOnly)]), "http://127.0.0.1:3000"
    )
    assert client.get("/").text == "page"
    assert client.get("/", headers=CLICK).text == "page"
    with client.websocket_connect("ws://127.0.0.1:3000/socket"):
        pass
    assert reached == ["/", "/", "socket"]
    assert client.get("/", headers={"origin": "https://evil.invalid"}).status_code == 403
    for headers in ({"origin": "https://evil.invalid"}, CLICK):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("ws://127.0.0.1:3000/socket", headers=headers),
        ):
            pass
    assert reached == ["/", "/", "socket"]


def test_no_answer_can_be_shown_in_a_frame_and_each_keeps_its_own_policy() -> None:
    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("page", headers={"Content-Security-Policy": "default-src 'none'"})

    async def fail(_: Request) -> PlainTextResponse:
        raise ValueError

    app = Starlette(routes=[Route("/", page), Route("/fail", fail)], middleware=[Middleware(OwnPagesOnly)])
    client = TestClient(app, "http://127.0.0.1:3000", raise_server_exceptions=False)
    for path, headers, status in (
        ("/", {}, 200),
        ("/none", {}, 404),
        ("/", {"origin": "null"}, 403),
        ("/fail", {}, 500),
        ("/fail", CLICK, 500),
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
        assert answer.headers.get_list("X-Frame-Options") == ["DENY"]
        assert answer.headers.get_list("Content-Security-Policy")[-1] == "frame-ancestors 'none'"
    assert "default-src 'none'" in client.get("/").headers["Content-Security-Policy"]
