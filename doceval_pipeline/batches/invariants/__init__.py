"""Invariants of both databases: each one is a query that returns the rows that violate it.

The modules group them by subject. `registry` lists all of them in the order of docs/invariants.md,
`runner` executes them, and `audit` reports what they find. Nothing here writes.
"""
