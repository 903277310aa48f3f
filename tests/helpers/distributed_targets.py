"""What ranks run in the tests: a linear model trained through a static program; small ways to fail."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hubflow.training.distributed import World, join
from hubflow.workers.connection import Connection

Emit = Callable[[dict[str, Any]], None] | None


def train_in_worker(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """`train` as a worker process."""
    world = join(connection)
    train(request, world, (lambda event: connection.call("event", **event)) if world.is_main_process else None)
    return {"rank": world.rank, "threads": os.environ.get("OMP_NUM_THREADS"), "folder": os.getcwd()}


def sum_and_broadcast(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """What a static program sums over the ranks, and what rank 0 broadcast, `times` times."""
    from hubflow.runtime.paddle_import import keep_program, paddle

    world = join(connection)
    program = paddle.static.Program()
    with paddle.static.program_guard(program), paddle.utils.unique_name.guard():
        values, flag = paddle.static.data("values", [7], "float32"), paddle.static.data("flag", [1], "int64")
        sums = world.all_reduce_sum([values, flag])
    keep_program(program, sums)
    executor = paddle.static.Executor(paddle.CPUPlace())
    found = []
    for number in range(request.get("times", 1)):
        feed = {"values": np.float32(request["values"][world.rank]) * (number + 1), "flag": np.array([world.rank])}
        found.append([total.tolist() for total in executor.run(program, feed=feed, fetch_list=sums)])
        connection.call("event", step=number)
    return {"sums": found, "broadcast": world.broadcast(lambda: {"rank": world.rank, "loss": float("nan")})}


def end_while_others_wait(request: dict[str, Any], connection: Connection) -> None:
    """Rank 1 ends as `how` says; the others wait for it."""
    world = join(connection)
    world.barrier()
    if world.rank == 1:
        if request["how"] == "return":
            return
        os.kill(os.getpid(), signal.Signals[request["how"]])
        time.sleep(60)
    world.barrier()


def train(request: dict[str, Any], world: World, emit: Emit) -> None:
    """Train on `request["steps"]` batches; rank N leaves `weights-N.npz`. Rank `request["fail"]` ends as `how` says."""
    from hubflow.runtime.paddle_import import keep_program, paddle

    stopping: list[bool] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(True))
    step = _Step(paddle, keep_program, world)
    folder = Path(request["folder"])
    generator = np.random.default_rng(0)
    rows, targets = generator.normal(size=(64, 6)).astype("float32"), generator.normal(size=(64, 3)).astype("float32")
    print(f"rank {world.rank} begins", flush=True)
    for number in range(request["steps"]):
        if world.rank == request.get("fail") and number == 3:
            _end(request["how"])
        batch = generator.permutation(64)[:15]
        mine = world.shard(batch)
        if world.rank == request.get("slow") and number == request["barrier"]:
            time.sleep(request["slow_seconds"])
        if number == request.get("barrier"):
            world.barrier()
        loss, stop = step.run(rows[mine], targets[mine], 1 / len(batch), bool(stopping))
        if emit is not None:
            emit({"event": "step", "step": number + 1, "loss": np.float32(loss)})
        time.sleep(request.get("pause", 0.0))
        if stop:
            break
    if stopping and world.is_main_process:
        time.sleep(request.get("slow_write", 0.0))
        (folder / "last.txt").write_text(str(number + 1))
    np.savez(folder / f"weights-{world.rank}.npz", **step.weights())
    signal.signal(signal.SIGTERM, before)
    if stopping:
        signal.raise_signal(signal.SIGTERM)


def _end(how: str) -> None:
    if how == "raise":
        raise ValueError("no such row: 17")
    os.kill(os.getpid(), signal.SIGKILL)


class _Step:
    def __init__(self, paddle: Any, keep_program: Any, world: World) -> None:
        self.main, startup = paddle.static.Program(), paddle.static.Program()
        self.scope, self.executor = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        paddle.seed(7)
        with paddle.static.program_guard(self.main, startup), paddle.utils.unique_name.guard():
            x, y = paddle.static.data("x", [-1, 6], "float32"), paddle.static.data("y", [-1, 3], "float32")
            normaliser = paddle.static.data("normaliser", [], "float32")
            stop = paddle.static.data("stop", [], "int64")
            hidden = paddle.tanh(paddle.nn.Linear(6, 5)(x))
            loss = ((paddle.nn.Linear(5, 3)(hidden) - y) ** 2).sum() * normaliser
            pairs = paddle.static.append_backward(loss)
            sums = world.all_reduce_sum([gradient for _, gradient in pairs] + [loss, stop])
            optimizer = paddle.optimizer.Adam(0.01)
            optimizer.apply_gradients([(pair[0], total) for pair, total in zip(pairs, sums, strict=False)])
        keep_program(self.main, sums)
        self.fetch = sums[-2:]
        self.names = [pair[0].name for pair in pairs]
        self.executor.run(startup, scope=self.scope)

    def run(self, x: Any, y: Any, normaliser: float, stop: bool) -> tuple[float, bool]:
        feed = {"x": x, "y": y, "normaliser": np.float32(normaliser), "stop": np.int64(stop)}
        loss, stopped = self.executor.run(self.main, feed=feed, fetch_list=self.fetch, scope=self.scope)
        return float(loss), bool(stopped)

    def weights(self) -> dict[str, Any]:
        return {name: np.array(self.scope.find_var(name).get_tensor()) for name in self.names}
