"""Importing Paddle leaves the process's own handling of SIGTERM in place."""

import subprocess
import sys

PROGRAM = """
import os, signal

class Cancelled(BaseException): ...

def cancel(*_): raise Cancelled

signal.signal(signal.SIGTERM, cancel)
import hubflow.stages.hub.runtime
try:
    os.kill(os.getpid(), signal.SIGTERM)
except Cancelled:
    print("cancelled", end=" ")
finally:
    print("cleaned up")
"""


def test_sigterm_after_importing_paddle_reaches_the_handler_that_was_there() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[-2] == "cancelled cleaned up", done.stderr
