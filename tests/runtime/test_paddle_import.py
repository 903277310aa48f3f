"""The one place that imports Paddle: devices by name, nobody's logging changed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubflow.errors import DeviceError
from hubflow.runtime.paddle_import import get_variable, paddle, place_of, set_variable

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_the_place_is_the_cpu(device: str) -> None:
    if paddle.is_compiled_with_cuda() and device == "auto":
        pytest.skip("this Paddle is built with CUDA")
    assert (
        place_of(device).is_cpu_place() if hasattr(place_of(device), "is_cpu_place") else "cpu" in str(place_of(device)).lower()
    )


@pytest.mark.parametrize("device", ["gpu", "gpu:7"])
def test_a_gpu_that_is_not_there_says_what_was_found_and_what_to_do(device: str) -> None:
    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle is built with CUDA")
    with pytest.raises(
        DeviceError, match=rf"device '{device}': found 0 GPU\(s\), and Paddle .* built for CPU only; use device: cpu"
    ):
        place_of(device)


def test_two_packages_of_paddle_in_one_place_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle is built with CUDA")
    known = tmp_path / "paddlepaddle_gpu-3.3.1.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: paddlepaddle-gpu\nVersion: 3.3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        DeviceError, match=r"paddlepaddle .* and paddlepaddle-gpu 3\.3\.1 are installed, whose files are the same"
    ):
        place_of("gpu")


def test_variables_are_put_and_copied() -> None:
    scope: Any = paddle.static.Scope()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    set_variable(scope, "a", array, place_of("cpu"))
    copy = get_variable(scope, "a")
    np.testing.assert_array_equal(copy, array)
    copy[:] = 0
    np.testing.assert_array_equal(get_variable(scope, "a"), array)


def test_importing_the_engine_leaves_logging_as_it_was_and_names_are_cheap() -> None:
    script = """
import logging, sys
logging.getLogger().setLevel(logging.ERROR)
from hubflow import hub
assert "paddle" not in sys.modules and "prefect" not in sys.modules
hub.Task
assert "paddle" not in sys.modules and "prefect" not in sys.modules
from hubflow.runtime.paddle_import import paddle
paddle.__version__
root = logging.getLogger()
assert "paddle" in sys.modules and "prefect" not in sys.modules
print(root.level, root.handlers)
try:
    hub.Nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["40 []", "module 'hubflow.hub' has no attribute 'Nothing'"]


def test_programs_are_built_in_a_thread_whatever_mode_the_one_that_imported_paddle_is_in() -> None:
    script = """
import threading
from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle
modes = [paddle.in_dynamic_mode()]
def build():
    leave_dynamic_mode()
    with paddle.static.program_guard(paddle.static.Program()):
        paddle.static.data("x", [-1, 2])
    modes.append(paddle.in_dynamic_mode())
thread = threading.Thread(target=build)
thread.start()
thread.join()
print(modes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["[True, False]"], done.stderr
