"""The operators that an exported program may have: those that compute, and nothing that reads, writes, sends or calls.

A program in a file is code: Paddle has operators that save to a path, load from one, print, call Python and open connections,
and runs whatever the file says. So a program is read as data before an engine is made of it, and is refused with any operator
that is not listed here. `export` writes no others.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubflow.schemas.errors import HubflowError, bounded
from hubflow.schemas.files import read_file

MAX_BYTES = 256 * 2**20
"""Of a program's file, which holds no weights: BERT-base's has 1 MB."""
MAX_DEPTH = 64
_COMPUTING = """
abs acos acosh add addmm all amax amin any arange argmax argmin argsort asin asinh assign assign_value atan atanh
batch_norm bilinear_interp bicubic_interp bmm broadcast_tensors cast ceil celu channel_shuffle clip concat conv2d
conv2d_transpose conv3d cos cosh crop cummax cummin cumprod cumsum data depthwise_conv2d diag divide dot dropout
einsum elementwise_pow elu embedding equal erf exp expand expand_as expm1 eye feed fetch flatten flip floor
floor_divide fmax fmin full full_batch_size_like full_int_array full_like gather gather_nd gelu greater_equal
greater_than group_norm hardshrink hardsigmoid hardswish hardtanh increment index_sample index_select instance_norm
isfinite isinf isnan kthvalue label_smooth layer_norm leaky_relu less_equal less_than linear_interp linspace log log10
log1p log2 log_softmax logcumsumexp logical_and logical_not logical_or logical_xor logit logsigmoid logsumexp
masked_select matmul max max_pool2d_with_index maximum mean mean_all meshgrid min minimum mish mode multiply mv
nearest_interp nonzero norm not_equal numel one_hot p_norm pad pad3d pixel_shuffle pool2d pool3d pow prelu prod
reciprocal relu relu6 remainder repeat_interleave reshape reverse rms_norm rnn roll round rsqrt scale scatter
scatter_nd_add selu sequence_mask shape shape64 shuffle_channel sigmoid sign silu sin sinh slice softmax softplus
softshrink softsign split split_with_num sqrt square squeeze squared_l2_norm stack stanh strided_slice subtract sum
swiglu swish take_along_axis tan tanh tanh_shrink tensor_unfold thresholded_relu tile topk transpose trilinear_interp
tril triu trunc unbind unfold unsqueeze unstack viterbi_decode where
"""
_BUILTIN = "combine constant slice split"
ALLOWED = frozenset(
    {"p", *(f"0.{name}" for name in _BUILTIN.split()), *(f"1.{name}" for name in _COMPUTING.split())}
    | {f"1.{name}_" for name in _COMPUTING.split()}  # in place
)
"""As the file has them: `p` is a parameter, 0 Paddle's `builtin` dialect, 1 its `pd_op`."""


class ProgramError(HubflowError):
    """A program has an operator that hubflow does not write, or is none; it is not run."""


def require_computing(path: Path) -> None:
    """Refuse a program file with an operator that does anything but compute, in whatever region of it.

    Args:
        path: a `program.json` as `paddle.static.save_inference_model` writes it.

    Raises:
        ProgramError: naming the operators, or what is wrong with the file.
    """
    try:
        program = json.loads(read_file(path, MAX_BYTES), object_pairs_hook=_object)["program"]
        found = set(_operators(program["regions"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProgramError(f"{path}: no readable program ({error}); make the export again") from error
    refused = sorted(map(_readable, found - ALLOWED))
    if refused:
        raise ProgramError(
            f"{path}: the program has operator(s) that hubflow does not write: {bounded(refused)}. It is not run: get the "
            "export from somebody you trust, or build the task of operators that only compute"
        )


def _operators(regions: Any, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError(f"regions more than {MAX_DEPTH} deep")
    for region in _list(regions):
        for block in _list(region["blocks"]):
            for operator in _list(block["ops"]):
                name = operator["#"]
                if not isinstance(name, str):
                    raise TypeError(f"an operator is named {name!r}")
                yield name
                if "regions" in operator:
                    yield from _operators(operator["regions"], depth + 1)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object of the file. Of a name that occurs twice, another reader might take the other value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _readable(name: str) -> str:
    dialect, _, operator = name.rpartition(".")
    return f"{ {'0': 'builtin', '1': 'pd_op'}.get(dialect, dialect) }.{operator}" if dialect else name
