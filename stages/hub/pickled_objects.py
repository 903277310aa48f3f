"""What the admitted names of a pickled weight file build: inert arrays and tensors. Must not import Paddle or PyTorch."""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

_BFLOAT16 = "bfloat16"
_STORAGE_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": _BFLOAT16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}


class Unreadable(ValueError):
    """What was found, as a noun phrase; the reader adds file and remedy."""


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """float32 array of the same shape from bfloat16 values held as uint16: the upper half of a float32's bits."""
    return (bits.astype("<u4") << 16).view("<f4")


def _refuse_state(_self: object, state: object) -> None:
    raise Unreadable(f"an instruction to alter an object ({state!r:.60})")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Stands for a name in the file."""

    build: Callable[..., Any]
    __setstate__ = _refuse_state

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)


class PickledDtype:
    """numpy's dtype as pickled: a kind and size, then a byte order."""

    __slots__ = ("code",)

    def __init__(self, code: str, *_flags: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1", code):
            raise Unreadable(f"an array of dtype {code!r}, which is not one of numbers (Python objects are never read)")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]) or state[1] not in ("<", "|", ">", "="):
            raise Unreadable(f"an array of structured dtype {state!r:.100}")
        self.code = state[1] + self.code

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class PickledArray:
    """numpy's array as pickled: shape, dtype, order and bytes."""

    __slots__ = ("value",)

    def __init__(self, *_placeholders: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, content = state
        if not isinstance(dtype, PickledDtype):
            raise Unreadable("an array without a dtype")
        if isinstance(content, str):  # written by Python 2
            content = content.encode("latin-1")
        if not isinstance(content, bytes | bytearray):
            raise Unreadable(f"an array whose content is a {type(content).__name__}, not bytes")
        self.value = np.frombuffer(content, dtype.numpy()).reshape(shape, order="F" if fortran else "C")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise Unreadable(f"bytes encoded as {encoding!r:.50}")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    """Protocols before 3 write the content of an empty array as a call without arguments."""
    return b""


@dataclass(slots=True)
class PickledStorage:
    """One buffer that tensors share; its content is read after the pickle."""

    dtype: str
    numel: int
    content: bytes = b""
    __setstate__ = _refuse_state

    @property
    def expected_bytes(self) -> int:
        """Length that `content` must have."""
        return self.numel * (2 if self.dtype == _BFLOAT16 else np.dtype(self.dtype).itemsize)


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A window on a storage: offset, size and stride in numbers."""

    storage: PickledStorage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    __setstate__ = _refuse_state

    def array(self) -> np.ndarray:
        """The numbers, after a check that no index leaves the storage."""
        dtype = np.dtype("<u2" if self.storage.dtype == _BFLOAT16 else self.storage.dtype)
        flat = np.frombuffer(self.storage.content, dtype)
        numbers = (self.offset, *self.size, *self.stride)
        if any(type(number) is not int or number < 0 for number in numbers) or len(self.size) != len(self.stride):
            raise Unreadable(f"a tensor with offset, size and stride {numbers!r:.100}")
        count = math.prod(self.size)
        end = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) + 1 if count else self.offset
        if end > flat.size or count > flat.size:
            raise Unreadable(f"a tensor of size {self.size} that reaches {end} in a storage of {flat.size} numbers")
        view = as_strided(flat[self.offset :], self.size, [stride * dtype.itemsize for stride in self.stride], writeable=False)
        whole = np.ascontiguousarray(view).reshape(self.size)
        return bfloat16_to_float32(whole) if self.storage.dtype == _BFLOAT16 else whole


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_gradient: object) -> PickledTensor:
    if not isinstance(storage, PickledStorage):
        raise Unreadable("a tensor without a storage")
    return PickledTensor(storage, offset, tuple(size), tuple(stride))


_CONTAINER_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1_bytes,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}
PADDLE_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    **_CONTAINER_NAMES,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
TORCH_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    **_CONTAINER_NAMES,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_gradient: data,
    **{
        ("torch", f"{kind}Storage"): lambda numel, dtype=dtype: PickledStorage(dtype, numel)
        for kind, dtype in _STORAGE_DTYPES.items()
    },
}
