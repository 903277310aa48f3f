"""Training in a worker process whose disk fills up or turns read-only, or whose memory runs out, in the eighth step."""

import os
import resource
from pathlib import Path
from typing import Any

from hubflow import jobs as training_run
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.workers.connection import Connection


class Trouble(Callback):
    """Brings it about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Of the eighth step."""
        if step.step == 8:
            self.begin(self._folder)

    def begin(self, folder: Path) -> None:
        """Let no file grow beyond a few bytes."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Forbidden(Trouble):
    """The folder is read-only, for root too, who goes on as nobody."""

    def begin(self, folder: Path) -> None:
        """Forbid it."""
        folder.chmod(0o555)
        if os.getuid() == 0:
            os.seteuid(65534)


def starved(request: dict[str, Any], connection: Connection) -> Any:
    """Train with as many megabytes beyond what is in use as the environment's MORE_MEGABYTES."""
    status = Path("/proc/self/status").read_text()
    size = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize"))
    more = int(os.environ["MORE_MEGABYTES"]) * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return training_run.train_in_worker(request, connection)


def full(request: dict[str, Any], connection: Connection) -> Any:
    """Train on a disk that fills up."""
    return _train(request, connection, Trouble(Path(request["folder"])))


def read_only(request: dict[str, Any], connection: Connection) -> Any:
    """Train in a folder that turns read-only."""
    return _train(request, connection, Forbidden(Path(request["folder"])))


def _train(request: dict[str, Any], connection: Connection, trouble: Callback) -> Any:
    callbacks = training_run._remote_callbacks
    training_run._remote_callbacks = lambda *given: [*callbacks(*given), trouble]
    return training_run.train_in_worker(request, connection)
