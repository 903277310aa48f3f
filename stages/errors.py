"""Errors of the stages that handle data. Must not import Paddle or Prefect."""

from hubflow.schemas.errors import HubflowError


class DataError(HubflowError):
    """A source of rows is missing or cannot be read; the message names the file, the row and what to do."""


class EmptyError(DataError):
    """A source has no rows."""
