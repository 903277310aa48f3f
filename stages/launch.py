"""Training in several processes: Paddle's launcher is started, followed and ended here. Must not import Paddle or Prefect."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from hubflow.schemas.errors import HubflowError
from hubflow.stages.hub.cores import usable_cores
from hubflow.stages.lifeline import EXIT_CODES_VARIABLE, LINE_VARIABLE, PARENT_VARIABLE
from hubflow.stages.ranks import Ranks, Trouble, tail

GRACE_SECONDS = 30.0
LAUNCHER_SECONDS = 30.0
POLL_SECONDS = 0.2
MAX_SOCKET_FOLDER = 70
WORKER = "hubflow.stages.training_worker"
TRAIN = "hubflow.stages.fine_tune:train_rank"
_OF_A_LAUNCHER = ("PADDLE_", "FLAGS_selected_")
_OF_A_LAUNCHER_TOO = ("POD_IP", "MASTER_ADDR", "MASTER_PORT", "DISTRIBUTED_TRAINER_ENDPOINTS", "TRAINER_IP_PORT_LIST")

_log = logging.getLogger(__name__)


class LaunchError(HubflowError):
    """A rank of a training in several processes failed or was lost; the message names it and shows the end of its log."""


def launch(
    request: dict[str, Any],
    folder: Path,
    processes: int,
    gpus: str | None,
    on_event: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool] = lambda: False,
    target: str = TRAIN,
    grace: float = GRACE_SECONDS,
) -> Literal["finished", "stopped"]:
    """Run `target` in `processes` ranks on this machine and wait for their end; no process outlives this call or this process.

    SIGTERM (in the main thread), `should_stop` and any exception here, KeyboardInterrupt among them, reach the ranks as
    SIGTERM. They have `grace` seconds to finish their step and write `last`, then they are killed. SIGTERM is handed on
    afterwards to the handler that was there before; the exception goes on.

    Args:
        request: what the ranks need, as JSON; written to `folder/request.json`.
        folder: where the request and the ranks' logs (`logs/workerlog.N`) go.
        processes: how many ranks.
        gpus: their GPUs, as in `0,1`, one for each rank; None to train on CPUs with gloo.
        on_event: called with each event of rank 0, here in this thread.
        should_stop: asked a few times a second; for callers outside the main thread.
        target: `module:function`, called in each rank as `function(request, world, emit)`; `emit` is None but on rank 0.
        grace: seconds.

    Returns:
        `stopped` when the ranks ended early on SIGTERM, whoever sent it; else `finished`.

    Raises:
        LaunchError: naming the rank that failed first, its error, exit code or signal, and the end of its log.
    """
    _require_one_gpu_each(processes, gpus)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (folder / "request.json").write_text(json.dumps(request, ensure_ascii=False, indent=1), encoding="utf-8")
    with _terminated() as terminated, _private_folder() as private, _reserved_port() as port:
        line, codes = private / "line", private / "exit_codes.json"
        with Ranks(processes, line, logs, on_event) as ranks:
            environment = _environment(processes, gpus, line, codes)
            launcher = _start(port, processes, gpus, logs, target, folder / "request.json", environment)
            try:
                _follow(launcher, ranks, lambda: terminated() or should_stop(), grace)
            except BaseException:
                ranks.ignore_events()
                _end(launcher, ranks, grace)
                raise
            finally:
                _kill(launcher, ranks)
            return _judge(launcher, ranks, codes, logs)


def _require_one_gpu_each(processes: int, gpus: str | None) -> None:
    if processes < 1 or (gpus is not None and len(gpus.split(",")) != processes):
        raise LaunchError(f"{processes} process(es) on GPUs {gpus!r}: expected one GPU for each, e.g. processes=2, gpus='0,1'")


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for this user alone, with a path short enough for a socket in it."""
    usual = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="hubflow-", dir=usual if len(usual) < MAX_SOCKET_FOLDER else "/tmp") as folder:  # noqa: S108
        yield Path(folder)


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port for the ranks' meeting. It stays bound here, not listening, so that no other run is given the same one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))  # Paddle's meeting point listens on all interfaces
        yield reserved.getsockname()[1]


