"""Settings of the report of a run. Must not import Paddle or Prefect."""

from pydantic import Field

from hubflow.schemas.base import Settings
from hubflow.schemas.urls import LinkBase


class ReportSettings(Settings):
    """What the report shows, and where it is read."""

    explained_mistakes: int = Field(
        5,
        ge=0,
        description="Text classification: in how many mistakes the words that led to them are marked; costs up to 33 "
        "predictions each",
    )
    base_url: LinkBase | None = Field(
        None,
        description="Where the store's folder is served, so that Prefect's link to the report can be followed",
    )
