"""Trackers: a run's history in MLflow and TensorBoard."""
