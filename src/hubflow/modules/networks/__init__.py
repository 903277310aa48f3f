"""The networks that modules are made of, built into static programs."""

from hubflow.runtime import paddle_import as _runtime  # noqa: F401 - before anything here imports Paddle
