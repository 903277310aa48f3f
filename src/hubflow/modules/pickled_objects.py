"""What the admitted names of a pickled weight file build: inert arrays and tensors. Must not import Paddle or PyTorch."""

import math
import re
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
MAX_DIMENSIONS = 32
MAX_KEY = 1 << 31  # larger integers can be chosen to have one hash


class Unreadable(ValueError):
    """What was found, as a noun phrase; the reader adds file and remedy."""


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """float32 array of the same shape from bfloat16 values held as uint16: the upper half of a float32's bits."""
    return (bits.astype("<u4") << 16).view("<f4")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Stands for a name in the file."""

    build: Callable[..., Any]


class PickledDict(dict[Any, Any]):
    """Stands for an OrderedDict, which a pickle may give attributes; here it has none."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        for key, value in pairs:
            set_item(self, key, value)


def set_item(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an item whose key is a text or a small number: others can be made to take a second each.

    Raises:
        Unreadable: for another key.
    """
    if not isinstance(key, str) and (type(key) is not int or not -MAX_KEY < key < MAX_KEY):
        raise Unreadable(f"a key of type {type(key).__name__}, which is neither text nor a small number")
    target[key] = value


class PickledDtype:
    """numpy's dtype as pickled: a kind and size, then a byte order."""

    __slots__ = ("code",)

    def __init__(self, code: str, *_flags: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1", code):
            raise Unreadable(f"an array of dtype {code!r}, which is not one of numbers (Python objects are never read)")
        self.code = code

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take the byte order.

        Raises:
            Unreadable: when the dtype is structured.
        """
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

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take the numbers.

        Raises:
            Unreadable: when they are not bytes of a dtype.
        """
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
    array.set_state((1, shape, dtype, order == "F", content))
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

    def checked_bytes(self) -> int:
        """Memory that `array` takes, half precision as float32, once no index leaves the storage.

        Raises:
            Unreadable: when one does, or offset, size and stride are not those of a tensor.
        """
        numbers = (self.offset, *self.size, *self.stride)
        if any(type(number) is not int or not 0 <= number < 1 << 63 for number in numbers):
            raise Unreadable(f"a tensor with offset, size and stride {numbers!r:.100}")
        if len(self.size) != len(self.stride) or len(self.size) > MAX_DIMENSIONS:
            raise Unreadable(
                f"a tensor of {len(self.size)} sizes and {len(self.stride)} strides; known: up to {MAX_DIMENSIONS}"
            )
        count, held = math.prod(self.size), len(self.storage.content) // self._dtype.itemsize
        end = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) + 1 if count else self.offset
        if end > held or count > held:
            raise Unreadable(f"a tensor of size {self.size} that reaches {end} in a storage of {held} numbers")
        return count * (4 if self.storage.dtype in (_BFLOAT16, _STORAGE_DTYPES["Half"]) else self._dtype.itemsize)

    def array(self) -> np.ndarray:
        """The numbers, once `checked_bytes` found them inside the storage."""
        flat, dtype = np.frombuffer(self.storage.content, self._dtype), self._dtype
        view = as_strided(flat[self.offset :], self.size, [stride * dtype.itemsize for stride in self.stride], writeable=False)
        whole = np.ascontiguousarray(view).reshape(self.size)
        return bfloat16_to_float32(whole) if self.storage.dtype == _BFLOAT16 else whole

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.storage.dtype == _BFLOAT16 else self.storage.dtype)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_gradient: object) -> PickledTensor:
    if not isinstance(storage, PickledStorage):
        raise Unreadable("a tensor without a storage")
    return PickledTensor(storage, offset, _tuple(size), _tuple(stride))


def _tuple(items: object = ()) -> tuple[Any, ...]:
    if not isinstance(items, tuple | list):
        raise Unreadable(f"a tuple of a {type(items).__name__}")
    return tuple(items)


_CONTAINER_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): PickledDict,
    ("_codecs", "encode"): _latin1_bytes,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "tuple"): _tuple,
    ("__builtin__", "tuple"): _tuple,
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
