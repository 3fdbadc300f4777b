"""Pages of another site that try everything a browser sends to make Dagster's webserver change something.

Two webservers get the same requests: ours, and Dagster's own, which shows that an attempt is one. Both run in
this process on an instance of their own, and note each request before they look at it.
"""
# ruff: noqa: E501 # an element is read best in one line

import asyncio
import contextlib
import html
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.webserver import DagsterWebserver

from doceval_pipeline.defs.webserver import Webserver

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The only attempt that is none: it leads to a page, as a link in a mail does.
OPENED = "page in a window"
# $url asks for a mutation by GET, and $socket through a socket; $mutation is the mutation as text for a form of
# $action. $page is a page of Dagster's, which changes nothing.
ELEMENTS = {
    # elements that load
    "object": '<object data="$url"></object>',
    "object as svg": '<object data="$url" type="image/svg+xml"></object>',
    "embed": '<embed src="$url">',
    "embed as svg": '<embed src="$url" type="image/svg+xml">',
    "iframe": '<iframe src="$url"></iframe>',
    "iframe sandboxed": '<iframe sandbox="allow-scripts" src="$url"></iframe>',
    "iframe srcdoc": "<iframe srcdoc='<img src=\"$url\">'></iframe>",
    "iframe without origin": "<iframe sandbox srcdoc='<img src=\"$url\">'></iframe>",
    "iframe of data": "<iframe src='data:text/html,<object data=\"$data\"></object>'></iframe>",
    "img": '<img src="$url">',
    "img without referrer": '<img src="$url" referrerpolicy="no-referrer">',
    "img crossorigin": '<img src="$url" crossorigin="use-credentials">',
    "img srcset": '<img srcset="$url 1x">',
    "picture": '<picture><source srcset="$url"><img></picture>',
    "input image": '<input type="image" src="$url">',
    "script": '<script src="$url"></script>',
    "script module": '<script type="module" src="$url"></script>',
    "import": '<script>import("$url").catch(() => 0)</script>',
    "video": '<video src="$url" autoplay muted></video>',
    "video poster": '<video poster="$url"></video>',
    "audio": '<audio src="$url" preload="auto"></audio>',
    "source": '<audio preload="auto"><source src="$url"></audio>',
    "track": '<video src="/nothing" crossorigin><track default kind="subtitles" src="$url"></video>',
    "svg image": '<svg><image href="$url" /></svg>',
    "svg feImage": '<svg><filter id="f"><feImage href="$url" /></filter><rect width="9" height="9" filter="url(#f)" /></svg>',
    "background": '<table background="$url"><tr><td>x</table>',
    # links
    "link stylesheet": '<link rel="stylesheet" href="$url">',
    "link icon": '<link rel="icon" href="$url">',
    "link preload": '<link rel="preload" as="image" href="$url">',
    "link preload fetch": '<link rel="preload" as="fetch" crossorigin href="$url">',
    "link modulepreload": '<link rel="modulepreload" href="$url">',
    "link prefetch": '<link rel="prefetch" href="$url">',
    "link prefetch document": '<link rel="prefetch" as="document" href="$url">',
    "link prerender": '<link rel="prerender" href="$url">',
    "link manifest": '<link rel="manifest" href="$url">',
    "speculation prefetch": '<script type="speculationrules">{"prefetch": [{"urls": ["$url"], "eagerness": "immediate"}]}</script>',
    "speculation prerender": '<script type="speculationrules">{"prerender": [{"urls": ["$url"], "eagerness": "immediate"}]}</script>',
    # style
    "css url": '<div style="background: url($url)">x</div>',
    "css import": '<style>@import "$url";</style>',
    "css font": '<style>@font-face {font-family: "$name"; src: url($url)}</style><p style="font-family: \'$name\'">x</p>',
    "css content": '<style>#c::before {content: url($url)}</style><p id="c">x</p>',
    "css mask": '<p style="mask-image: url($url)">x</p>',
    "css list": '<ul style="list-style-image: url($url)"><li>x</ul>',
    # scripts
    "fetch": '<script>fetch("$url").catch(() => 0)</script>',
    "fetch no-cors": '<script>fetch("$url", {mode: "no-cors", credentials: "include"}).catch(() => 0)</script>',
    "fetch post": '<script>fetch("$url", {mode: "no-cors", method: "POST", body: "x"}).catch(() => 0)</script>',
    "fetch json": '<script>fetch("$action?attempt=$name", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"}).catch(() => 0)</script>',
    "fetch without referrer": '<script>fetch("$url", {mode: "no-cors", referrerPolicy: "no-referrer"}).catch(() => 0)</script>',
    "fetch keepalive": '<script>fetch("$url", {mode: "no-cors", keepalive: true}).catch(() => 0)</script>',
    "xhr": '<script>{let x = new XMLHttpRequest(); x.open("GET", "$url"); x.send()}</script>',
    "xhr post": '<script>{let x = new XMLHttpRequest(); x.open("POST", "$url"); x.send("x")}</script>',
    "beacon": '<script>navigator.sendBeacon("$url", "x")</script>',
    "event source": '<script>new EventSource("$url")</script>',
    "worker": "<script>new Worker(URL.createObjectURL(new Blob(['importScripts(\"$url\")'])))</script>",
    "worker fetch": '<script>new Worker(URL.createObjectURL(new Blob([\'fetch("$url", {mode: "no-cors"})\'])))</script>',
    "websocket": '<script>new WebSocket("$socket")</script>',
    "ping": '<a id="ping" href="#" ping="$url">x</a><script>document.getElementById("ping").click()</script>',
    # of the foreign server
    "redirect": '<img src="/redirect?code=302&to=$quoted">',
    "redirect object": '<object data="/redirect?code=302&to=$quoted"></object>',
    "redirect post": '<script>fetch("/redirect?code=307&to=$quoted", {method: "POST", mode: "no-cors"}).catch(() => 0)</script>',
    "report": '<iframe src="/policy?to=$quoted"></iframe>',
    "preload header": '<iframe src="/preload?to=$quoted"></iframe>',
    "refresh header": '<iframe src="/refresh?to=$quoted"></iframe>',
    # forms and windows
    "form get": '<iframe name="fg"></iframe><form target="fg" action="$action"><input name="query" value="$mutation"></form>',
    "form post": '<iframe name="fp"></iframe><form target="fp" method="post" action="$url"><input name="query" value="$mutation"></form>',
    "form text": '<iframe name="ft"></iframe><form target="ft" method="post" enctype="text/plain" action="$url"></form>',
    "form multipart": '<iframe name="fm"></iframe><form target="fm" method="post" enctype="multipart/form-data" action="$url"></form>',
    "form post to a window": '<form target="_blank" method="post" action="$url"></form>',
    "form get to a window": '<form target="_blank" action="$action"><input name="query" value="$mutation"></form>',
    "frame": '<iframe src="/frames?to=$quoted"></iframe>',
    "meta refresh": '<iframe srcdoc=\'<meta http-equiv="refresh" content="0;url=$url">\'></iframe>',
    "window": '<script>window.open("$url")</script>',
    "window without opener": '<script>window.open("$url", "_blank", "noopener,noreferrer")</script>',
    "window that refreshes": '<script>window.open("/refresh?to=$quoted")</script>',
    "window that is redirected": '<script>window.open("/redirect?code=302&to=$quoted")</script>',
    "window that goes": '<script>window.open("/goes?to=$quoted")</script>',
    "link": '<a id="link" target="_blank" href="$url">x</a><script>document.getElementById("link").click()</script>',
    "download": "<iframe srcdoc='<a download href=\"$url\">x</a><script>document.links[0].click()</script>'></iframe>",
    # pages
    "page in a frame": '<iframe src="$page"></iframe>',
    "page in an object": '<object data="$page"></object>',
    OPENED: '<script>window.open("$page")</script>',
}
HOSTS = ("127.0.0.1", "localhost")
PAGE = (
    "<!doctype html><title>harmless</title><body>{}<script>for (let f of document.forms) f.submit()</script>"
)


