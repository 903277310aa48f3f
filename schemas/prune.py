"""Settings and outcome of pruning a store. Must not import Paddle or Prefect."""

from pydantic import BaseModel, ConfigDict, Field

from hubflow.schemas.base import Settings


class PruneSettings(Settings):
    """What is old enough to go: what is neither among the newest of its kind nor young, and nothing in use needs."""

    keep_last: int = Field(5, ge=0, description="The newest so many of each kind stay: reports, exports, checkpoints …")
    min_age_days: float = Field(7.0, ge=0, description="What is younger stays")


class Pruned(BaseModel):
    """What one pruning removed, or would remove."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    is_dry: bool = Field(description="Nothing was removed: it is only said what would be")
    removed: tuple[str, ...] = Field(description="Paths in the store, by kind, the oldest first")
    bytes: int = Field(description="That they take")
    kept_in_use: tuple[str, ...] = Field(description="Paths that stay because something in use, or its predecessor, needs them")
