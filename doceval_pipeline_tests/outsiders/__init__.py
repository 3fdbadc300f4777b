"""Programs and accounts of others: Firefox, PgBouncer, Debian's PostgreSQL, a user without a name.

`make test-outsiders` runs them. They need Debian's packages `firefox-esr`, `pgbouncer` and
`postgresql`; a test that misses one fails and names it.
"""
