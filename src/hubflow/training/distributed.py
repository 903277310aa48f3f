"""The ranks of a data-parallel run: which rows each takes, where they wait for each other, and how gradients are summed.

Ranks on the CPU of one host open no port: they wait for each other through the process that started them, and sum through
memory that they share. Ranks on GPUs sum through NCCL, those on the CPUs of several hosts through gloo; the port where they
meet is held to the loopback interface, or to that of the hosts' network. Must not import Prefect.
"""

import contextlib
import logging
import math
import mmap
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hubflow.errors import RendezvousError
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle, place_of

DEFAULT_RING = 0
SENT_AT_ONCE = 1 << 20
"""Integers of 4 bytes: of what a rank sends the others."""
REDUCIBLE = ("float32", "float16", "bfloat16", "bool", "int32", "int64")
LOOPBACK = "lo"
STORE_TIMEOUT_SECONDS = 900
log = logging.getLogger(__name__)

Result = TypeVar("Result")
Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
Saved = tuple[Arrays, dict[str, Any]]


class RankConnection(Protocol):
    """What a rank needs of the process that started it.

    Attributes:
        rank: which one of `size` it is.
        size: how many ranks there are.
        shared_memory: descriptor of memory that the ranks share; None where they sum over a network.
        meeting: where they meet then: a `port`, the `addresses` of all ranks, the network `interface` of rank 0, and whether
            the ranks are of several hosts (`spans_hosts`).
    """

    rank: int
    size: int
    shared_memory: int | None
    meeting: dict[str, Any] | None

    def broadcast(self, value: Any) -> Any:
        """Wait until every rank has called this; return what rank 0 passed, as JSON has it."""
        ...


