"""What the trackers share: the history as named numbers, and a missing extra told. Must not import Paddle or Prefect."""

from collections.abc import Iterator
from contextlib import contextmanager

from hubflow.errors import HubflowError
from hubflow.training.callbacks import TrainState

Scalars = list[tuple[int, dict[str, float]]]


def new_scalars(state: TrainState, steps: int, evaluations: int) -> Scalars:
    """What came after so many logged steps and evaluations, by step: train/<name> and dev/<metric>."""
    found: Scalars = []
    for group, entries in (("train", state.steps[steps:]), ("dev", state.evaluations[evaluations:])):
        for entry in entries:
            values = {f"{group}/{name}": value for name, value in entry.items() if name not in ("step", "epoch")}
            found.append((int(entry["step"]), values))
    return found


@contextmanager
def extra_of(extra: str, package: str) -> Iterator[None]:
    """Import what hubflow[`extra`] installs inside; its absence is told as what to install."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise HubflowError(f"tracking.{extra} needs {package}: pip install 'hubflow[{extra}]', or leave it out") from error
