"""The one place that imports Paddle, when it is first used: sets what must be set before, undoes what its import changes."""

import contextlib
import ctypes
import functools
import importlib.metadata
import logging
import os
import re
import signal
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hubflow.errors import DeviceError
from hubflow.runtime.threads import THREADS, compute_cores, given_threads

BYTES_OF_SIGACTION = 512  # more than any system's struct sigaction has
BUILD_LOCK = threading.RLock()
"""Static programs are not thread-safe to build: hold this lock while you build one."""


def _is_amd_with_avx2() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in text and re.search(r"^flags\s*:.*\bavx2\b", text, re.MULTILINE) is not None


def _import_paddle() -> Any:
    """Import Paddle, keeping the root logger as it was (Paddle sets it to INFO and adds a handler)."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    if _is_amd_with_avx2():
        # The MKL in Paddle's wheel runs its SSE code on AMD unless this is set: 2.5 times slower matrix products.
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    warnings.filterwarnings("ignore", module=r"paddle\.")
    with _sigterm_kept():
        import paddle

    if not given_threads():  # Paddle sets it to 1, and processes started from here would take that for the user's word
        paddle.base.core.set_num_threads(1)  # sets OpenMP up while it is 1: threads of the executor begin with that
        os.environ.pop(THREADS, None)
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    return paddle


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back: Paddle's ends the process before any `finally` runs, and cancelling is SIGTERM.

    By the system's own call, for `signal.signal` works in the main thread alone, and a task runner imports in others.
    """
    if os.name != "posix":
        yield
        return
    library, action = ctypes.CDLL(None), ctypes.create_string_buffer(BYTES_OF_SIGACTION)
    library.sigaction(int(signal.SIGTERM), None, action)
    try:
        yield
    finally:
        library.sigaction(int(signal.SIGTERM), action, None)


class _OnFirstUse:
    """Paddle, or one of its modules by dotted `name`, imported when something of it is first asked for.

    Importing it takes seconds, and much of what is kept beside programs, such as a module's configuration, needs none of it.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(functools.reduce(getattr, self._name.split(".") if self._name else [], _imported()), attribute)


_importing = threading.Lock()


def _imported() -> Any:
    with _importing:
        return _imported_once()


@functools.cache
def _imported_once() -> Any:
    return _import_paddle()


paddle: Any = _OnFirstUse()
nn: Any = _OnFirstUse("nn")
functional: Any = _OnFirstUse("nn.functional")


def leave_dynamic_mode() -> None:
    """Go over to static programs, in this thread too.

    A thread takes dynamic mode over from the one that imported Paddle, but not what `paddle.enable_static` leaves it by.
    """
    paddle.enable_static()
    if paddle.in_dynamic_mode():
        paddle.base.framework.global_var._dygraph_tracer_ = None


def place_of(device: str) -> Any:
    """Paddle's place for `auto`, `cpu`, `gpu` or `gpu:N`; the first one of `gpu:N,M`.

    Raises:
        DeviceError: when a GPU is asked for that is not there, saying what was found.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "cpu" or (device == "auto" and not has_gpu):
        return paddle.CPUPlace()
    count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    indices = [int(index) for index in (device.partition(":")[2] or "0").split(",")]
    if max(indices) >= count:
        build = "with CUDA" if paddle.is_compiled_with_cuda() else "for CPU only"
        found = f"found {count} GPU(s), and Paddle {paddle.__version__} built {build}"
        raise DeviceError(f"device {device!r}: {found}; {_remedy()}use device: cpu")
    return paddle.CUDAPlace(indices[0])


def _remedy() -> str:
    """What to do where packages of Paddle are in each other's place: both install the module `paddle`."""
    found = {name: version for name in ("paddlepaddle", "paddlepaddle-gpu") if (version := _version_of(name)) is not None}
    if paddle.is_compiled_with_cuda() or "paddlepaddle-gpu" not in found:
        return ""
    names = " and ".join(f"{name} {version}" for name, version in found.items())
    return (
        f"{names} are installed, whose files are the same, and those of paddlepaddle are there: remove both (pip uninstall "
        "paddlepaddle paddlepaddle-gpu), and install paddlepaddle-gpu again; or "
    )


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


IN_TURN = "FLAGS_enable_pir_in_executor_trace_run"
BLOCKTIME = "KMP_BLOCKTIME"
BLOCK_MILLISECONDS = 200
"""How long a thread of Intel's OpenMP waits for work before it lets go of its core, by default."""


def use_own_threads(sub_batches: int, in_turn: bool = False) -> None:
    """Let each of `sub_batches` compute with its share of the cores that may be used.

    Loading a predictor sets the number of threads for the whole process, and with it the order of sums and the bits of what is
    trained.

    Args:
        sub_batches: of the programs to be run.
        in_turn: whether operators run one after the other, for those that have threads of their own: Paddle's executor would
            run some side by side, and its threads wait for work without letting go of their cores.
    """
    paddle.base.core.set_num_threads(max(1, compute_cores() // sub_batches))
    if paddle.get_flags([IN_TURN])[IN_TURN] != in_turn:
        paddle.set_flags({IN_TURN: in_turn})
    openmp = _openmp()
    if openmp is not None:
        openmp.kmp_set_blocktime(0 if in_turn else BLOCK_MILLISECONDS)


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The library that shares Paddle's operators out among threads, where it is Intel's and the user has not set it."""
    path = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    return ctypes.CDLL(str(path)) if path.is_file() and BLOCKTIME not in os.environ else None


def truncated_normal(std: float) -> Any:
    """Initializer: normal, cut at two standard deviations (Paddle 3 reads its bounds as values: by default nothing is cut)."""
    return paddle.nn.initializer.TruncatedNormal(std=std, a=-2 * std, b=2 * std)


def zeros_variable(name: str, shape: list[int], trainable: bool = False) -> Any:
    """A variable of the current program that keeps its values between runs; the current startup program sets it to zeros."""
    zero = paddle.nn.initializer.Constant(0.0)
    attribute = paddle.ParamAttr(name=name, initializer=zero, trainable=trainable)
    return paddle.create_parameter(shape, "float32", name=name, attr=attribute)


def set_variable(scope: Any, name: str, array: Any, place: Any) -> None:
    """Put `array` into the scope's variable `name`, making it when it is not there."""
    scope.var(name).get_tensor().set(array, place)


def get_variable(scope: Any, name: str, copy: bool = True) -> Any:
    """The scope's variable `name` as an array of numpy.

    Args:
        scope: that has it.
        name: of the variable.
        copy: False for one that shares the variable's memory, where that is the host's, and cannot be written to. It shows what
            the variable has now, until a program is run or the variable is set.
    """
    tensor = scope.find_var(name).get_tensor()
    if copy or not tensor._place().is_cpu_place():
        return np.asarray(tensor)  # which copies
    return np.from_dlpack(_OnHost(tensor))


class _OnHost:
    """A tensor in the host's memory, as numpy asks for it."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return self._tensor._to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU of DLPack


def variable_bytes(scope: Any, name: str) -> int:
    """How many bytes the scope's variable `name` has."""
    tensor = scope.find_var(name).get_tensor()
    return int(tensor._numel() * paddle.base.core.size_of_dtype(tensor._dtype()))


def keep_program(program: Any, values: Iterable[Any]) -> None:
    """Let `program` live as long as any of `values`: Paddle does not, and using a variable of a freed program crashes."""
    for value in values:
        weakref.finalize(value, id, program).atexit = False
