"""The deployed pointer: which export is in use under a name, and how that came about. Must not import Paddle or Prefect."""

import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hubflow.schemas.references import CheckpointRef, ExportRef, VerdictRef

Action = Literal["promoted", "overridden", "rolled_back", "undone"]


class PointerChange(BaseModel):
    """One move of the pointer: to what, by whom, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    revision: int = Field(ge=1, description="Number of the move, from 1")
    action: Action = Field(
        description="promoted by a verdict, overridden by a person against it or without one, rolled_back by a person, "
        "undone because the run failed afterwards"
    )
    export: ExportRef | None = Field(description="What is in use from then on; None: nothing")
    checkpoint: CheckpointRef | None = Field(None, description="The weights it was made of, while they were in the store")
    verdict: VerdictRef | None = Field(None, description="The gate's, where there was one")
    before: int = Field(ge=0, description="Revision that a rollback goes back to; 0: nothing in use")
    at: datetime.datetime
    by: str
    reason: str


class Deployed(BaseModel):
    """The pointer of one name, with every move that it made, the first one first."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    history: tuple[PointerChange, ...] = ()

    @model_validator(mode="after")
    def _numbered(self) -> Self:
        for place, move in enumerate(self.history, start=1):
            if move.revision != place or move.before >= place:
                raise ValueError(f"move {place} is numbered {move.revision} and goes back to {move.before}")
        return self

    @property
    def revision(self) -> int:
        """How many moves there were: what a promotion is evaluated against."""
        return len(self.history)

    @property
    def move(self) -> PointerChange | None:
        """The move that holds now."""
        return self.history[-1] if self.history else None

    @property
    def export(self) -> ExportRef | None:
        """The export in use."""
        return self.move.export if self.move else None

    @property
    def predecessor(self) -> PointerChange | None:
        """The move that a rollback goes back to, or None where nothing was in use before."""
        return self.history[self.move.before - 1] if self.move and self.move.before else None
