"""The ranks of a data-parallel run: who they are, which rows each takes, how gradients are summed. Must not import Prefect."""

import itertools
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hubflow.stages.hub.runtime import BUILD_LOCK, paddle

DEFAULT_RING = 0
_MEETING_KEY = "hubflow/meetings"
_LONGEST_POLL_SECONDS = 0.05
REDUCIBLE = ("float32", "float16", "bfloat16", "bool", "int32", "int64")

Result = TypeVar("Result")
_meetings, _sayings = itertools.count(1), itertools.count(1)


@dataclass(frozen=True)
class World:
    """One rank among `size`; rank 0 writes files and tells of progress."""

    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size}: expected 0 <= rank < size")

    @classmethod
    def alone(cls) -> "World":
        """The world of a run in one process."""
        return cls(rank=0, size=1)

    @property
    def leads(self) -> bool:
        """Whether this rank writes checkpoints and events."""
        return self.rank == 0


def join() -> World:
    """Meet the other ranks that Paddle's launcher started, over NCCL on GPUs and gloo on CPUs; alone without a launcher.

    Returns when all are there. Leaves Paddle in static mode.
    """
    world = World(int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1")))
    with BUILD_LOCK:
        try:
            if world.size > 1:
                # The group that static programs use as ring 0 is made only when asked for in dynamic mode.
                paddle.disable_static()
                paddle.distributed.init_parallel_env()
        finally:
            paddle.enable_static()
    return world


def meet(world: World) -> None:
    """Wait until every rank is here, however long that takes.

    gloo gives up on a sum after 30 s, and Paddle has no setting for it: so ranks meet here before the first step and after all
    that not every rank does alike, such as evaluating or writing a checkpoint. Every rank must call this equally often. It
    takes about 80 ms (the store's answers), too long for every step.
    """
    if world.size == 1:
        return
    store = paddle.base.core.create_or_get_global_tcp_store()
    expected = next(_meetings) * world.size
    began = time.monotonic()
    here = store.add(_MEETING_KEY, 1)
    while here < expected:
        time.sleep(min(_LONGEST_POLL_SECONDS, (time.monotonic() - began) / 4))
        here = store.add(_MEETING_KEY, 0)


def in_turn(world: World, action: Callable[[], Result]) -> Result:
    """What `action` gives, done by rank 0 first and by the others when it is done: for what changes files."""
    if not world.leads:
        meet(world)
    result = action()
    if world.leads:
        meet(world)
    return result


def from_leader(world: World, action: Callable[[], Any]) -> Any:
    """What `action` gives rank 0, for every rank: for decisions that all must take alike. Values that JSON can hold.

    The others wait, however long it takes; an error of rank 0 ends all, as the launcher has it.
    """
    if world.size == 1:
        return action()
    store = paddle.base.core.create_or_get_global_tcp_store()
    key = f"hubflow/said/{next(_sayings)}"
    if world.leads:
        store.set(key, json.dumps(action()))
    meet(world)
    return json.loads(store.get(key))


def rank_device() -> str:
    """The device that the launcher gave this rank: `gpu:N`, counted among the visible ones, or `cpu`."""
    index = os.environ.get("FLAGS_selected_gpus", "")
    return f"gpu:{index}" if index else "cpu"


def all_reduce_sum(values: list[Any], world: World) -> list[Any]:
    """Sums over all ranks of `values`, added to the static program that is being built; the same bits on every rank.

    All values travel in one flat float32 buffer: one operator, so that no two ranks can wait for each other in different
    orders, and one message. Gradients should come together in one call, beside the step's loss and flags. The buffer and the
    sums cost twice the values' memory.

    Args:
        values: variables of known shapes, float32, float16, bfloat16, bool or integers below 2**24 (int32, int64).
        world: of one rank, `values` come back as they are.

    Raises:
        ValueError: naming the value whose shape is not known or whose type cannot be summed so.
    """
    if world.size == 1 or not values:
        return list(values)
    kinds = [_kind(value) for value in values]
    flat = paddle.concat([_cast(value, "float32").reshape([-1]) for value in values])
    flat = paddle._C_ops.all_reduce(flat, DEFAULT_RING, paddle.distributed.ReduceOp.SUM)
    pieces = paddle.split(flat, [math.prod(value.shape) for value in values])
    return [_cast(piece.reshape(list(value.shape)), kind) for piece, value, kind in zip(pieces, values, kinds, strict=True)]


def share_of(rows: NDArray[Any], world: World) -> NDArray[Any]:
    """The rows of an update batch that one rank takes: every `size`-th, so that rows sorted by length spread evenly.

    A batch of fewer rows than ranks leaves some ranks with none; they must take part in the step's sums all the same,
    for instance with any one row and a normaliser of 0.
    """
    return np.asarray(rows)[world.rank :: world.size]


def _cast(value: Any, kind: str) -> Any:
    """Without a copy where the type is right: gradients are most of a step's traffic."""
    return value if _kind(value) == kind else paddle.cast(value, kind)


def _kind(value: Any) -> str:
    kind = str(value.dtype).rpartition(".")[2].lower()
    if -1 in value.shape:
        raise ValueError(f"{value.name}: shape {list(value.shape)} is not known while building; sum it over its rows first")
    if kind not in REDUCIBLE:
        raise ValueError(f"{value.name}: values of type {kind} are not summed over ranks; use one of {', '.join(REDUCIBLE)}")
    return kind
