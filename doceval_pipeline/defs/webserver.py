"""Dagster's webserver with protection against other sites' pages, reports, metrics and launchpad examples.

Run as a module, with the webserver's own arguments.

Dagster accepts mutations by GET from any page, so that the URL of an image could start a run. Here mutations
need a POST, and `/graphql` answers only the webserver's own pages and programs.
"""

import sys
from typing import Any

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.config import LOGGING_CONFIG

from doceval_pipeline.defs import json_logs
from doceval_pipeline.defs.cross_site import OwnPagesOnly, Sender, refuse, sender
from doceval_pipeline.defs.launchpads import show_examples
from doceval_pipeline.defs.metrics import Metrics
from doceval_pipeline.defs.report_pages import report_page
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings

# These routes serve any notebook of this machine with its scripts. The project has no notebooks.
NOTEBOOKS = ("/notebook", "/dagit/notebook")
NEEDS_POST = "refused: a GET request can only read: send mutations with POST\n"


def only_reads(query: str) -> bool:
    """Whether all operations of a GraphQL document are queries.

    An invalid document counts as reading only, because it is not executed.
    """
    try:
        document = parse(query)
    except GraphQLError:
        return True
    return all(
        definition.operation is OperationType.QUERY
        for definition in document.definitions
        if isinstance(definition, OperationDefinitionNode)
    )


class Webserver(DagsterWebserver):  # type: ignore[type-arg] # the parameter is Dagster's own
    """Dagster's webserver with protection, report pages, metrics and launchpad examples."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._settings = Settings.from_environment()
        super().__init__(*arguments, **named)

    def build_middleware(self) -> list[Middleware]:
        """Dagster's layers behind the protection against foreign pages."""
        return [Middleware(OwnPagesOnly, own_hosts=self._settings.ui_hosts), *super().build_middleware()]

    def build_graphql_schema(self) -> Any:
        """Dagster's schema with the launchpad examples."""
        schema = super().build_graphql_schema()
        show_examples(schema.graphql_schema)
        return schema

    def build_routes(self) -> list[BaseRoute]:
        """Dagster's routes without notebooks, and those of the reports and metrics."""
        dagsters: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call] # Dagster's
        # Before Dagster's routes, the last of which matches every path.
        own = [
            Route("/reports/{name:path}", self.report_endpoint),
            Route("/metrics", Metrics(self._settings).endpoint),
        ]
        return [*own, *(route for route in dagsters if getattr(route, "path", None) not in NOTEBOOKS)]

    def report_endpoint(self, request: Request) -> Response:
        """The report page of the requested name."""
        with self.request_context(request) as context:
            return report_page(context.instance, request.method, request.path_params["name"])

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Execute requests of own pages and programs; refuse links, and mutations by GET."""
        if sender(request.method, request.headers, self._settings.ui_hosts) is not Sender.OWN:
            return refuse()
        if request.method == "GET" and not all(map(only_reads, request.query_params.getlist("query"))):
            return PlainTextResponse(NEEDS_POST, status_code=405, headers={"Allow": "POST"})
        answer: Response = await super().graphql_http_endpoint(request)
        return answer


def main() -> None:
    """Start the webserver as the command dagster-webserver does."""
    try:
        _ = Settings.from_environment().ui_hosts
        json_logs.install()
        json_logs.of_uvicorn(LOGGING_CONFIG)
    except ConfigurationError as error:
        sys.exit(str(error))
    # Dagster has no setting for this; a test detects changes in updates.
    app.DagsterWebserver = Webserver  # type: ignore[attr-defined] # not exported
    cli.main()  # type: ignore[no-untyped-call] # Dagster's


if __name__ == "__main__":
    main()
