"""Definitions of connections, prompts, batches and recurring evaluations: reads and applies them."""
