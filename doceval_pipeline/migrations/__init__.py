"""Brings a database to the schema this version of the package needs. SQL of the tables only.

Each database has its own Alembic environment and its own version table, so that the two may share
one database, also with Dagster's storage or with another program that uses Alembic.
"""
