"""Reads and applies evaluation files: connections, prompts, batches and recurring evaluations."""
