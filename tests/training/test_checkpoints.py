"""Checkpoints: whole or not there, whatever interrupts their writing; a damaged one gives way to the one before it."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hubflow.errors import StoreError
from hubflow.modules.weights import read_weights
from hubflow.training.checkpoints import Checkpoints, save_weights

STATE = {"epoch": 3, "note": "é中"}
FILES = ["model.safetensors", "state.json", "manifest.json"]
WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from hubflow.errors import StoreError
from hubflow.training.checkpoints import Checkpoints

def arrays(step, size=1000):
    return {"a": np.full(size, step, np.float32), "b": np.full((3, size), step, np.int64), "step": np.array(step)}
"""


def arrays(step: int) -> dict[str, Any]:
    return {"a": np.full(50, step, np.float32), "step": np.array(step)}


def save(checkpoints: Checkpoints, step: int, best_step: int = 0) -> None:
    if best_step == step:
        checkpoints.save_best(step, arrays(step))
    checkpoints.save(arrays(step), {**STATE, "step": step, "best_step": best_step})


def loaded_step(folder: Path) -> int | None:
    """Step of what a new process would load, once all of it was seen to be of that step."""
    checkpoints = Checkpoints(folder)
    loaded = checkpoints.load()
    if loaded is None:
        return None
    found, state = loaded
    step, best_step = state["step"], state["best_step"]
    assert all(np.all(array == step) for array in found.values())
    if best_step:
        assert np.all(load_file(checkpoints.best(best_step) / "model.safetensors")["a"] == best_step)
    assert isinstance(step, int)
    return step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def last(folder: Path, step: int) -> Path:
    return folder / f"last-{step:08d}"


def best(folder: Path, step: int) -> Path:
    return folder / f"best-{step:08d}"


