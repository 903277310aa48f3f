"""The callbacks that write a run's history while it trains, made from its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubflow.errors import HubflowError
from hubflow.schemas.training import TrackingSettings
from hubflow.store.outputs import require_in_output_root
from hubflow.training.callbacks import Callback, HistoryFile
from hubflow.training.trackers.mlflow import MlflowTracker
from hubflow.training.trackers.tensorboard import TensorBoardTracker

__all__ = ["HistoryFile", "MlflowTracker", "TensorBoardTracker", "require_places", "trackers"]


def require_places(settings: TrackingSettings) -> None:
    """Refuse, before the data is read, places that training could not write its history to.

    Raises:
        SettingsError: a file is there that may not be replaced, or a place is outside of `trust.output_root`.
    """
    if settings.history is not None:
        HistoryFile(settings.history, overwrite=settings.overwrite)
    if settings.tensorboard is not None:
        require_in_output_root(Path(settings.tensorboard).expanduser().absolute(), "train.tracking.tensorboard")


def trackers(settings: TrackingSettings, run_name: str, parameters: Mapping[str, Any]) -> list[Callback]:
    """The callbacks that `settings` asks for.

    Args:
        settings: where to write to.
        run_name: the same each time a run is resumed; the folder within `settings.tensorboard`, the name of the MLflow run.
        parameters: what the run was made with, nested as settings are; MLflow shows them.

    Raises:
        HubflowError: what one of them needs is not installed, or the run's name is no name of a folder.
    """
    found: list[Callback] = []
    if settings.history is not None:
        found.append(HistoryFile(settings.history, overwrite=settings.overwrite))
    if settings.tensorboard is not None:
        if Path(run_name).name != run_name or run_name in ("", ".."):
            raise HubflowError(
                f"tracking.tensorboard: the run's name {run_name!r} is no folder's name; give one without / and .."
            )
        found.append(TensorBoardTracker(Path(settings.tensorboard) / run_name))
    if settings.mlflow is not None:
        found.append(MlflowTracker(settings.mlflow, settings.experiment, run_name, parameters))
    return found
