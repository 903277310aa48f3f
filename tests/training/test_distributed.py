"""Who is who among the ranks, and what each takes; sums over real ranks are tested where ranks are launched."""

import socket

import numpy as np
import pytest

from hubflow.runtime.paddle_import import keep_program, paddle
from hubflow.training.distributed import World, join, rank_device
from hubflow.workers.connection import Connection


def test_shares_are_the_batch_and_nothing_twice() -> None:
    rows = np.arange(100, 111)
    shares = [World(rank, 3).shard(rows) for rank in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == rows.tolist()
    assert [len(share) for share in shares] == [4, 4, 3]
    assert World(2, 3).shard(rows[:2]).tolist() == []


def test_rows_sorted_by_length_spread_evenly() -> None:
    lengths = np.arange(64)
    sums = [World(rank, 4).shard(lengths).sum() for rank in range(4)]
    assert max(sums) - min(sums) < 64


def test_one_rank_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAGS_selected_gpus", raising=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        world = join(Connection(ours))
        assert (world.rank, world.size) == (0, 1)
        assert world.is_main_process
        world.barrier()
        assert world.broadcast(lambda: 3) == 3
    assert rank_device() == "cpu"
    assert not paddle.in_dynamic_mode()


def test_alone_a_sum_is_the_values_themselves() -> None:
    values = [object(), object()]
    assert World.alone().all_reduce_sum(values) == values


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 2 of 2"):
        World(2, 2)


def test_what_cannot_be_summed_is_named() -> None:
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        rows = paddle.static.data("rows", [-1, 3], "float32")
        wide = paddle.static.data("wide", [3], "float64")
    keep_program(program, [rows, wide])
    with pytest.raises(ValueError, match=r"rows: shape \[-1, 3\] is not known"):
        World(0, 2).all_reduce_sum([rows])
    with pytest.raises(ValueError, match="wide: values of type float64"):
        World(0, 2).all_reduce_sum([wide])