@dataclass
class Attempt:
    """A request that a webserver got, and its answer's status; 0 for an open socket."""

    headers: dict[str, str]
    method: str
    status: int | None = None


class Noting:
    """Notes each request, those that carry the name of an attempt by it, and how they are answered."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app
        self.attempts: dict[str, list[Attempt]] = {}
        self.own: list[Attempt] = []
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attempt = Attempt(headers, scope.get("method", "socket"))

        async def noting(message: "Message") -> None:
            statuses = {"websocket.accept": 0, "websocket.close": 403}
            if attempt.status is None:
                attempt.status = message.get("status", statuses.get(message["type"]))
            await send(message)

        if headers.get("sec-fetch-site") == "same-origin":
            self.own.append(attempt)
        for name in _named(scope["query_string"].decode("latin-1")):
            self.attempts.setdefault(name, []).append(attempt)
        if scope["type"] == "websocket":
            return await self._app(scope, receive, noting)
        # The instance is in SQLite, which does not like thirty writers at once.
        async with self._one_at_a_time:
            return await self._app(scope, receive, noting)


def _named(query: str) -> list[str]:
    parameters = parse_qs(query)
    mutations = [one.split('"')[1] for one in parameters.get("query", ()) if '"' in one]
    return mutations + parameters.get("attempt", [])


@dataclass
class Target:
    """A webserver that the pages aim at."""

    port: int
    noting: Noting
    instance: dg.DagsterInstance

    def changes(self) -> set[str]:
        """Names of the attempts whose mutation was executed."""
        return set(self.instance.event_log_storage.get_concurrency_keys())


@contextmanager
def target(folder: Path, webserver: type[DagsterWebserver] = Webserver) -> "Iterator[Target]":  # type: ignore[type-arg]
    """A webserver on a port of loopback, with an empty workspace and an instance in the folder."""
    folder.mkdir()
    with (
        dg.DagsterInstance.local_temp(str(folder)) as instance,
        WorkspaceProcessContext(instance, workspace_load_target=EmptyWorkspaceTarget()) as context,
    ):
        noting = Noting(webserver(context).create_asgi_app())
        server = uvicorn.Server(uvicorn.Config(noting, "127.0.0.1", 0, log_level="critical"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield Target(server.servers[0].sockets[0].getsockname()[1], noting, instance)
        server.should_exit = server.force_exit = True
        thread.join(30)


@dataclass
class Site:
    """A web server of somebody else on this machine, whose start page tries elements."""

    tries: list[tuple[Target, Collection[str]]]
    port: int = 0

    def addresses(self) -> list[str]:
        """Its start page by each name: on another port of the target's host, and on another host."""
        return [f"http://{host}:{self.port}/" for host in HOSTS]

    def page(self, host: str) -> str:
        """The start page, as it is under a host's name."""
        return PAGE.format(
            "".join(
                _element(element, f"{element} of {host}", target.port)
                for target, elements in self.tries
                for element in elements
            )
        )


