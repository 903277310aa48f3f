"""Runs a document's commands in a world of their own: a home, a port, and no process that outlives it."""

import contextlib
import http
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_database import prepare_prefect_home

FENCE = re.compile(r"^```bash ?([a-z-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STOP_SECONDS = 30
BUSY_RETRIES = 5


@dataclass(frozen=True)
class Block:
    """One fenced block of commands; `kind` is the word after `bash`."""

    script: str
    kind: str


def documented_blocks(document: Path, heading: str) -> list[Block]:
    """The bash blocks under one heading, in order."""
    _, found, rest = document.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found, f"{document.name} has no heading {heading!r}"
    return [Block(script, kind) for kind, script in FENCE.findall(rest.partition("\n## ")[0])]


@dataclass
class World:
    """A home folder, a free port, and the processes started there."""

    home: Path
    project: Path
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's Prefect, and a home by which every process started here can be told."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        tools = Path(os.environ.get("UV") or shutil.which("uv") or "uv").parent
        return inherited | {
            "HOME": str(self.home),
            "PATH": f"{tools}{os.pathsep}{inherited['PATH']}",
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "UV_NO_SYNC": "1",
            "UV_PROJECT_ENVIRONMENT": sys.prefix,
        }

    def run(self, script: str) -> str:
        """Run commands to their end and return what they print; fails, showing it, when one does."""
        done = subprocess.run(
            ["bash", "-euc", self._here(script)],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{script}\nended with {done.returncode}:\n{done.stdout}\n{self.log()}"
        return done.stdout

    def keep_running(self, script: str) -> None:
        """Start commands in a process group of their own, as a terminal does."""
        with (self.home / "running.log").open("ab") as log:
            self.running.append(
                subprocess.Popen(
                    ["bash", "-euc", self._here(script)],
                    cwd=self.project,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def log(self) -> str:
        """What the processes kept running have printed, its end."""
        return (self.home / "running.log").read_text(encoding="utf-8", errors="replace")[-6000:]

    def api(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Ask the server; again while it says that its database is busy, as Prefect's own client does."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        for left in reversed(range(BUSY_RETRIES)):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE or not left:
                    raise
            time.sleep(2)
        raise AssertionError

    def is_up(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self.api("health"))
        except (urllib.error.URLError, OSError):
            return False

    def has_deployment(self, name: str) -> bool:
        """Whether the server has a deployment, `flow/deployment`."""
        flow, _, deployment = name.partition("/")
        asked = {"deployments": {"name": {"any_": [deployment]}}, "flows": {"name": {"any_": [flow]}}}
        return bool(self.api("deployments/filter", asked))

    def wait_for(self, what: str, is_so: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is so; fails, showing the log, when it does not become so or a process has ended."""
        deadline = time.monotonic() + seconds
        while not is_so():
            ended = [one.args for one in self.running if one.poll() is not None]
            assert not ended and time.monotonic() < deadline, f"no {what}; ended: {ended}\n{self.log()}"
            time.sleep(0.3)

    def stop(self) -> None:
        """Ctrl-C what was kept running, the last started first; what does not end is killed."""
        for process in reversed(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def processes(self) -> dict[int, str]:
        """Live processes of this world, by id: those with its home in their environment."""
        mark = f"PREFECT_HOME={self.home / 'prefect'}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def _here(self, script: str) -> str:
        return script.replace("4200", str(self.port))


@contextlib.contextmanager
def world(home: Path, project: Path, is_new: bool = False) -> Iterator[World]:
    """A world that leaves no process behind, whatever happens in it; one that `is_new` has no Prefect home yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = World(home, project, port)
    if not is_new:
        prepare_prefect_home(home / "prefect")
    try:
        yield made
    finally:
        made.stop()
        for process in made.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
