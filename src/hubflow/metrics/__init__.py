"""Metrics: streaming sums over rows, exact metrics, bootstrap and intervals."""
