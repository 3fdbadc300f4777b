"""Moves closed batches out of both databases into one file, and back."""
