"""What worker processes do in the tests."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hubflow.schemas.errors import ContractError
from hubflow.stages.worker.connection import Connection


def echo(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """The request, and what this process is like."""
    return {
        **request,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "command": Path("/proc/self/cmdline").read_text().split("\0"),
        "prefect": "prefect" in sys.modules,
    }


def refuse(request: dict[str, Any], connection: Connection) -> None:
    """Raise an error with an attribute."""
    error = ContractError("row 3: expected a label, found nothing")
    vars(error)["quarantine"] = request["path"]
    raise error


def sleep(request: dict[str, Any], connection: Connection) -> None:
    """Do nothing for a while."""
    time.sleep(request["seconds"])


def ignore_sigterm(request: dict[str, Any], connection: Connection) -> None:
    """Do nothing for a while, and not end when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(request["seconds"])
