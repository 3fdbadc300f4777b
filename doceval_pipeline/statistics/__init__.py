"""Statistics without I/O: inference about scores, and estimates of work to come."""
