"""The results of batches: the input of the report, comparisons, exports, the leaderboard and checks."""
