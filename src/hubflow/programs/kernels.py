"""Operators of hubflow's own in C++: compiled once for this machine, and done without where that cannot be."""

import functools
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from hubflow.files import read_file
from hubflow.modules.download import cache_home
from hubflow.modules.networks.sub_batches import SEED
from hubflow.programs.precision import cpu_flags
from hubflow.runtime.paddle_import import paddle, zeros_variable

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.cpp", "images.cpp"))
HEADERS = (Path(__file__).with_name("products.h"),)
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16")
NEEDED = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"})
COMPILERS = ("c++", "g++", "clang++")
SWITCH = "HUBFLOW_KERNELS"
"""Variable of the environment: `off` does without."""
COMPILE_SECONDS = 300
MAX_ERROR_CHARS = 500
LINEAR, LINEAR_ONTO = "hubflow_linear", "hubflow_linear_backward_onto"  # `_grad` in a name would be of a registered gradient
ATTENTION, DROPOUT = "hubflow_attention", "hubflow_dropout"
DIALECT = "custom_op"
log = logging.getLogger(__name__)


class CompiledKernels:
    """The operators for one program: products in bfloat16 with sums in float32, all else in float32.

    The weights of a linear layer are laid out once a step, for every sub-batch. What dropout zeroes is a function of the
    variable `SEED` and of the place in the program.
    """

    def __init__(self) -> None:
        self._packed: dict[str, Any] = {}
        self._seed: Any = None
        self._places = 0

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        """`x` `[rows, in]` times `weight` `[in, out]` plus `bias` `[out]`: `[rows, out]`, float32."""
        if weight.name not in self._packed:
            packed = run_kernel("hubflow_pack", weight)
            packed.stop_gradient = True
            self._packed[weight.name] = packed
        operator = "hubflow_frozen_linear" if weight.stop_gradient else LINEAR
        return run_kernel(operator, x, weight, bias, self._packed[weight.name])

    def layer_norm(self, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        """`x` normalised over its last dimension, times `weight` plus `bias`."""
        return run_kernel("hubflow_layer_norm", x, weight, bias, epsilon)

    def gelu(self, x: Any) -> Any:
        """`x` times the share of the normal distribution that is below it."""
        return run_kernel("hubflow_gelu", x)

    def attention(self, query: Any, key: Any, value: Any, mask: Any, heads: int, dropout: float) -> Any:
        """What queries `[batch * queries, hidden]` take from `value` by their likeness to `key`, both `[batch * seq, hidden]`.

        Args:
            query: of each token that asks.
            key: of each token that is asked.
            value: of the same.
            mask: `[batch, 1, 1, seq]`, added to the scores.
            heads: into how many parts the last dimension is cut.
            dropout: which part of the weights is zeroed.
        """
        seed, place = self._next_place()
        return run_kernel(ATTENTION, query, key, value, mask, seed, heads, dropout, place)

    def dropout(self, x: Any, probability: float) -> Any:
        """`x` with elements zeroed by `probability`, the others scaled up."""
        if not probability:
            return x
        seed, place = self._next_place()
        return run_kernel(DROPOUT, x, seed, probability, place)

    def _next_place(self) -> tuple[Any, int]:
        if self._seed is None:
            self._seed = zeros_variable(SEED, [1])
        self._places += 1
        return self._seed, self._places


def drop_nothing(program: Any) -> None:
    """Let operators of a program that is not for training zero nothing, as `set_is_test_attr` does with Paddle's."""
    for op in program.global_block().ops:
        if op.name() == f"{DIALECT}.{DROPOUT}":
            op.result(0).replace_all_uses_with(op.operand_source(0))
            op.erase()
        elif op.name() == f"{DIALECT}.{ATTENTION}" and op.attrs()["probability"]:
            with paddle.static.program_guard(program):
                paddle.pir.set_insertion_point(op)
                attributes = op.attrs()
                whole = run_kernel(ATTENTION, *op.operands_source(), attributes["heads"], 0.0, attributes["place"])
            op.result(0).replace_all_uses_with(whole)
            op.erase()


def run_kernel(operator: str, *arguments: Any) -> Any:
    """The first result of an operator, which is added to the current program: inputs, then attributes in their order."""
    y, *_ = paddle._C_ops._run_custom_op(operator, *arguments)
    return y


def add_up_gradients(program: Any) -> int:
    """Let each sub-batch add its gradients of a linear layer's weights and bias to those of the one before it; how many do.

    Apart, they are in memory side by side until all are there, and an operator adds them up. To be called when nothing will be
    added to the program any more.
    """
    ops = program.global_block().ops
    place = {op.id(): number for number, op in enumerate(ops)}
    sums: dict[tuple[int, ...], dict[int, Any]] = {}
    for op in ops:
        parts = op.operand_source(0).get_defining_op().operands_source() if op.name() == "pd_op.add_n" else []
        makers = [part.get_defining_op() for part in parts]
        if not makers or {maker.name() for maker in makers} != {f"{DIALECT}.{LINEAR}_grad"}:
            continue
        (output,) = {
            number
            for maker, part in zip(makers, parts, strict=True)
            for number, made in enumerate(maker.results())
            if made.is_same(part)
        }
        sums.setdefault(tuple(sorted(place[maker.id()] for maker in makers)), {})[output] = op
    added = 0
    for places, by_output in sums.items():
        first, *others = (ops[number] for number in places)
        if set(by_output) != {1, 2}:
            continue
        totals = [first.result(1), first.result(2)]
        for op in others:
            with paddle.static.program_guard(program):
                paddle.pir.set_insertion_point(op)
                of_x, *totals = paddle._C_ops._run_custom_op(LINEAR_ONTO, *op.operands_source(), *totals)
            op.result(0).replace_all_uses_with(of_x)
        for output, total in zip((1, 2), totals, strict=True):
            combined = by_output[output].operand_source(0).get_defining_op()
            by_output[output].result(0).replace_all_uses_with(total)
            by_output[output].erase()
            combined.erase()
        for op in others:
            op.erase()
        added += len(others)
    return added


def find_kernels() -> CompiledKernels | None:
    """The operators for a program, or None, with a line in the log, where this machine cannot have them.

    They need a CPU with AVX512-BF16 and, once, a C++ compiler. `HUBFLOW_KERNELS=off` does without.
    """
    return CompiledKernels() if _is_loaded() else None


class _NoCompiler(OSError):
    """There is none, and nothing has been compiled before."""


@functools.cache
def _is_loaded() -> bool:
    """Whether the operators are known to Paddle in this process; compiles them where nobody has for this machine."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false") or not cpu_flags() >= NEEDED:
        return False
    try:
        library = _compiled()
        paddle.base.core.load_op_meta_info_and_register_op(str(library))
    except _NoCompiler:
        log.warning(
            "bfloat16: no C++ compiler (%s) is installed, so that Paddle computes the products, which takes longer than "
            "float32 does; install one, or use train.precision: float32",
            ", ".join(COMPILERS),
        )
        return False
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        log.warning("bfloat16: hubflow's operators cannot be made, Paddle's are used: %s", said.strip()[:MAX_ERROR_CHARS])
        return False
    return True


def _compiled() -> Path:
    """The library for this Paddle, Python and source in the cache, compiled where it is missing.

    Raises:
        OSError: when there is no compiler (_NoCompiler); when the cache cannot be written, or belongs to others who could put a
            library of theirs there.
        SubprocessError: when the compiler fails.
    """
    root = Path(paddle.__file__).parent
    include = (root / "include", root / "include" / "third_party", Path(sysconfig.get_paths()["include"]))
    known = [*map(read_file, (*SOURCES, *HEADERS)), paddle.__version__.encode(), sysconfig.get_platform().encode()]
    known += [" ".join(FLAGS).encode(), (sysconfig.get_config_var("SOABI") or "").encode()]
    key = hashlib.sha256(b"\0".join(known)).hexdigest()[:20]
    folder = cache_home() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(folder)
    library = folder / f"kernels-{key}.so"
    with FileLock(folder / ".lock"):
        if not library.exists():
            compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
            if compiler is None:
                raise _NoCompiler
            log.info("bfloat16: compiling hubflow's operators for this machine, once; takes some seconds …")
            with tempfile.TemporaryDirectory(dir=folder) as draft:
                made = Path(draft) / library.name
                objects = [f"{made}.{source.stem}.o" for source in SOURCES]
                command = [compiler, *FLAGS, *(f"-I{one}" for one in include), "-c"]
                with ThreadPoolExecutor(len(SOURCES)) as pool:
                    list(pool.map(lambda source, to: _run_compiler([*command, str(source), "-o", to]), SOURCES, objects))
                _run_compiler([compiler, "-shared", *objects, f"-L{root / 'base'}", "-l:libpaddle.so", "-o", str(made)])
                made.replace(library)
    _require_own(library)
    return library


def _run_compiler(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)  # noqa: S603


def _require_own(path: Path) -> None:
    """Refuse what another user could have written: a library is code that runs as this user."""
    found = path.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others; make it yours alone (chmod go-w), or set HUBFLOW_CACHE")
