"""A temporary Prefect server that starts while Prefect itself is still being imported."""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from hubflow.errors import ServerError
from hubflow.files import read_file

ASKED_BY = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")
SET_HOME = "set PREFECT_HOME to a folder that can be written, for example PREFECT_HOME=/tmp/prefect"
PROGRAM = """
import ctypes, gc, os, signal, sys
if sys.platform == "linux":  # it ends with the command, however that ends
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[2]):
        sys.exit(1)
gc.disable()  # imports make many objects that all stay: a fifth of the start
import uvicorn
from prefect.server.api.server import create_app
app = create_app()
gc.freeze()
gc.enable()
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="on")
"""
STOPPED_WITHIN_SECONDS = 5.0


def is_nothing_configured() -> bool:
    """Whether Prefect would surely start a temporary server: it is not imported yet, and nothing says where another one is."""
    if "prefect" in sys.modules or any(name in os.environ for name in (*ASKED_BY, "PREFECT_SERVER_EPHEMERAL_ENABLED")):
        return False
    home = prefect_home()
    if (home / "profiles.toml").exists() or Path("prefect.toml").exists():
        return False
    return not any(_mentions_prefect(Path(name)) for name in (".env", "pyproject.toml"))


def prefect_home() -> Path:
    """The folder of Prefect's settings and of the temporary server's database.

    Raises:
        ServerError: when it is below a home folder that is not known.
    """
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    try:
        return Path(home).expanduser()
    except RuntimeError as error:
        raise ServerError(f"Prefect's folder {home} cannot be found ({error}); {SET_HOME}") from error


def require_prefect_home() -> None:
    """Find out, before the temporary server is started, whether it can write to its folder.

    Raises:
        ServerError: when it cannot.
    """
    home = prefect_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ServerError(
            f"the temporary Prefect server keeps its database in {home}, which cannot be written ({error}); {SET_HOME}, or set "
            "PREFECT_API_URL to a server that runs"
        ) from error


def _mentions_prefect(path: Path) -> bool:
    try:
        text = read_file(path).decode("utf-8", "replace")
    except OSError:
        return False
    return "PREFECT_" in text or "[tool.prefect" in text


class TemporaryServer:
    """Prefect's API on a free port of loopback, in a process that ends with this one; Prefect's own starts in the same way.

    Prefect starts one when it is first asked something, and imports the whole server to do so. This one is there from the
    beginning, and to Prefect a server like any other: the environment names it.
    """

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable,
            "-P",
            "-c",
            PROGRAM,
            str(port),
            str(os.getpid()),
        ]  # -P: nothing of the working folder takes a library's place
        own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        self._process = subprocess.Popen(command, env={**os.environ, **own})  # noqa: S603  # nothing of it is given
        self.url = f"http://127.0.0.1:{port}/api"
        os.environ["PREFECT_API_URL"] = self.url
        atexit.register(self.stop)

    def wait(self, timeout_seconds: float) -> None:
        """Return when it answers.

        Raises:
            ServerError: when it ended, or does not answer in time.
        """
        last = time.monotonic() + timeout_seconds
        while time.monotonic() < last:
            if self._process.poll() is not None:
                raise ServerError(
                    f"the temporary Prefect server ended with exit code {self._process.returncode}, for the reason above; "
                    "start one yourself (`prefect server start`) and set PREFECT_API_URL"
                )
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):  # noqa: S310  # loopback
                    return
            except OSError:
                time.sleep(0.05)
        raise ServerError(
            f"the temporary Prefect server did not answer within {timeout_seconds:.0f} s; start one yourself (`prefect server "
            "start`) and set PREFECT_API_URL, or raise PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
        )

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
