"""Creates batches and their work: applying, planning, the four steps of staging, rescanning, reprocessing."""
