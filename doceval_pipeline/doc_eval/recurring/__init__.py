"""Recurring evaluations: definitions, occurrences, known files, and the series of occurrences."""
