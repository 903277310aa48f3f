"""What one run of training is asked for: all that another process needs to do it. Must not import Paddle or Prefect."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from hubflow.schemas.references import CheckpointRef, EncodedRef, TaskRef
from hubflow.schemas.training import TrainSettings
from hubflow.schemas.urls import StoreAddress


class TrainRequest(BaseModel):
    """A task to train on encoded rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    task: TaskRef
    encoded: EncodedRef
    settings: TrainSettings
    store: StoreAddress
    seed: int = 0
    device: str = "auto"
    processes: int = 1
    warm_start: CheckpointRef | None = None

    def identity(self) -> dict[str, Any]:
        """What the trained weights are a function of: the store, the device and the number of processes are not among it."""
        kept = self.model_dump(mode="json", include={"task", "encoded", "seed"})
        warm = {} if self.warm_start is None else {"warm_start": self.warm_start.sha256}
        return {**kept, **warm, "settings": self.settings.result_settings()}
