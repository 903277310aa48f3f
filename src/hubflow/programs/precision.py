"""Mixed precision: which products are computed in fewer bits, and on which devices that can be done."""

import contextlib
import re
from pathlib import Path
from typing import Any

from hubflow.errors import DeviceError
from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle
from hubflow.schemas.training import Precision

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


def ask_for_both_gradients(program: Any) -> None:
    """Let every product in bfloat16 that has a gradient have it for both of its sides, frozen ones too.

    To be called before gradients are added, for a CPU: Paddle 3.3.1 writes to both there, and ends with a segmentation fault
    where one was not asked for. The gradient goes no further than to the product.
    """
    for op in program.global_block().ops:
        if op.name() == "pd_op.matmul" and op.result(0).dtype == paddle.bfloat16 and not op.result(0).stop_gradient:
            for side in op.operands_source():
                side.stop_gradient = False


def require_precision(precision: Precision, place: Any, is_image: bool, has_kernels: bool = False) -> None:
    """Refuse a precision that the device cannot compute in.

    On a CPU bfloat16 trains image modules with operators of hubflow's own alone: Paddle's batch norm there does not take what
    its convolution in bfloat16 gives.

    Raises:
        DeviceError: saying what was found.
    """
    if precision == "float32" or isinstance(place, paddle.CUDAPlace):
        return
    if precision == "float16":
        raise DeviceError("train.precision float16 needs a GPU, and this run is on the CPU; use float32")
    if is_image and not has_kernels:
        raise DeviceError(
            "train.precision bfloat16 trains image modules on a GPU, or on a CPU with avx512_bf16 for which hubflow's "
            "operators can be compiled (a C++ compiler; HUBFLOW_KERNELS not off); use float32"
        )
    found = cpu_flags()
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
    found = cpu_flags()
    if not found.intersection(BFLOAT16_FLAGS):
        known = ", ".join(sorted(flag for flag in found if flag.startswith(("avx", "amx")))) or "no AVX"
        raise DeviceError(
            f"this export computes in bfloat16, which needs a CPU with {' or '.join(BFLOAT16_FLAGS)}; this one has {known}. "
            "Export with export.precision: float32"
        )


def switch_onednn_off() -> None:
    """Take back the flag by which oneDNN would compute all that runs for the first time from now on.

    Under it Paddle 3.3.1 never updates the running statistics of batch norms, and SGD changes nothing, both without an error; a
    step in bfloat16 throws. Products in bfloat16 and the convolutions of `convolutions` need no flag.
    """
    if paddle.get_flags([ONEDNN])[ONEDNN]:
        paddle.set_flags({ONEDNN: False})


def cpu_flags() -> frozenset[str]:
    """The flags of this CPU, as Linux names them; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()
