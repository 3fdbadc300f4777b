"""Moves closed batches from both databases into one file, and back."""
