"""The pages `/reports/<name>` of the webserver: reports, series and leaderboards of this installation.

A report contains text of models and of documents. Besides its own policy, the response has a policy that
gives the page no origin: scripts in it cannot reach the webserver and cannot load anything.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO

import dagster as dg
from dagster_postgres.utils import DagsterPostgresException
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from doceval_pipeline.batches.databases import database_errors, open_databases
from doceval_pipeline.batches.results.report_files import (
    batch_of_report,
    is_page_of_leaderboard,
    is_page_of_series,
    open_report,
)
from doceval_pipeline.defs import leaderboard, series
from doceval_pipeline.defs.reporting import was_rendered
from doceval_pipeline.doc_eval.batches import batch_by_id, partition_key
from doceval_pipeline.errors import DocEvalError, FileError, UnknownBatch, UnknownRecurring
from doceval_pipeline.settings import Settings

PORTION = 256 * 1024
HEADERS = {
    # Style sheet and script are inline; the page's own policy allows them by their digests.
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
UNKNOWN_SERIES = (
    "this installation has no series page of this name: doceval recurring report NAME writes the newest one"
)
UNKNOWN_LEADERBOARD = (
    "this installation has no leaderboard of this name: doceval leaderboard --open writes the newest one"
)
UNKNOWN = (
    "this installation has no report of this name: doceval open BATCH opens the newest report of a batch"
)


def report_page(instance: dg.DagsterInstance, method: str, name: str) -> Response:
    """The response to a GET or HEAD request for a report by its file name; errors are one line of text.

    Parameters
    ----------
    instance
        Dagster's instance, whose history has the reports of this installation.
    """
    try:
        report = _opened(instance, name)
    except UnknownBatch:
        return _refusal(404, UNKNOWN)
    except (UnknownRecurring, FileError) as error:
        return _refusal(404, str(error))
    except DocEvalError as error:
        return _refusal(503, str(error))
    except DagsterPostgresException:
        return _refusal(503, "Dagster's database does not answer: try again when it runs")
    headers = {**HEADERS, "Content-Length": str(os.fstat(report.fileno()).st_size)}
    if method == "HEAD":
        report.close()
        return Response(media_type="text/html", headers=headers)
    return StreamingResponse(_portions(report), media_type="text/html", headers=headers)


def _opened(instance: dg.DagsterInstance, name: str) -> BinaryIO:
    if is_page_of_series(name):
        return _opened_series(instance, name)
    if is_page_of_leaderboard(name):
        return _opened_leaderboard(instance, name)
    batch_id = batch_of_report(name)
    if batch_id is None:
        raise UnknownBatch(UNKNOWN)
    with database_errors():
        databases = open_databases(Settings.from_environment())
        with databases.doc_eval.connect() as connection:
            batch_by_id(connection, batch_id)
        if not was_rendered(instance, partition_key(batch_id), name):
            raise UnknownBatch(UNKNOWN)
    return open_report(databases, f"doceval report {batch_id}", name)


def _opened_series(instance: dg.DagsterInstance, name: str) -> BinaryIO:
    if not series.was_written(instance, name):
        raise UnknownRecurring(UNKNOWN_SERIES)
    return open_report(open_databases(Settings.from_environment()), "doceval recurring report NAME", name)


def _opened_leaderboard(instance: dg.DagsterInstance, name: str) -> BinaryIO:
    if not leaderboard.was_written(instance, name):
        raise FileError(UNKNOWN_LEADERBOARD)
    return open_report(open_databases(Settings.from_environment()), "doceval leaderboard --open", name)


def _portions(report: BinaryIO) -> Iterator[bytes]:
    with closing(report):
        while portion := report.read(PORTION):
            yield portion


def _refusal(status: int, line: str) -> Response:
    return PlainTextResponse(f"{line}\n", status_code=status, headers=HEADERS)