def flip(path: Path, position: float, bit: int = 0) -> None:
    """Flip one bit at `position`, a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def run_writer(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", WRITER + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_nothing_is_loaded_where_nothing_was_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Checkpoints(tmp_path / "deep" / "run").load() is None
    assert caplog.messages == []


def test_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    odd = np.array([0.1, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1e-45], np.float64)
    given: dict[str, Any] = {
        "float64": odd,
        "float32": odd.astype(np.float32).reshape(1, 7),
        "float16": np.arange(6, dtype=np.float16).reshape(2, 3),
        "bits of bfloat16": np.array([0, 1, 65535], np.uint16),
        "int64": np.array([-(2**63), 2**63 - 1]),
        "bool": np.array([True, False]),
        "0-d": np.array(7, np.int64),
        "0-d float": np.array(0.1, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
    }
    Checkpoints(tmp_path).save(given, {"step": 1, "best_step": 0})
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded[0].keys() == given.keys()
    for name, array in loaded[0].items():
        assert (array.dtype, array.shape) == (given[name].dtype, given[name].shape), name
        assert array.tobytes() == given[name].tobytes(), name


def test_the_state_comes_back_exactly(tmp_path: Path) -> None:
    numbers = [0.1 + 0.2, 5e-324, -0.0, math.inf, -math.inf, 1.7976931348623157e308, 2**70, float(np.float64(1) / 3)]
    state = {"step": 12, "best_step": 0, "best_value": math.nan, "numbers": numbers, "none": None, "text": "é\n\ud800"}
    Checkpoints(tmp_path).save({}, state)
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    found = loaded[1]
    assert math.isnan(found.pop("best_value"))
    state.pop("best_value")
    assert found == state
    assert [str(number) for number in found["numbers"]] == [str(number) for number in numbers]


def test_a_state_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1)
    with pytest.raises(TypeError):
        Checkpoints(tmp_path).save(arrays(2), {"step": 2, "best_step": 0, "what": object()})
    assert names(tmp_path) == ["last-00000001"]


def test_the_newest_is_loaded_and_as_many_as_asked_for_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (7, 8, 9, 10, 99_999_999, 100_000_000):
        save(checkpoints, step)
        assert loaded_step(tmp_path) == step
    assert names(tmp_path) == ["last-00000010", "last-100000000", "last-99999999"]


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1)
    Checkpoints(tmp_path).save({"a": np.zeros(2)}, {"step": 1, "best_step": 0})
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded[0].keys() == {"a"}
    assert names(tmp_path) == ["last-00000001"]


def test_a_run_that_starts_again_leaves_no_later_checkpoint_of_its_former_life(tmp_path: Path) -> None:
    for step in (8, 9):
        save(Checkpoints(tmp_path), step, step)
    save(Checkpoints(tmp_path), 1)
    assert names(tmp_path) == ["last-00000001"]


def test_the_best_is_kept_as_long_as_a_kept_last_refers_to_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1, 1)
    save(checkpoints, 2, 2)
    assert names(tmp_path) == ["best-00000001", "best-00000002", "last-00000001", "last-00000002"]
    save(checkpoints, 3, 2)
    assert names(tmp_path) == ["best-00000002", "last-00000002", "last-00000003"]
    checkpoints.save_best(4, arrays(4))
    assert names(tmp_path) == ["best-00000002", "best-00000004", "last-00000002", "last-00000003"]
    assert loaded_step(tmp_path) == 3
    save(checkpoints, 4, 4)
    assert names(tmp_path) == ["best-00000002", "best-00000004", "last-00000003", "last-00000004"]
    save(checkpoints, 5, 4)
    assert names(tmp_path) == ["best-00000004", "last-00000004", "last-00000005"]


def test_a_damaged_last_keeps_no_best_and_hinders_no_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1)
    (last(tmp_path, 1) / "state.json").write_text("{")
    save(checkpoints, 2, 2)
    assert names(tmp_path) == ["best-00000002", "last-00000001", "last-00000002"]


def test_the_best_weights_are_read_as_those_of_a_module(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(5, arrays(5))
    assert read_weights(checkpoints.best(5))["a"][0] == 5
    assert checkpoints.best(5) == best(tmp_path, 5)


def test_a_best_that_is_repeated_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(5, arrays(4))
    checkpoints.save_best(5, arrays(5))
    assert read_weights(checkpoints.best(5))["a"][0] == 5
    assert names(tmp_path) == ["best-00000005"]


def test_best_weights_that_are_missing_or_altered_are_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(StoreError, match=r"best-00000005: no such folder"):
        checkpoints.best(5)
    checkpoints.save_best(5, arrays(5))
    flip(best(tmp_path, 5) / "model.safetensors", 0.9)
    with pytest.raises(StoreError, match=r"best-00000005: 1 file\(s\) missing or altered .*model\.safetensors"):
        checkpoints.best(5)


def _truncate(share: float) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        os.truncate(path, int(share * path.stat().st_size))

    return harm


def _flip(position: float, bit: int) -> Callable[[Path], None]:
    return lambda path: flip(path, position, bit)


def _make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS: dict[str, Callable[[Path], object]] = {
    **{f"torn at {share}": _truncate(share) for share in (0, 0.01, 0.25, 0.5, 0.75, 0.99)},
    **{f"bit {bit} flipped at {position}": _flip(position, bit) for position, bit in ((0, 1), (0.3, 0), (0.6, 4), (1, 6))},
    "missing": Path.unlink,
    "a folder": _make_a_folder,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    file: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1)
    save(checkpoints, 2, 1)
    HARMS[harm](last(tmp_path, 2) / file)
    assert loaded_step(tmp_path) == 1
    (warning,) = caplog.messages
    assert warning.startswith(str(last(tmp_path, 2)))
    assert file in warning or (file == "manifest.json" and "missing or altered" in warning)
    assert "put aside as damaged-last-00000002: the run goes on from the checkpoint before it" in warning
    assert names(tmp_path) == ["best-00000001", "damaged-last-00000002", "last-00000001"]
    assert loaded_step(tmp_path) == 1
    assert len(caplog.messages) == 1
    save(checkpoints, 2, 1)
    assert loaded_step(tmp_path) == 2


def test_every_flip_of_a_manifest_is_found_out_or_without_consequence(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path / "whole"), 1)
    size = (last(tmp_path / "whole", 1) / "manifest.json").stat().st_size
    outcomes = []
    for number in range(0, size, 2):
        folder = tmp_path / "flipped"
        shutil.copytree(tmp_path / "whole", folder)
        flip(last(folder, 1) / "manifest.json", number / (size - 1), number // 2 % 7)
        outcomes.append(loaded_step(folder))
        shutil.rmtree(folder)
    assert set(outcomes) <= {1, None}
    assert outcomes.count(None) > len(outcomes) / 2


@pytest.mark.parametrize("harm", ["torn at 0.5", "bit 4 flipped at 0.6", "missing"])
@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_a_checkpoint_whose_best_is_damaged_gives_way_to_the_one_before_it(
    file: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1)
    save(checkpoints, 2, 2)
    HARMS[harm](best(tmp_path, 2) / file)
    assert loaded_step(tmp_path) == 1
    (warning,) = caplog.messages
    assert warning.startswith(str(best(tmp_path, 2)))
    assert file in warning or (file == "manifest.json" and "missing or altered" in warning)
    assert "last-00000002 is not used" in warning
    save(checkpoints, 2, 2)
    assert loaded_step(tmp_path) == 2


def test_a_best_that_is_gone_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(Checkpoints(tmp_path), 1)
    save(Checkpoints(tmp_path), 2, 2)
    shutil.rmtree(best(tmp_path, 2))
    assert loaded_step(tmp_path) == 1
    assert "best-00000002: no such folder; so last-00000002 is not used" in caplog.text


def test_a_whole_folder_of_another_step_or_kind_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1, 1)
    shutil.copytree(last(tmp_path, 1), last(tmp_path, 3))
    shutil.copytree(best(tmp_path, 1), last(tmp_path, 2))
    assert loaded_step(tmp_path) == 1
    with pytest.raises(StoreError, match="not of best step 4"):
        shutil.copytree(last(tmp_path, 1), best(tmp_path, 4))
        Checkpoints(tmp_path).best(4)


def test_nothing_is_loaded_when_all_are_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        save(checkpoints, step)
        flip(last(tmp_path, step) / "model.safetensors", 0.9)
    assert loaded_step(tmp_path) is None
    assert [message.split(":")[0] for message in caplog.messages] == [str(last(tmp_path, step)) for step in (3, 2, 1)]
    save(checkpoints, 1)
    assert loaded_step(tmp_path) == 1


def test_a_step_damaged_twice_is_put_aside_twice(tmp_path: Path) -> None:
    for _ in range(2):
        save(Checkpoints(tmp_path), 1)
        (last(tmp_path, 1) / "state.json").unlink()
        assert loaded_step(tmp_path) is None
    assert names(tmp_path) == ["damaged-last-00000001"]


def test_what_a_killed_writer_left_is_removed_and_not_taken_for_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(Checkpoints(tmp_path), 1, 1)
    for name in (".last-00000002.0123456789abcdef.draft", ".best-00000002.0123456789abcdef.draft", ".removed"):
        shutil.copytree(last(tmp_path, 1), tmp_path / name)
    (tmp_path / ".best-00000001.0123456789abcdef.old").mkdir()
    (tmp_path / ".someone-elses").mkdir()
    assert loaded_step(tmp_path) == 1
    assert names(tmp_path) == [".someone-elses", "best-00000001", "last-00000001"]
    assert caplog.messages == []


def test_a_best_put_aside_by_a_writer_that_was_killed_comes_back(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1, 1)
    aside = tmp_path / ".best-00000001.0123456789abcdef.old"
    aside.mkdir()
    best(tmp_path, 1).rename(aside / "0")
    assert loaded_step(tmp_path) == 1
    assert names(tmp_path) == ["best-00000001", "last-00000001"]


KILLED_AT_EACH_OPERATION = """
import shutil
root = Path(sys.argv[1])

