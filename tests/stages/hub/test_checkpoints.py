"""Checkpoints: complete or not there, whatever interrupts their writing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hubflow.stages.hub.checkpoints import Checkpoints, save_weights

ARRAYS: dict[str, Any] = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(3, np.int64)}


def holds(checkpoints: Checkpoints, value: float, epoch: int) -> bool:
    last = checkpoints.load_last()
    return last is not None and last[0]["a"].flat[0] == value and last[1] == {"epoch": epoch}


def save(checkpoints: Checkpoints, value: float, epoch: int) -> None:
    checkpoints.save_last({"a": np.full(3, value, np.float32)}, {"epoch": epoch})


def test_what_is_saved_last_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.load_last() is None
    checkpoints.save_last(ARRAYS, {"epoch": 1, "best_value": 0.1 + 0.2})
    last = Checkpoints(tmp_path / "run").load_last()
    assert last is not None
    arrays, state = last
    assert state == {"epoch": 1, "best_value": 0.1 + 0.2}
    assert arrays.keys() == ARRAYS.keys()
    assert arrays["step"].shape == ()
    np.testing.assert_array_equal(arrays["a"], ARRAYS["a"])


def test_best_and_last_are_apart(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best({"a": np.ones(2, np.float32)}, {"epoch": 1})
    save(checkpoints, 2, 2)
    assert load_file(checkpoints.best / "model.safetensors")["a"][0] == 1
    assert holds(checkpoints, 2, 2)


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_a_damaged_checkpoint_counts_as_none(file: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1)
    path = tmp_path / "last" / file
    path.write_bytes(path.read_bytes()[:10])
    assert checkpoints.load_last() is None


def test_a_failure_while_writing_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1)
    with pytest.raises(TypeError):
        checkpoints.save_last({"a": np.full(3, 2, np.float32)}, {"epoch": object()})
    assert holds(Checkpoints(tmp_path), 1, 1)
    save(checkpoints, 3, 3)
    assert holds(checkpoints, 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_process_killed_between_the_renames_leaves_the_new_checkpoint(name: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write = getattr(checkpoints, f"save_{name}")
    write({"a": np.full(3, 2, np.float32)}, {"epoch": 2})
    (tmp_path / name).rename(tmp_path / f".{name}.new")
    (tmp_path / f".{name}.old").mkdir()
    Checkpoints(tmp_path)
    assert load_file(tmp_path / name / "model.safetensors")["a"][0] == 2


def test_arrays_that_are_not_contiguous_are_written_as_they_read(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_weights(tmp_path / "w.safetensors", {"a": array})
    np.testing.assert_array_equal(load_file(tmp_path / "w.safetensors")["a"], array)
