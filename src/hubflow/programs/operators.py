"""Inference programs as data: checked before Paddle makes an engine of them, with the weights that belong to them.

A program in a file is code: Paddle has operators that save to a path, load from one, print, call Python and open connections,
and runs whatever the file says. So a program is refused with any operator that is not listed here; `export` writes no others.
What Paddle then reads is this check's own copy of the program, in a folder of this process: never bytes that were not checked.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hubflow.errors import ProgramError, join_limited
from hubflow.files import open_file

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
swiglu swish take_along_axis tan tanh tanh_shrink thresholded_relu tile topk transpose trilinear_interp
tril triu trunc unbind unfold unsqueeze unstack viterbi_decode where
"""
_BUILTIN = "combine constant slice split"
ALLOWED = frozenset(
    {"p", *(f"0.{name}" for name in _BUILTIN.split()), *(f"1.{name}" for name in _COMPUTING.split())}
    | {f"1.{name}_" for name in _COMPUTING.split()}  # in place
)
"""As the file has them: `p` is a parameter, 0 Paddle's `builtin` dialect, 1 its `pd_op`."""


_PIR_VERSION = 4
"""Of the format; Paddle rewrites a program of an earlier version after it is read, so after it is checked."""
_PARAMETER = "p"
_DTYPES = {  # of a type as the program has it: Paddle's number of it as the weights have it, and its bytes
    "0.t_bool": (0, 1),
    "0.t_i16": (1, 2),
    "0.t_i32": (2, 4),
    "0.t_i64": (3, 8),
    "0.t_f16": (4, 2),
    "0.t_f32": (5, 4),
    "0.t_f64": (6, 8),
    "0.t_ui8": (20, 1),
    "0.t_i8": (21, 1),
    "0.t_bf16": (22, 2),
}


@dataclass(frozen=True)
class CheckedProgram:
    """A program that does nothing but compute.

    Attributes:
        content: the program written anew from what was checked, so that no reader can see another one in it.
        parameters: by name, type and shape of each tensor of its weights.
    """

    content: bytes
    parameters: Mapping[str, tuple[str, tuple[int, ...]]]


def checked_program(content: bytes, source: Path) -> CheckedProgram:
    """Read a program, and refuse one with an operator that does anything but compute, in whatever region of it.

    Args:
        content: of a `program.json` as `paddle.static.save_inference_model` writes it.
        source: names it in errors.

    Raises:
        ProgramError: naming the operators, or what is wrong with the program.
    """
    if len(content) > MAX_BYTES:
        raise ProgramError(f"{source}: {len(content)} bytes; expected a program of at most {MAX_BYTES} bytes")
    try:
        whole = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
        form, program = whole["base_code"], whole["program"]
        if form["magic"] != "pir" or form["version"] != _PIR_VERSION or isinstance(form["version"], bool | float):
            raise ValueError(f"its format is {form['magic']!r} {form['version']!r}, not 'pir' {_PIR_VERSION}")
        if len(_list(program["regions"])) != 1 or len(_list(program["regions"][0]["blocks"])) != 1:
            raise ValueError("expected one region with one block")
        operators = list(_operators(program["regions"]))
        refused = sorted(map(_readable, {one["#"] for one in operators} - ALLOWED))
        if refused:
            raise ProgramError(
                f"{source}: the program has operator(s) that hubflow does not write: {join_limited(refused)}. It is not run: "
                "get the export from somebody you trust, or build the task of operators that only compute"
            )
        parameters = _object([_parameter(one) for one in operators if one["#"] == _PARAMETER])
        return CheckedProgram(json.dumps(whole, allow_nan=False).encode(), parameters)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ProgramError(f"{source}: no readable program ({error!r}); make the export again") from error


def require_weights(program: CheckedProgram, path: Path) -> None:
    """Hold the weights' file to the program's parameters: each tensor's type and shape, and no byte more or less.

    Raises:
        ProgramError: naming the tensor, and what was expected and found.
    """
    try:
        with open_file(path, follow_links=False) as stream:
            size = os.fstat(stream.fileno()).st_size
            for name in sorted(program.parameters):  # as Paddle writes them
                dtype, shape = program.parameters[name]
                number, width = _DTYPES[dtype]
                _require_tensor(stream, name, number, shape)
                stream.seek(math.prod(shape) * width, os.SEEK_CUR)
            expected = stream.tell()
    except (OSError, ValueError, KeyError) as error:
        raise ProgramError(f"{path}: these are not the program's weights ({error}); make the export again") from error
    if size != expected:
        raise ProgramError(f"{path}: {size} bytes, the program's weights have {expected}; make the export again")


def _require_tensor(stream: BinaryIO, name: str, number: int, shape: tuple[int, ...]) -> None:
    """Read what stands before a tensor's values, which is a function of its type and shape."""
    described = bytes((0x08, number)) + b"".join(b"\x10" + _varint(size) for size in shape)
    expected = bytes(4 + 8 + 4) + len(described).to_bytes(4, "little") + described  # versions 0, and no levels of detail
    if stream.read(len(expected)) != expected:
        raise ValueError(f"tensor {name!r} is not of shape {list(shape)} and its type where it should begin")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - 7 bits a byte
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _parameter(operator: dict[str, Any]) -> tuple[str, tuple[str, tuple[int, ...]]]:
    """Name, type and shape of what an operator `p` stands for."""
    name, kind = operator["A"][3], operator["O"]["TT"]
    dtype, shape = kind["D"][0]["#"], kind["D"][1]
    if not isinstance(name, str) or kind["#"] != "0.t_dtensor" or dtype not in _DTYPES:
        raise ValueError(f"the parameter {name!r} is no tensor of numbers")
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**40 for size in _list(shape)):
        raise ValueError(f"the parameter {name!r} has the shape {shape}")
    return name, (dtype, tuple(shape))


def _operators(regions: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"regions more than {MAX_DEPTH} deep")
    for region in _list(regions):
        for block in _list(region["blocks"]):
            for operator in _list(block["ops"]):
                name = operator["#"]
                if not isinstance(name, str):
                    raise TypeError(f"an operator is named {name!r}")
                yield operator
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
        raise ValueError("a name is there twice")
    return found


def _readable(name: str) -> str:
    dialect, _, operator = name.rpartition(".")
    return f"{ {'0': 'builtin', '1': 'pd_op'}.get(dialect, dialect) }.{operator}" if dialect else name
