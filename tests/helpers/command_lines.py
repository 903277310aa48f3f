"""The command line as tests call it: in this process, in one of its own, and as another user."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from hubflow.cli.main import app
from hubflow.console import show_progress


def run(*arguments: str) -> Result:
    """Call `hubflow` with these arguments, in this process."""
    try:
        return CliRunner().invoke(app, list(arguments))
    finally:
        show_progress(False)


def run_process(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Call `hubflow` with these arguments and variables of the environment, in a process of its own."""
    command = [str(Path(sys.executable).with_name("hubflow")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment})


def one_line(output: str) -> Any:
    """The value that is the only line of an output."""
    lines = output.splitlines()
    assert len(lines) == 1, output
    return json.loads(lines[0])


def as_user(user: int, umask: int, work: Callable[[], str]) -> tuple[str, str]:
    """What work gives, or the name and text of its error, when another user of group 3000 does it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([3000])
            os.setgid(3000)
            os.setuid(user)
            os.umask(umask)
            logging.disable()
            told = ("done", work())
        except BaseException as error:
            told = (type(error).__name__, str(error))
        os.write(write, json.dumps(told).encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        told = json.loads(stream.read())
    os.waitpid(child, 0)
    return told[0], told[1]
