"""The server that the tests here stand on is what they take it for."""

import pytest

from doceval_pipeline_tests.outsiders.debian_server import DebianServer

pytestmark = pytest.mark.outsiders


def test_it_is_of_another_major_version_and_asks_for_a_password(debian_server: DebianServer) -> None:
    assert int(debian_server.execute("SHOW server_version_num")[0][0]) // 10000 != 18
    debian_server.make_login("somebody")
    debian_server.make_database("theirs", owner="somebody", encoding="LATIN1")
    assert debian_server.execute(
        "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user", "theirs", "somebody"
    ) == [("somebody", False)]
    assert debian_server.execute("SHOW server_encoding", "theirs") == [("LATIN1",)]
