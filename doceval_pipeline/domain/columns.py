"""Columns of a batch: a connection with a prompt."""

Column = tuple[int, int]
"""A connection and a prompt, by their ids."""
