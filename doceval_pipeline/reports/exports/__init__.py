"""Export formats for the results of a batch. Does not access databases."""
