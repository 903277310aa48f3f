"""Preflights that passed: what this machine has tried with the same rows, settings and versions is not tried again."""

import os
from pathlib import Path

from hubflow.files import read_text
from hubflow.runtime.cores import compute_cores
from hubflow.schemas.requests import TrainRequest
from hubflow.store.manifest import write_atomically
from hubflow.store.store import Store, content_key
from hubflow.training.resuming import versions

FOLDER = "preflights"


def passed(home: Store, request: TrainRequest) -> str | None:
    """What the request's preflight told when it passed here; None when it has not."""
    file = _file(home, request)
    return read_text(file) if file.exists() else None


def keep(home: Store, request: TrainRequest, told: str) -> None:
    """Remember that the request's preflight passed here."""
    write_atomically(_file(home, request), told.encode("utf-8"))


def forget(home: Store, request: TrainRequest) -> None:
    """Let the request's preflight be tried again."""
    _file(home, request).unlink(missing_ok=True)


def _file(home: Store, request: TrainRequest) -> Path:
    """By all that a preflight is a function of; not by the seed, which changes fresh weights and the order of rows alone.

    Object storage is not asked: another machine has other memory.
    """
    asked = {name: value for name, value in request.identity().items() if name != "seed"}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    machine = {"cores": compute_cores(), "memory": memory, "device": request.device, "processes": request.processes}
    return home.root / FOLDER / f"{content_key('preflight', asked, machine, versions())}.txt"
