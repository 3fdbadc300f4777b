"""Dagster's webserver, closed to pages of other sites, and with pages of ours: the reports, and launchpads
that open with a commented example. Run as a module, with the webserver's own arguments.

Dagster takes mutations on a GET, from any page: an address of a picture could start a run. Here a mutation is
a POST, and `/graphql` answers only to the webserver's own pages and to programs.
"""

from typing import Any

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from doceval_pipeline.defs.foreign_pages import OwnPagesOnly, Sender, refuse, sender
from doceval_pipeline.defs.launchpads import show_examples
from doceval_pipeline.defs.report_pages import report_page

# They show any notebook of this machine as a page of the webserver, scripts included. We have none.
NOTEBOOKS = ("/notebook", "/dagit/notebook")
NEEDS_POST = "refused: a GET reads only, send a mutation as a POST\n"


def only_reads(query: str) -> bool:
    """Whether a GraphQL document holds queries alone, whichever of its operations is asked for.

    A document with a mistake counts as one that reads: it is not executed.
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
    """Dagster's webserver with our guard, reports and examples."""

    def build_middleware(self) -> list[Middleware]:
        """Guard before Dagster's own layers."""
        return [Middleware(OwnPagesOnly), *super().build_middleware()]

    def build_graphql_schema(self) -> Any:
        """Put examples into the launchpads of Dagster's schema."""
        schema = super().build_graphql_schema()
        show_examples(schema.graphql_schema)
        return schema

    def build_routes(self) -> list[BaseRoute]:
        """Add reports to Dagster's routes, and leave notebooks out."""
        dagsters: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call] # Dagster's
        # Before Dagster's own, the last of which answers everything.
        own = Route("/reports/{name:path}", self.report_endpoint)
        return [own, *(route for route in dagsters if getattr(route, "path", None) not in NOTEBOOKS)]

    def report_endpoint(self, request: Request) -> Response:
        """Answer with the report of this name."""
        with self.request_context(request) as context:
            return report_page(context.instance, request.method, request.path_params["name"])

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Execute for own pages and programs; refuse links, and mutations on GET."""
        if sender(request.method, request.headers) is not Sender.OWN:
            return refuse()
        if request.method == "GET" and not all(map(only_reads, request.query_params.getlist("query"))):
            return PlainTextResponse(NEEDS_POST, status_code=405, headers={"Allow": "POST"})
        answer: Response = await super().graphql_http_endpoint(request)
        return answer


def main() -> None:
    """Start the webserver, as the command dagster-webserver does."""
    # Dagster has no setting for it; a test sees what an update changes here.
    app.DagsterWebserver = Webserver  # type: ignore[attr-defined] # not exported
    cli.main()  # type: ignore[no-untyped-call] # Dagster's


if __name__ == "__main__":
    main()
