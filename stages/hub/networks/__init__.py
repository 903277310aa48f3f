"""The networks that modules are made of, built into static programs."""

from hubflow.stages.hub import runtime as _runtime  # noqa: F401 - before anything here imports Paddle
