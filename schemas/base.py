"""What all settings share. Must not import Paddle or Prefect."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Policy = Literal["ignore", "warn", "fail"]
"""What is done about a fault: nothing, it is said and written down, or the stage fails."""


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")