def write(folder, kill_at):
    checkpoints, seen = Checkpoints(folder, keep=1), [0]

    def hook(event, _):
        if event.split(".")[0] in ("open", "os", "shutil", "tempfile"):
            seen[0] += 1
            if seen[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    checkpoints.save_best(2, arrays(2))
    checkpoints.save_best(2, arrays(2))
    checkpoints.save(arrays(3), {"step": 3, "best_step": 2})
    os._exit(0)

base = Checkpoints(root / "base")
base.save_best(2, arrays(2))
base.save(arrays(2), {"step": 2, "best_step": 2})
for number in range(1, 1000):
    folder = root / f"{number:03d}"
    shutil.copytree(root / "base", folder)
    child = os.fork()
    if child == 0:
        write(folder, number)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.slow
def test_a_kill_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each process replaces the best that the only last refers to, writes a last and drops the one before."""
    result = run_writer(KILLED_AT_EACH_OPERATION, tmp_path)
    assert result.returncode == 0, result.stderr
    folders = sorted(path for path in tmp_path.iterdir() if path.name != "base")
    steps = [loaded_step(folder) for folder in folders]
    assert len(folders) > 60, "every operation was to be one at which a process is killed"
    assert steps == sorted(steps, key=str)
    assert set(steps) == {2, 3}
    assert caplog.messages == []
    assert all(not name.startswith(".") for folder in folders for name in names(folder))


SAVES_UNTIL_KILLED = """
checkpoints = Checkpoints(Path(sys.argv[1]))
loaded = checkpoints.load()
state = loaded[1] if loaded else {"step": 0, "best_step": 0}
print("ready", flush=True)
while True:
    state["step"] += 1
    if state["step"] % 3 == 0:
        state["best_step"] = state["step"]
        checkpoints.save_best(state["step"], arrays(state["step"], 100_000))
    checkpoints.save(arrays(state["step"], 100_000), state)
    print(state["step"], flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing_that_was_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moments = random.Random(0)  # noqa: S311
    reached = 0
    for _ in range(20):
        command = [sys.executable, "-c", WRITER + SAVES_UNTIL_KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0, 0.08))
            writer.kill()
            told = writer.stdout.read().split()
        reached = max([reached, *(int(step) for step in told if step.isdigit())])
        step = loaded_step(tmp_path) or 0
        assert reached <= step <= reached + 1
        reached = step
    assert reached > 0
    assert caplog.messages == []


FULL_DISK = """
import resource
checkpoints = Checkpoints(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[2] == "best":
        checkpoints.save_best(2, arrays(2, 100_000))
    else:
        checkpoints.save(arrays(2, 100_000 if sys.argv[2] == "last" else 10),
                         {"step": 2, "best_step": 1, "history": "x" * 200_000})
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["last", "best", "state"])
def test_a_full_disk_is_told_and_harms_no_earlier_checkpoint(what: str, tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1, 1)
    result = run_writer(FULL_DISK, tmp_path, what)
    target = best(tmp_path, 2) if what == "best" else last(tmp_path, 2)
    assert result.stdout.startswith(f"{target} could not be written ("), result.stderr
    assert "File too large" in result.stdout
    assert "the earlier checkpoints are unharmed" in result.stdout
    assert names(tmp_path) == ["best-00000001", "last-00000001"]
    assert loaded_step(tmp_path) == 1


READ_ONLY = """
folder = Path(sys.argv[1])
Checkpoints(folder / "warm").save(arrays(1), {"step": 1, "best_step": 0})
if os.geteuid() == 0:
    os.chown(folder, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
checkpoints = Checkpoints(folder / "run")
checkpoints.save_best(1, arrays(1))
checkpoints.save(arrays(1), {"step": 1, "best_step": 1})
(folder / "run").chmod(0o555)
for write in (lambda: checkpoints.save(arrays(2), {"step": 2, "best_step": 1}), lambda: checkpoints.save_best(2, arrays(2)),
              lambda: Checkpoints(folder / "run" / "other")):
    try:
        write()
    except StoreError as error:
        print(error)
print("loaded", Checkpoints(folder / "run").load()[1]["step"])
(folder / "run" / "last-00000001" / "state.json").write_text("")
try:
    checkpoints.load()
except StoreError as error:
    print(error)
"""


def test_a_store_that_turns_read_only_is_told_and_harms_no_earlier_checkpoint() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        result = run_writer(READ_ONLY, name)
        run = Path(name, "run")
        last_told, best_told, other_told, loaded, damaged_told = result.stdout.splitlines()
        run.chmod(0o755)
        assert names(run) == ["best-00000001", "last-00000001"]
    for target, told in ((last(run, 2), last_told), (best(run, 2), best_told)):
        assert told.startswith(f"{target} could not be written (")
        assert "Permission denied" in told
        assert "the earlier checkpoints are unharmed" in told
    assert f"{run / 'other'}: the folder of the run's checkpoints cannot be written" in other_told
    assert loaded == "loaded 1"
    assert f"{last(run, 1)} is damaged and cannot be put aside" in damaged_told


def test_a_path_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: the folder of the run's checkpoints cannot be written"):
        Checkpoints(tmp_path / "file")


def test_manifests_name_what_they_seal(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path), 1, 1)
    manifest = json.loads((last(tmp_path, 1) / "manifest.json").read_text())
    assert manifest["kind"] == "last"
    assert manifest["facts"] == {"step": 1}
    assert manifest["files"].keys() == {"model.safetensors", "state.json"}


def test_arrays_that_are_not_contiguous_are_written_as_they_read(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_weights(tmp_path / "w.safetensors", {"a": array})
    np.testing.assert_array_equal(load_file(tmp_path / "w.safetensors")["a"], array)