def _element(element: str, name: str, port: int) -> str:
    action = f"http://127.0.0.1:{port}/graphql"
    mutation = f'mutation {{ setConcurrencyLimit(concurrencyKey: "{name}", limit: 1) }}'
    url = f"{action}?query={quote(mutation, safe='')}"
    places = {
        "url": url,
        "quoted": quote(url, safe=""),
        "data": quote(url, safe=":/"),
        "action": action,
        "page": f"http://127.0.0.1:{port}/runs?attempt={quote(name)}",
        "mutation": html.escape(mutation),
        "name": quote(name),
        "socket": url.replace("http:", "ws:"),
    }
    text = Template(ELEMENTS[element]).substitute(places)
    for identifier in ("ping", "link", "fg", "fp", "ft", "fm"):
        for quoted in (f'"{identifier}"', f'"#{identifier}"'):
            text = text.replace(quoted, quoted.replace(identifier, f"{identifier}{port}"))
    return text


def names(*elements: str) -> set[str]:
    """Names of the attempts of elements, from each host."""
    return {f"{element} of {host}" for element in elements for host in HOSTS}


def judge(
    ours: Target, dagsters: Target, sent: set[str], executed: set[str], wait: Callable[[], None]
) -> None:
    """Wait for the attempts, and see that ours refused each and Dagster's own webserver executed some.

    Parameters
    ----------
    sent
        Elements that the browser does send requests for.
    executed
        Elements by which Dagster's own webserver is made to execute the mutation.
    wait
        Waits a moment.
    """
    deadline = time.monotonic() + 120
    while missing := _missing(ours, sent) | (names(*executed) - dagsters.changes()):
        assert time.monotonic() < deadline, f"not sent or not executed: {sorted(missing)}"
        wait()
    for name, attempts in ours.noting.attempts.items():
        expected = 200 if name in names(OPENED) else 403
        assert {attempt.status for attempt in attempts} == {expected}, name
    assert ours.changes() == set()


def _missing(ours: Target, sent: set[str]) -> set[str]:
    answered = {
        name
        for name, attempts in ours.noting.attempts.items()
        if all(attempt.status is not None for attempt in attempts)
    }
    return names(*sent) - answered


@contextmanager
def site(*tries: tuple[Target, Collection[str]]) -> Iterator[Site]:
    """The foreign site, on a port of loopback: what it aims at, each with its elements."""
    foreign = Site(list(tries))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            to = parse_qs(address.query).get("to", [""])[0]
            code, headers, page = 200, {}, "<!doctype html>"
            match address.path:
                case "/":
                    page = foreign.page(str(self.headers["Host"]).split(":")[0])
                case "/redirect":
                    code, headers = int(parse_qs(address.query)["code"][0]), {"Location": to}
                case "/refresh":
                    headers = {"Refresh": f"0;url={to}"}
                case "/preload":
                    headers = {"Link": f"<{to}>; rel=preload; as=image"}
                case "/policy":
                    headers = {"Content-Security-Policy": f"img-src 'none'; report-uri {to}"}
                    page = '<img src="/nothing">'
                case "/frames":
                    page = f'<frameset cols="*"><frame src="{html.escape(to)}"></frameset>'
                case "/goes":
                    page = f"<script>location.replace({json.dumps(to)})</script>"
                case _:
                    code = 404
            self.send_response(code)
            for name, value in {**headers, "Content-Type": "text/html"}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(page.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at what the targets noted."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        foreign.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield foreign
        server.shutdown()
