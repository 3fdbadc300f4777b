"""Benchmarks of the pipeline: each compares work with a yardstick on the same server, in turn.

`python -m benchmarks` (`make bench`) runs them. They measure public functions of
`doceval_pipeline`, called as Dagster's assets and sensors call them. The results are in
docs/performance.md. Nothing here is part of the installed package.
"""

import warnings

# Dagster's notice to developers would appear between the figures.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec")
