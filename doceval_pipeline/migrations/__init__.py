"""Upgrades databases to the schema of this version. SQL of tables only.

Each schema has its own Alembic environment and version table, so that both can share one database, also with
Dagster's storage or another program that uses Alembic.
"""
