"""Creates batches and their work: apply, plan, the four steps of staging, rescan, reprocess."""
