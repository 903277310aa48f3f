"""The version of hubflow that is installed."""

from importlib.metadata import version

__version__ = version("hubflow")
