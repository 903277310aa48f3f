"""Who is who among the ranks, and what each takes; sums over real ranks are tested where ranks are launched."""

import numpy as np
import pytest

from hubflow.stages.hub.distributed import World, all_reduce_sum, join, meet, rank_device, share_of
from hubflow.stages.hub.runtime import keep_program, paddle


def test_shares_are_the_batch_and_nothing_twice() -> None:
    rows = np.arange(100, 111)
    shares = [share_of(rows, World(rank, 3)) for rank in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == rows.tolist()
    assert [len(share) for share in shares] == [4, 4, 3]
    assert share_of(rows[:2], World(2, 3)).tolist() == []


def test_rows_sorted_by_length_spread_evenly() -> None:
    lengths = np.arange(64)
    sums = [share_of(lengths, World(rank, 4)).sum() for rank in range(4)]
    assert max(sums) - min(sums) < 64


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "FLAGS_selected_gpus"):
        monkeypatch.delenv(name, raising=False)
    world = join()
    assert world == World.alone() == World(0, 1)
    assert world.leads
    assert rank_device() == "cpu"
    assert not paddle.in_dynamic_mode()
    meet(world)


def test_alone_a_sum_is_the_values_themselves() -> None:
    values = [object(), object()]
    assert all_reduce_sum(values, World.alone()) == values


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
        all_reduce_sum([rows], World(0, 2))
    with pytest.raises(ValueError, match="wide: values of type float64"):
        all_reduce_sum([wide], World(0, 2))
