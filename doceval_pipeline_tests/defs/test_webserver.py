"""Pages of other sites that are open in a browser on this machine can make the webserver do nothing."""

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from doceval_pipeline.defs.webserver import OwnPagesOnly, is_foreign

OWN = {"host": "127.0.0.1:3000"}
FOREIGN = {
    "a picture": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    "a script": {"sec-fetch-site": "cross-site", "origin": "https://evil.invalid"},
    "a script of an old browser": {"origin": "https://evil.invalid"},
    "a page without an origin": {"origin": "null"},
    "a program on another port": {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8000"},
    "a socket": {"origin": "https://evil.invalid", "upgrade": "websocket"},
    "another name for this address": {"host": "evil.invalid:3000", "sec-fetch-site": "same-origin"},
    "another name and nothing else": {"host": "evil.invalid"},
    "no name": {"host": ""},
}
OURS = {
    "curl": {},
    "the UI": {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:3000"},
    "the UI of an old browser": {"origin": "http://127.0.0.1:3000"},
    "the address bar": {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
    "by the name of the machine": {"host": "localhost:3000", "origin": "http://localhost:3000"},
    "by the new protocol": {"host": "[::1]:3000", "origin": "http://[::1]:3000"},
    "a link from another page": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_foreign_page_sends_is_foreign(method: str, headers: dict[str, str]) -> None:
    assert is_foreign(method, Headers({**OWN, **headers}))


@pytest.mark.parametrize("headers", OURS.values(), ids=OURS)
def test_what_the_ui_and_programs_send_is_not(headers: dict[str, str]) -> None:
    assert not is_foreign("GET", Headers({**OWN, **headers}))


def test_a_form_of_another_page_is_foreign() -> None:
    headers = {**OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert is_foreign("POST", Headers(headers))


def test_what_is_foreign_does_not_reach_the_application() -> None:
    reached = []

    async def page(request: Request) -> PlainTextResponse:
        reached.append(request.url.path)
        return PlainTextResponse("page")

    async def talk(socket: WebSocket) -> None:
        reached.append("socket")
        await socket.accept()
        await socket.close()

    routes = [Route("/", page), WebSocketRoute("/socket", talk)]
    client = TestClient(
        Starlette(routes=routes, middleware=[Middleware(OwnPagesOnly)]), "http://127.0.0.1:3000"
    )
    assert client.get("/").text == "page"
    with client.websocket_connect("ws://127.0.0.1:3000/socket"):
        pass
    assert reached == ["/", "socket"]
    assert client.get("/", headers={"origin": "https://evil.invalid"}).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("ws://127.0.0.1:3000/socket", headers={"origin": "https://evil.invalid"}),
    ):
        pass
    assert reached == ["/", "socket"]
