"""Parameters and environment of the embedded server, independent of this process's environment.

libpq takes missing parameters from environment variables such as PGPORT, PGHOSTADDR and PGOPTIONS, which are
meant for other servers. PostgreSQL's programs read some of them and the locale, too.
"""

import os
import re

# Every parameter with an environment variable, set for a connection to a socket without a password.
CONNECTION = {
    "user": "postgres",
    # Set so that no password file is read. It is never sent: see require_auth.
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
# No parameter overrides these. A service file is used for the user's own servers only if none of the
# databases is on the embedded server. Sessions of the pipeline set their formats themselves.
_WITHOUT_PARAMETER = ("PGSERVICE", "PGDATESTYLE", "PGTZ", "PGGEQO")
# Library paths of the loader, which a Python interpreter in an unusual location may need to start.
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


def is_libpq_variable(name: str) -> bool:
    """Whether libpq reads an environment variable of this name."""
    return re.fullmatch(r"PG[A-Z]+|PGCONNECT_TIMEOUT", name) is not None


def drop_foreign_variables() -> None:
    """Remove variables from this process's environment that no connection parameter can override."""
    for name in _WITHOUT_PARAMETER:
        os.environ.pop(name, None)


def program_environment() -> dict[str, str]:
    """The environment of PostgreSQL's programs, without variables of the user that they would read."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC", **kept}


def quoted(value: str) -> str:
    """A text quoted as a value in postgresql.conf."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
