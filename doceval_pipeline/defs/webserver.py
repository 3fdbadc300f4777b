"""Dagster's webserver, closed to pages of other sites, and with pages of ours: the reports, and launchpads
that open with a commented example. Run as a module, with the webserver's own arguments.

The webserver has no authentication, and changes things on a GET: any page that is open in a browser on
this machine could start a run by naming the address of a picture. A browser says from where a request
comes and to which name it goes, and a page cannot make it lie. Whoever is no browser needs no such page.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# A name of another machine for this address is the trick of a page that wants to be taken for ours.
OWN_NAMES = ("127.0.0.1", "localhost", "::1")
REFUSAL = "refused: this request came from a page of another site, or by another name than 127.0.0.1\n"


def is_foreign(method: str, headers: Headers) -> bool:
    """Whether a browser sent this on behalf of a page that is not the webserver's own."""
    host = headers.get("host", "")
    if urlsplit(f"//{host}").hostname not in OWN_NAMES:
        return True
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        # A link to one of our pages is no harm: opening a page changes nothing, unless a form is sent.
        return headers.get("sec-fetch-mode") != "navigate" or method != "GET"
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != host


class OwnPagesOnly:
    """Answers requests of foreign pages with 403, and closes their sockets."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Hand on what is ours."""
        if scope["type"] == "lifespan" or not is_foreign(scope.get("method", "GET"), Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": REFUSAL.strip()})
        else:
            await PlainTextResponse(REFUSAL, status_code=403)(scope, receive, send)


def main() -> None:
    """Start the webserver, as the command dagster-webserver does."""
    from dagster_webserver import app, cli
    from dagster_webserver.webserver import DagsterWebserver

    from doceval_pipeline.defs.launchpads import show_examples
    from doceval_pipeline.defs.report_pages import report_page

    class Webserver(DagsterWebserver):  # type: ignore[type-arg] # the parameter is Dagster's own
        def build_middleware(self) -> list[Middleware]:
            return [Middleware(OwnPagesOnly), *super().build_middleware()]

        def build_graphql_schema(self) -> Any:
            schema = super().build_graphql_schema()
            show_examples(schema.graphql_schema)
            return schema

        def build_routes(self) -> list[BaseRoute]:
            # Before Dagster's own, the last of which answers everything.
            own = Route("/reports/{name:path}", self.report_endpoint)
            return [own, *super().build_routes()]  # type: ignore[no-untyped-call] # Dagster's

        def report_endpoint(self, request: Request) -> Response:
            with self.request_context(request) as context:
                return report_page(context.instance, request.method, request.path_params["name"])

    # Dagster has no setting for it; a test sees what an update changes here.
    app.DagsterWebserver = Webserver  # type: ignore[attr-defined] # not exported
    cli.main()  # type: ignore[no-untyped-call] # Dagster's


if __name__ == "__main__":
    main()