class World:
    """One rank among `size`. Rank 0 is the main process: it writes files and reports progress.

    Args:
        rank: which one this is.
        size: how many there are.
        connection: to the process that started the ranks; a world of one rank needs none.

    Raises:
        ValueError: when there is no such rank.
    """

    def __init__(self, rank: int, size: int, connection: RankConnection | None = None) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} of {size}: expected 0 <= rank < size")
        self.rank, self.size, self._connection = rank, size, connection
        meeting = connection.meeting if connection is not None else None
        self.spans_hosts = meeting is not None and bool(meeting["spans_hosts"])
        descriptor = connection.shared_memory if connection is not None else None
        self._memory = _SharedMemory(descriptor, rank, size, self.barrier) if descriptor is not None else None

    @classmethod
    def alone(cls) -> "World":
        """The world of a run in one process."""
        return cls(rank=0, size=1)

    @property
    def is_main_process(self) -> bool:
        """Whether this rank writes checkpoints and events."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here, however long that takes. Every rank must call this equally often."""
        if self._connection is not None and self.size > 1:
            self._connection.broadcast(None)

    def broadcast(self, action: Callable[[], Any]) -> Any:
        """The result of `action` in rank 0, for every rank: for decisions that all ranks must share. Values that JSON can hold.

        The other ranks wait, however long it takes; an error of rank 0 ends all ranks.
        """
        if self._connection is None or self.size == 1:
            return action()
        return self._connection.broadcast(action() if self.is_main_process else None)

    def main_process_first(self, action: Callable[[], Result]) -> Result:
        """The result of `action`, which rank 0 does first and the others when it is done: for what changes files."""
        if not self.is_main_process:
            self.barrier()
        result = action()
        if self.is_main_process:
            self.barrier()
        return result

    def load(self, load: Callable[[], Saved | None]) -> Saved | None:
        """What `load` finds, the same on every rank: a state that JSON can hold, and arrays.

        On one host every rank reads, rank 0 first. Of several hosts rank 0 alone has the files, and sends what it read.
        """
        if not self.spans_hosts:
            return self.main_process_first(load)
        saved = load() if self.is_main_process else None

        def header() -> dict[str, Any] | None:
            if saved is None:
                return None
            return {"state": saved[1], "arrays": {name: [one.dtype.str, one.shape] for name, one in saved[0].items()}}

        found = self.broadcast(header)
        if found is None:
            return None
        shapes = {name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in found["arrays"].items()}
        return self._sent({} if saved is None else saved[0], shapes), found["state"]

    def _sent(self, arrays: Arrays, shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> Arrays:
        """The arrays of rank 0, on every rank: sums of their bits, to which the others add nothing."""
        program, place = paddle.static.Program(), place_of(rank_device())
        with paddle.static.program_guard(program):
            bits = paddle.static.data("bits", [SENT_AT_ONCE], "int32")
            total = paddle._C_ops.all_reduce(bits, DEFAULT_RING, paddle.distributed.ReduceOp.SUM)
        executor = paddle.static.Executor(place)
        lengths = [kind.itemsize * math.prod(shape) for kind, shape in shapes.values()]
        whole = np.zeros(-(-sum(lengths) // (4 * SENT_AT_ONCE)) * 4 * SENT_AT_ONCE, np.uint8)
        if self.is_main_process:
            whole[: sum(lengths)] = np.concatenate([np.frombuffer(arrays[name].tobytes(), np.uint8) for name in shapes])
        for piece in whole.view(np.int32).reshape(-1, SENT_AT_ONCE):
            piece[:] = executor.run(program, feed={"bits": piece}, fetch_list=[total])[0]
        pieces = np.split(whole, np.cumsum(lengths))
        return {
            name: np.frombuffer(piece.tobytes(), kind).reshape(shape)
            for (name, (kind, shape)), piece in zip(shapes.items(), pieces, strict=False)  # the rest of them is padding
        }

    def shard(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of an update batch that this rank takes: every `size`-th, so that rows sorted by length spread evenly.

        A batch of fewer rows than ranks leaves some ranks with none; they must take part in the step's sums all the same,
        for instance with any one row and a normaliser of 0.
        """
        return np.asarray(rows)[self.rank :: self.size]

    def all_reduce_sum(self, values: list[Any]) -> list[Any]:
        """Sums over all ranks of `values`, added to the static program that is being built; the same bits on every rank.

        All values travel in one flat float32 buffer: one operator, so that no two ranks can wait for each other in different
        orders, and one message. Gradients should come together in one call, beside the step's loss and flags. The buffer and
        the sums cost twice the values' memory, and on a CPU the shared memory once more, and a rank's share of it.

        Args:
            values: variables of known shapes, float32, float16, bfloat16, bool or integers below 2**24 (int32, int64). With one
                rank they come back as they are.

        Raises:
            ValueError: naming the value whose shape is not known or whose type cannot be summed so.
        """
        if self.size == 1 or not values:
            return list(values)
        kinds = [_kind(value) for value in values]
        flat = paddle.concat([_cast(value, "float32").reshape([-1]) for value in values])
        if self._memory is not None:
            flat = _sum_operator(self._memory)(flat)
        else:
            flat = paddle._C_ops.all_reduce(flat, DEFAULT_RING, paddle.distributed.ReduceOp.SUM)
        pieces = paddle.split(flat, [math.prod(value.shape) for value in values])
        return [_cast(piece.reshape(list(value.shape)), kind) for piece, value, kind in zip(pieces, values, kinds, strict=True)]


def join(connection: RankConnection) -> World:
    """Become one of the ranks that were started together, and leave Paddle in static mode.

    Ranks that sum over a network meet at Paddle's TCP store; this returns when all of them are there.

    Raises:
        RendezvousError: when another host reached their port.
    """
    world = World(connection.rank, connection.size, connection)
    with BUILD_LOCK:
        try:
            if connection.meeting is not None:
                # The group that static programs use as ring 0 is made only when asked for in dynamic mode.
                paddle.disable_static()
                paddle.set_device(rank_device())
                with _store_kept_in(world, connection.meeting):
                    paddle.distributed.init_parallel_env()
        finally:
            paddle.enable_static()
    return world


def rank_device() -> str:
    """The device that the launcher gave this rank: `gpu:N`, counted among the visible ones, or `cpu`."""
    index = os.environ.get("FLAGS_selected_gpus", "")
    return f"gpu:{index}" if index else "cpu"


class _SharedMemory:
    """Sums of arrays over the ranks: each rank's array has a place in memory that all share, and so has the result."""

    def __init__(self, descriptor: int, rank: int, size: int, barrier: Callable[[], None]) -> None:
        self._descriptor, self._rank, self._size, self._barrier = descriptor, rank, size, barrier
        self._places: NDArray[np.float32] = np.empty((size + 1, 0), np.float32)

    def sum(self, values: Floats) -> Floats:
        """The sum over all ranks, added up in the order of the ranks; it is there until this is called again."""
        if self._places.shape[1] != len(values):
            self._places = self._mapped(len(values))
        parts = self._places[:-1]
        total: Floats = self._places[-1]
        parts[self._rank][:] = values
        self._barrier()
        start, stop = (len(values) * rank // self._size for rank in (self._rank, self._rank + 1))
        total[start:stop] = parts[0][start:stop]
        for part in parts[1:]:
            total[start:stop] += part[start:stop]
        self._barrier()
        return total

    def _mapped(self, length: int) -> Floats:
        """The memory as one row for each rank and one for the result. All ranks are at the same sum, so all want one length."""
        wanted = (self._size + 1) * length * np.dtype(np.float32).itemsize
        if os.fstat(self._descriptor).st_size < wanted:
            os.ftruncate(self._descriptor, wanted)
        places: Floats = np.frombuffer(mmap.mmap(self._descriptor, wanted), np.float32).reshape(self._size + 1, length)
        return places


def _sum_operator(memory: _SharedMemory) -> Callable[[Any], Any]:
    """An operator of static programs that sums a flat float32 value over the ranks."""

    def sum_over_ranks(values: Any) -> Any:
        return paddle.to_tensor(memory.sum(np.asarray(np.from_dlpack(values), np.float32)), place=paddle.CPUPlace())

    def same_shape(values: Any) -> Any:
        return values

    register = paddle.static.register_op(
        name="hubflow_sum_over_ranks", infer_meta=same_shape, input_names=["values"], output_names=["total"]
    )
    operator: Callable[[Any], Any] = register(sum_over_ranks)
    return operator


@contextlib.contextmanager
def _store_kept_in(world: World, meeting: Mapping[str, Any]) -> Iterator[None]:
    """Let Paddle meet at a store that only the ranks' network can reach: the loopback interface, or that of the hosts.

    Paddle's own binds to every address of the host, offers no setting for it, and waits there until all ranks have come. So
    rank 0 makes the store by itself and binds it to the interface, which Linux then takes connections of alone; the other
    ranks connect when that is done. What this host sends to itself comes by the loopback interface whatever its address: the
    other ranks of rank 0's host connect before that.

    Raises:
        RendezvousError: when another host had connected before that.
    """
    addresses, port, core = meeting["addresses"], meeting["port"], paddle.base.core
    here = addresses[0]
    is_of_this_host = addresses[world.rank] == here and meeting["interface"] != LOOPBACK

    def store(is_main: bool) -> Any:
        return core.TCPStore(here, port, is_main, 1, STORE_TIMEOUT_SECONDS)  # of one: it does not wait for the others

    found = store(True) if world.is_main_process else None
    world.barrier()
    if is_of_this_host and found is None:
        found = store(False)
    world.barrier()
    if world.is_main_process:
        _hold_to(meeting["interface"], port, {here, *addresses})
    world.barrier()
    found = found or store(False)
    usual, core.create_or_get_global_tcp_store = core.create_or_get_global_tcp_store, lambda: found
    try:
        yield
    finally:
        core.create_or_get_global_tcp_store = usual


def _hold_to(interface: str, port: int, addresses: Collection[str]) -> None:
    for descriptor, peer in _sockets_at(port):
        if peer is None:
            try:
                with socket.socket(fileno=os.dup(descriptor)) as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            except OSError as error:
                log.warning(
                    "port %d, where the ranks of this run meet, cannot be held to the network interface %s (%s): while the "
                    "run lasts, keep other hosts off it by a firewall or a network namespace",
                    port,
                    interface,
                    error.strerror,
                )
        elif peer not in addresses and not peer.startswith("127."):
            raise RendezvousError(
                f"port {port}, where the ranks of this run meet, has a connection from {peer}; expected "
                f"{', '.join(sorted(addresses))} alone. Keep other hosts off its ports (a firewall, a network namespace), then "
                "run it again"
            )


def _sockets_at(port: int) -> list[tuple[int, str | None]]:
    """This process's TCP sockets with that local port: the descriptor, and the peer's address; None for one that listens."""
    found: list[tuple[int, str | None]] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as one:  # no socket, or closed meanwhile
            if one.family not in (socket.AF_INET, socket.AF_INET6) or one.getsockname()[1] != port:
                continue
            listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            found.append((int(name), None if listens else str(one.getpeername()[0]).removeprefix("::ffff:")))
    return found


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
