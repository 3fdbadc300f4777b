"""The network between staging and the server is cut at any byte, in either direction."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.faults.environment import Environment, State
from doceval_pipeline_tests.faults.proxy import CuttingProxy
from doceval_pipeline_tests.faults.sizes import SEED, short_and_full

# So many times a line of about 12 bytes: documents of up to 24 kB, so that most bytes are contents.
COPIES = 200


@pytest.fixture
def proxy(environment: Environment) -> Iterator[CuttingProxy]:
    sockets = EmbeddedServer(environment.databases.settings.home).sockets
    made = CuttingProxy(sockets / ".s.PGSQL.5432")
    yield made
    made.close()


@pytest.fixture
def far(environment: Environment, proxy: CuttingProxy) -> Iterator[Databases]:
    """The same databases, behind the proxy."""
    url = f"postgresql+psycopg2://postgres@127.0.0.1:{proxy.port}"
    opened = open_databases(
        replace(
            environment.databases.settings,
            doc_eval_url=f"{url}/doc_eval",
            knowledge_documents_url=f"{url}/KnowledgeDocuments",
        )
    )
    yield opened
    opened.doc_eval.dispose()
    opened.knowledge.dispose()


def require_recovery(environment: Environment, batch: Sample, state: State) -> None:
    batch.stage()
    environment.require(batch, state)


def staged(batch: Sample) -> str | None:
    """Stage a batch; gives the line that people are told, if it fails."""
    try:
        batch.stage()
    except DatabaseError as error:
        return str(error)
    return None


@short_and_full("cuts", (25,), (1_000,))
def test_a_cut_connection_leaves_nothing_partial_and_nothing_twice(
    environment: Environment, proxy: CuttingProxy, far: Databases, cuts: int
) -> None:
    batch = environment.new_batch(copies=COPIES)
    proxy.reset()
    replace(batch, databases=far).stage()
    state, size = environment.state(batch), proxy.passed
    environment.require(batch, state)
    assert size["to the server"] > 150_000, "the documents went through the proxy"
    chance, cut = random.Random(SEED), 0
    batch = environment.new_batch(copies=COPIES)
    while cut < cuts:
        direction = chance.choice(list(size))
        proxy.cut_after(direction, chance.randrange(size[direction]), for_good=chance.random() < 0.5)
        failure = staged(replace(batch, databases=far))
        if failure is None:
            assert environment.state(batch) == state, "what is said to be done is done"
        else:
            assert proxy.has_cut
            assert "\n" not in failure
        cut += proxy.has_cut
        if failure is None or cut % 4 == 0:
            require_recovery(environment, batch, state)
            batch = environment.new_batch(copies=COPIES)
