"""What the embedded server is started and reached with, whatever this process's environment says.

libpq takes a parameter that is not given from a variable of the environment: PGPORT, PGHOSTADDR, PGOPTIONS
and others, which are meant for other servers. PostgreSQL's programs read some, and the locale, too.
"""

import os
import re

# Each parameter that has a variable, with what a connection to a socket without a password needs.
CONNECTION = {
    "user": "postgres",
    # Given, so that no password file is read. It is sent to nobody: see require_auth.
    "password": "unused",
    "require_auth": "none",
    "port": "5432",
    "hostaddr": "",
    "options": "",
    "client_encoding": "UTF8",
    "application_name": "doceval",
    "connect_timeout": "10",
    "channel_binding": "disable",
    "gssencmode": "disable",
    "load_balance_hosts": "disable",
    "requirepeer": "",
    "ssl_max_protocol_version": "",
    "ssl_min_protocol_version": "",
    "sslcertmode": "disable",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "target_session_attrs": "any",
}
# What no parameter can overrule. A definition in a service's file counts for servers of one's own only
# where none of the databases is on the embedded server; our sessions set their formats themselves.
_WITHOUT_PARAMETER = ("PGSERVICE", "PGDATESTYLE", "PGTZ", "PGGEQO")
# The loader's, without which an interpreter that was built in an unusual place may not start.
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


def is_libpq_variable(name: str) -> bool:
    """Whether libpq takes what an environment variable of this name says for a parameter or a setting."""
    return re.fullmatch(r"PG[A-Z]+|PGCONNECT_TIMEOUT", name) is not None


def drop_foreign_variables() -> None:
    """Remove from this process's environment what would reach every server, whatever a connection says."""
    for name in _WITHOUT_PARAMETER:
        os.environ.pop(name, None)


def program_environment() -> dict[str, str]:
    """The environment of PostgreSQL's own programs: nothing of the user's that they would read."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC", **kept}


def quoted(value: str) -> str:
    """A text as a value in postgresql.conf."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
