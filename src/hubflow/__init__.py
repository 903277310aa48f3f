"""hubflow: fine-tuning pipeline stages over Paddle static programs."""

from importlib.metadata import version

__version__ = version("hubflow")