@contextlib.contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """In the main thread, whether SIGTERM came; at the end it goes to the handler that was there before."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
        if came.is_set():
            signal.raise_signal(signal.SIGTERM)


def _environment(processes: int, gpus: str | None, line: Path, codes: Path) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_A_LAUNCHER) and name not in _OF_A_LAUNCHER_TOO
    }
    own = {PARENT_VARIABLE: str(os.getpid()), LINE_VARIABLE: str(line), EXIT_CODES_VARIABLE: str(codes)}
    if gpus is not None:
        return {**inherited, **own}
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    # gloo listens on the address of the host's name unless told otherwise.
    network = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}
    return {**threads, **inherited, **own, **network, "CUDA_VISIBLE_DEVICES": ""}


def _start(
    port: int, processes: int, gpus: str | None, logs: Path, target: str, request: Path, environment: dict[str, str]
) -> "subprocess.Popen[bytes]":
    """Start the launcher in a session of its own, so that Ctrl-C in a terminal reaches this process alone."""
    # An endpoint list given by address and port keeps the launcher from opening an HTTP server for its peers.
    options = ["--ips", "127.0.0.1", "--start_port", str(port), "--nproc_per_node", str(processes)]
    options += ["--devices", gpus] if gpus is not None else []
    options += ["--log_dir", str(logs), "--log_overwrite", "true", "--log_level", "WARNING", "--enable_gpu_log", "false"]
    rank = [sys.executable, "-u", "-P", "-m", WORKER, target, str(request)]
    with (logs / "launcher.log").open("wb") as output:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "hubflow.stages.paddle_launcher", *options, *rank],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _follow(launcher: "subprocess.Popen[bytes]", ranks: Ranks, should_stop: Callable[[], bool], grace: float) -> None:
    """Pass on logs and events until the launcher has ended."""
    while launcher.poll() is None and not ranks.all_done:
        ranks.attend(POLL_SECONDS)
        if should_stop():
            _log.info("stopping %d ranks", ranks.size)
            _end(launcher, ranks, grace)
            return
        if ranks.first_trouble is not None and time.monotonic() > ranks.first_trouble.when + LAUNCHER_SECONDS:
            return
    ranks.drain()


def _end(launcher: "subprocess.Popen[bytes]", ranks: Ranks, grace: float) -> None:
    """SIGTERM to every rank, those that start later too, and wait `grace` seconds at most.

    Not to the launcher: it would kill the ranks after a time of its own.
    """
    ranks.terminate()
    until = time.monotonic() + grace
    while launcher.poll() is None and not ranks.all_done and time.monotonic() < until:
        ranks.attend(POLL_SECONDS)
    ranks.drain()


def _kill(launcher: "subprocess.Popen[bytes]", ranks: Ranks) -> None:
    if launcher.poll() is None:
        launcher.kill()
    ranks.kill()
    launcher.wait()


def _judge(launcher: "subprocess.Popen[bytes]", ranks: Ranks, codes: Path, logs: Path) -> Literal["finished", "stopped"]:
    if ranks.all_done:
        return "stopped" if "stopped" in ranks.outcomes.values() else "finished"
    if ranks.stopping:
        if ranks.first_trouble is not None and ranks.first_trouble.error:
            _log.warning("rank %d failed while stopping: %s", ranks.first_trouble.rank, ranks.first_trouble.error)
        return "stopped"
    exit_codes: dict[int, int | None] = {}
    if codes.exists():
        exit_codes = {int(rank): code for rank, code in json.loads(codes.read_text(encoding="utf-8")).items()}
    trouble = ranks.first_trouble or _silent(ranks, exit_codes)
    if trouble is None:
        end = tail(logs / "launcher.log")
        raise LaunchError(f"Paddle's launcher {_ended(launcher.returncode)} before its ranks; its log ends:\n{end}")
    log = logs / f"workerlog.{trouble.rank}"
    raise LaunchError(
        f"rank {trouble.rank} of {ranks.size} {_ended(exit_codes.get(trouble.rank))}{trouble.error and ': ' + trouble.error}\n"
        f"All ranks were ended; started again, the run goes on from its last checkpoint. {log} ends:\n{tail(log)}"
    )


def _silent(ranks: Ranks, exit_codes: dict[int, int | None]) -> Trouble | None:
    """The first rank that ended without having said a word."""
    return next((Trouble(rank, 0.0, "") for rank, code in exit_codes.items() if code and rank not in ranks.outcomes), None)


def _ended(code: int | None) -> str:
    if code is None:
        return "was lost"
    if code >= 0:
        return f"failed with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
