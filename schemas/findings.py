"""What checks of data find, and what is to be done about it. Must not import Paddle or Prefect."""

from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.base import Policy
from hubflow.schemas.references import Split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Finding", "Observer", "Policy"]


class Finding(BaseModel):
    """One fault of a data set as a whole, or of the splits against each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    check: str = Field(description="Name of the check, as the settings have it")
    policy: Policy = Field(description="warn: said and written down; fail: the stage fails once the report is published")
    splits: tuple[Split, ...]
    count: int = Field(ge=0, description="How many rows, labels or values it concerns")
    message: str = Field(description="What was expected, what was found, what to do")
    examples: tuple[str, ...] = Field((), max_length=5, description="The first few, with their row numbers")


class Observer(Protocol):
    """Sees every accepted row once, chunk by chunk, in bounded memory, and says what it found."""

    def add(self, split: Split, rows: "pd.DataFrame") -> None:
        """Take a chunk of the rows of `split`, in the order of the file."""

    def findings(self) -> list[Finding]:
        """What is to be said once every row has been seen."""
