"""Stages batches of documents for evaluation by LLMs and reports the results."""
