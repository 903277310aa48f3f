"""hubflow: fine-tuning pipeline stages over Paddle static programs; importing it imports neither Paddle nor Prefect."""

from importlib.metadata import version

__version__ = version("hubflow")
