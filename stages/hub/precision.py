"""Mixed precision: which products are computed in fewer bits, and on which devices that can be done."""

import contextlib
import re
from pathlib import Path
from typing import Any

from hubflow.schemas.training import Precision
from hubflow.stages.hub.errors import DeviceError
from hubflow.stages.hub.runtime import leave_dynamic_mode, paddle

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
ONEDNN = "FLAGS_use_mkldnn"


def cast_to(precision: Precision) -> Any:
    """A context in which a program is built so that its matrix products and convolutions are of `precision`.

    Weights stay in float32 and are cast where they are used; softmax, norms and losses are computed in float32 (O1 of
    Micikevicius et al., arXiv:1710.03740).
    """
    if precision == "float32":
        return contextlib.nullcontext()
    leave_dynamic_mode()  # in dynamic mode the context would be that of dynamic mode, and nothing be cast
    return paddle.amp.auto_cast(level="O1", dtype=precision)


def require_precision(precision: Precision, place: Any, is_image: bool) -> None:
    """Refuse a precision that the device cannot compute in.

    On a CPU bfloat16 is for text modules: oneDNN, which computes it, leaves batch norms' running statistics where they started.

    Raises:
        DeviceError: saying what was found.
    """
    if precision == "float32" or isinstance(place, paddle.CUDAPlace):
        return
    if precision == "float16":
        raise DeviceError("train.precision float16 needs a GPU, and this run is on the CPU; use float32")
    if is_image:
        raise DeviceError("train.precision bfloat16 trains image modules on a GPU only; this run is on the CPU, use float32")
    found = _cpu_flags()
    if not found.intersection(BFLOAT16_FLAGS):
        known = ", ".join(sorted(flag for flag in found if flag.startswith(("avx", "amx")))) or "no AVX"
        raise DeviceError(
            f"train.precision bfloat16 needs a GPU, or a CPU with {' or '.join(BFLOAT16_FLAGS)}; "
            f"this one has {known}. Use float32"
        )


def require_bfloat16_inference() -> None:
    """Refuse to predict with an export in bfloat16 on a CPU that would only emulate it.

    Raises:
        DeviceError: saying what was found.
    """
    found = _cpu_flags()
    if not found.intersection(BFLOAT16_FLAGS):
        known = ", ".join(sorted(flag for flag in found if flag.startswith(("avx", "amx")))) or "no AVX"
        raise DeviceError(
            f"this export computes in bfloat16, which needs a CPU with {' or '.join(BFLOAT16_FLAGS)}; this one has {known}. "
            "Export with export.precision: float32"
        )


def use_onednn(wanted: bool) -> None:
    """Switch oneDNN on or off for the programs that run for the first time from now on.

    In bfloat16 a CPU computes by oneDNN. Training in float32 must run without it: with Paddle 3.3.1 batch norms then never
    update their running statistics, and SGD changes nothing, both without an error.
    """
    if bool(paddle.get_flags([ONEDNN])[ONEDNN]) != wanted:
        paddle.set_flags({ONEDNN: wanted})


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()
