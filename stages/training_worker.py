"""Process of one rank: joins the others, trains, and tells the stage that started it how it ended."""

import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hubflow.stages.lifeline import Line, die_with_parent

MAX_ERROR = 2_000
MAX_TRACEBACK = 10_000
_stop_came: list[bool] = []


class Stopped(BaseException):
    """This process was asked to end (SIGTERM)."""


def main(target: str, request: Path) -> int:
    """Call `target` (`module:function`) with the request, the world and, on rank 0, a function that takes events.

    Returns the process's exit code. Stopping on SIGTERM is not a failure: Paddle's launcher would kill the other ranks,
    rank 0 among them with its checkpoint half written.
    """
    die_with_parent()
    _forget_environment()
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    line = Line(int(os.environ.get("PADDLE_TRAINER_ID", "0")))
    outcome, error = "finished", ""
    try:
        _train(target, request, line)
    except (Stopped, KeyboardInterrupt):
        outcome = "stopped"
    except BaseException as failure:
        if _stop_came:  # in the middle of an import, for instance, which makes an error of its own of it
            return _told(line, "stopped", "")
        # An error of Paddle may print a whole program.
        sys.stderr.write(traceback.format_exc()[-MAX_TRACEBACK:])
        outcome, error = "failed", f"{type(failure).__name__}: {failure}"[:MAX_ERROR]
    return _told(line, outcome, error)


def _told(line: Line, outcome: str, error: str) -> int:
    """The exit code of an outcome, once the stage has been told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line.tell(kind="outcome", outcome=outcome, error=error)
    return 1 if outcome == "failed" else 0


def _train(target: str, request: Path, line: Line) -> None:
    from hubflow.stages.hub.distributed import join

    module, _, name = target.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    world = join()
    function(json.loads(request.read_text(encoding="utf-8")), world, line.emit if world.leads else None)


def _stop(signal_number: int, frame: Any) -> None:
    _stop_came.append(True)
    raise Stopped


def _forget_environment() -> None:
    """Leave no secrets in the copy of all environment variables that Paddle's launcher makes in the log folder.

    Paddle reads its own variables from there.
    """
    copy = os.environ.get("PADDLE_BACKUP_ENV_PATH")
    if copy:
        kept = {name: value for name, value in os.environ.items() if name.startswith("PADDLE_")}
        Path(copy).write_text(json.dumps(kept), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
