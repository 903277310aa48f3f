"""Arrays of pickled weight files, read without running what is in them.

A pickle is a program: it names the functions that rebuild its objects, and may name any; it copies what it made, and may do so
without end. Here an interpreter of our own reads it opcode by opcode. It knows the opcodes that arrays in plain containers
need, each checked before it has an effect. Every name that is admitted stands for a small builder of our own, so nothing of
numpy, Paddle or PyTorch is called with arguments from the file; every other name is refused. What is made from a file is
bounded by a multiple of its size.
"""

import codecs
import io
import math
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hubflow.errors import WeightsError, join_limited
from hubflow.files import open_file
from hubflow.schemas.library import library_settings

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


Arrays = dict[str, np.ndarray]
Names = Mapping[tuple[str, str], Callable[..., Any]]
OPCODES_PER_TENSOR = 100  # PyTorch writes 30 to 60 for a tensor
HIGHEST_PROTOCOL = 5
MAX_LINE = 1_000  # of a number or a name
ZIP_ENTRY_BYTES = 256  # of the directory, for a member; PyTorch writes about 80
_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22
_ZIP64_END_BYTES, _ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = 56, b"PK\x06\x07", 20
_TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_PADDLE_NAME_TABLE = "StructuredToParameterName@@"
_NOTHING: Names = {}
_MARK = object()
_REFERENCE_LENGTH = 5
_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}


def read_pickled_arrays(path: Path) -> Arrays:
    """Arrays by name from Paddle's `.pdparams` or PyTorch's `.bin`, in file order; bfloat16 comes back as float32.

    Raises:
        WeightsError: when the file asks for anything but arrays and plain containers (naming it), is cut short, holds
            something that is not an array, or would take more memory than its size accounts for.
    """
    try:
        with open_file(path) as stream:
            budget = _Budget(os.fstat(stream.fileno()).st_size)
            return _arrays(path, _load(path, stream, budget), budget)
    except WeightsError:
        raise
    except Unreadable as error:
        raise WeightsError(f"{path}: holds {error}; get the file again, or save the weights as model.safetensors") from None
    except Exception as error:  # a hostile or cut file can make a reader raise nearly anything
        raise WeightsError(
            f"{path}: not a readable .pdparams or .bin file of weights ({type(error).__name__}: {str(error)[:200]}); "
            "get the file again, or save the weights as model.safetensors"
        ) from error


class _Budget:
    """What may still be made from a file of `size` bytes."""

    def __init__(self, size: int) -> None:
        limits = library_settings().limits
        self._tensors, self._expansion = limits.max_tensors, limits.max_weights_expansion
        self.max_members = 2 * limits.max_tensors
        self._size, self._bytes = size, size * limits.max_weights_expansion
        self._opcodes = limits.max_tensors * OPCODES_PER_TENSOR

    def take_opcode(self) -> None:
        """Count one opcode.

        Raises:
            Unreadable: when there were more than the most tensors need.
        """
        self._opcodes -= 1
        if self._opcodes < 0:
            raise Unreadable(f"more opcodes than limits.max_tensors {self._tensors:,} tensors need")

    def take(self, size: int) -> None:
        """Count bytes of memory, before they are taken.

        Raises:
            Unreadable: when all of them are more than the file's size accounts for.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise Unreadable(
                f"instructions to copy what takes more than {self._expansion} times its {self._size:,} bytes "
                "(limits.max_weights_expansion)"
            )

    def require_members(self, count: int) -> None:
        """Refuse a zip archive of more members than the most tensors need.

        Raises:
            Unreadable: when there are more.
        """
        if count > self.max_members:
            raise Unreadable(f"a zip archive of more members than limits.max_tensors {self._tensors:,} tensors need")


class _Reader:
    """An interpreter of the opcodes that arrays in plain containers need; what it makes is a plain value, or one of ours.

    `storages` collects what tensors refer to, by key.
    """

    def __init__(self, path: Path, stream: IO[bytes], size: int, names: Names, budget: _Budget) -> None:
        """Read from `stream`, in which `size` bytes are left, at most."""
        self._path, self._stream, self._left = path, stream, size
        self._names, self._budget = names, budget
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, PickledStorage] = {}

    def load(self) -> Any:
        """The object of the next pickle in the stream."""
        self._stack, self._memo = [], {}
        while True:
            code = self._read(1)
            if code == b".":
                return self._pop()
            self._budget.take_opcode()
            run = _OPCODES.get(code)
            if run is None:
                raise Unreadable(f"the opcode {_NAMES.get(code.decode('latin-1'), code)}, which weights have no use for")
            run(self)

    def _read(self, size: int) -> bytes:
        if size > self._left:
            raise Unreadable(f"the start of a value of {size:,} bytes, of which {self._left:,} are there")
        content = self._stream.read(size)
        self._left -= size
        if len(content) != size:
            raise Unreadable("a pickle that is cut short")
        return content

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._read(size), "little", signed=signed)

    def _line(self, limit: int = MAX_LINE) -> bytes:
        line = self._stream.readline(min(limit, self._left))
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise Unreadable("a line that does not end")
        return line[:-1]

    def _long_line(self) -> bytes:
        return self._line(self._left)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Unreadable("an opcode without its operand")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise Unreadable(f"an opcode without its {kind.__name__}")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        start = len(self._stack) - 1
        while start >= 0 and self._stack[start] is not _MARK:
            start -= 1
        if start < 0:
            raise Unreadable("an opcode without its mark")
        items = self._stack[start + 1 :]
        del self._stack[start:]
        return items

    def _push_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _push_text(self, content: bytes) -> None:
        self._push(str(content, "utf-8", "surrogatepass"))

    def _push_quoted(self) -> None:
        line = self._long_line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):  # noqa: PLR2004
            raise Unreadable("a text without its quotes")
        self._push(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))

    def _push_decimal(self) -> None:
        line = self._line()
        self._push(line == b"01" if line in (b"00", b"01") else int(line))

    def _push_items(self, pairs: list[Any]) -> None:
        self._push(_with_items({}, pairs))

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        _with_items(self._top(dict), items)

    def _memoize(self, key: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise Unreadable("an opcode without its operand")
        self._memo[key] = self._stack[-1]

    def _recall(self, key: int) -> None:
        if key not in self._memo:
            raise Unreadable(f"a reference to value {key}, which is not there")
        self._push(self._memo[key])

    def _find(self, module_name: Any, global_name: Any) -> None:
        if (module_name, global_name) not in self._names:
            name = f"{module_name}.{global_name}"[:200]
            shown = name if name.isprintable() else ascii(name)
            raise WeightsError(
                f"{self._path}: asks for {shown}, which is refused: weights are arrays in "
                "plain containers, and a file that asks for more may run code. Use model.safetensors from a source you trust"
            )
        self._push(Admitted(self._names[module_name, global_name]))

    def _global(self) -> None:
        self._find(str(self._line(), "utf-8"), str(self._line(), "utf-8"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Unreadable("a name that is no text")
        self._find(module, name)

    def _call(self) -> None:
        arguments, callee = self._pop(), self._pop()
        if not isinstance(callee, Admitted) or not isinstance(arguments, tuple):
            raise Unreadable("a call of what is not a function")
        for argument in arguments:  # what is called copies its arguments at most
            if type(argument) in _COPIED_BYTES:
                self._budget.take(len(argument) * _COPIED_BYTES[type(argument)])
        self._push(callee.build(*arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._top(object)
        if isinstance(target, PickledArray | PickledDtype):
            target.set_state(state)
        elif not isinstance(target, PickledDict):  # whose attributes are the versions of PyTorch's layers
            raise Unreadable(f"an instruction to alter an object ({type(target).__name__})")

    def _refer(self) -> None:
        pid = self._pop()
        if not isinstance(pid, tuple) or len(pid) < _REFERENCE_LENGTH:
            raise Unreadable(f"a reference by a {type(pid).__name__}, which is not to a plain storage")
        tag, kind, key, _location, numel, *view = pid
        if tag != "storage" or not isinstance(kind, Admitted) or type(numel) is not int or numel < 0 or any(view):
            raise Unreadable(f"a reference {pid!r:.100}, which is not to a plain storage")
        if str(key) not in self.storages:
            self.storages[str(key)] = kind.build(numel)
        self._push(self.storages[str(key)])

    def _protocol(self) -> None:
        if (protocol := self._number(1)) > HIGHEST_PROTOCOL:
            raise Unreadable(f"a pickle of protocol {protocol}; known: up to {HIGHEST_PROTOCOL}")


_COPIED_BYTES: dict[type, int] = {str: 1, bytes: 1, bytearray: 1, tuple: 8, list: 8, dict: 100, PickledDict: 100}
"""Bytes of a copy, for each item, of what a pickle may hand to a call."""

_OPCODES: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": _Reader._protocol,
    b"\x95": lambda reader: reader._read(8),  # FRAME: how the bytes that follow were buffered
    b"(": lambda reader: reader._push(_MARK),
    b"0": lambda reader: reader._stack.pop(),
    b"1": _Reader._pop_to_mark,
    b"2": lambda reader: reader._push(reader._top(object)),
    b"N": lambda reader: reader._push(None),
    b"\x88": lambda reader: reader._push(True),
    b"\x89": lambda reader: reader._push(False),
    b"I": _Reader._push_decimal,
    b"L": lambda reader: reader._push(int(reader._line().removesuffix(b"L"))),
    b"J": lambda reader: reader._push(reader._number(4, signed=True)),
    b"K": lambda reader: reader._push(reader._number(1)),
    b"M": lambda reader: reader._push(reader._number(2)),
    b"\x8a": lambda reader: reader._push(reader._number(reader._number(1), signed=True)),
    b"F": lambda reader: reader._push(float(reader._line())),
    b"G": lambda reader: reader._push(struct.unpack(">d", reader._read(8))[0]),
    b"S": _Reader._push_quoted,
    b"T": lambda reader: reader._push(reader._read(reader._number(4)).decode("latin-1")),
    b"U": lambda reader: reader._push(reader._read(reader._number(1)).decode("latin-1")),
    b"V": lambda reader: reader._push(str(reader._long_line(), "raw-unicode-escape")),
    b"X": lambda reader: reader._push_text(reader._read(reader._number(4))),
    b"\x8c": lambda reader: reader._push_text(reader._read(reader._number(1))),
    b"\x8d": lambda reader: reader._push_text(reader._read(reader._number(8))),
    b"B": lambda reader: reader._push(reader._read(reader._number(4))),
    b"C": lambda reader: reader._push(reader._read(reader._number(1))),
    b"\x8e": lambda reader: reader._push(reader._read(reader._number(8))),
    b"\x96": lambda reader: reader._push(reader._read(reader._number(8))),
    b"]": lambda reader: reader._push([]),
    b"a": lambda reader: reader._append([reader._pop()]),
    b"e": lambda reader: reader._append(reader._pop_to_mark()),
    b"l": lambda reader: reader._push(reader._pop_to_mark()),
    b")": lambda reader: reader._push(()),
    b"t": lambda reader: reader._push(tuple(reader._pop_to_mark())),
    b"\x85": lambda reader: reader._push_tuple(1),
    b"\x86": lambda reader: reader._push_tuple(2),
    b"\x87": lambda reader: reader._push_tuple(3),
    b"}": lambda reader: reader._push({}),
    b"d": lambda reader: reader._push_items(reader._pop_to_mark()),
    b"s": lambda reader: reader._set_items([reader._pop(), reader._pop()][::-1]),
    b"u": lambda reader: reader._set_items(reader._pop_to_mark()),
    b"p": lambda reader: reader._memoize(int(reader._line())),
    b"q": lambda reader: reader._memoize(reader._number(1)),
    b"r": lambda reader: reader._memoize(reader._number(4)),
    b"\x94": lambda reader: reader._memoize(len(reader._memo)),
    b"g": lambda reader: reader._recall(int(reader._line())),
    b"h": lambda reader: reader._recall(reader._number(1)),
    b"j": lambda reader: reader._recall(reader._number(4)),
    b"c": _Reader._global,
    b"\x93": _Reader._stack_global,
    b"R": _Reader._call,
    b"b": _Reader._build,
    b"Q": _Reader._refer,
}


def _with_items(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise Unreadable("a key without a value")
    for position in range(0, len(items), 2):
        set_item(target, items[position], items[position + 1])
    return target


def _load(path: Path, stream: IO[bytes], budget: _Budget) -> object:
    size = os.fstat(stream.fileno()).st_size
    magic = stream.read(len(_TORCH_LEGACY_MAGIC))
    stream.seek(0)
    if magic.startswith(_ZIP_MAGIC):
        return _load_torch_zip(path, stream, size, budget)
    if magic == _TORCH_LEGACY_MAGIC:
        return _load_torch_legacy(path, stream, size, budget)
    return _Reader(path, stream, size, PADDLE_NAMES, budget).load()


def _load_torch_zip(path: Path, stream: IO[bytes], size: int, budget: _Budget) -> object:
    _require_small_directory(stream, size, budget)
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        budget.require_members(len(members))
        if len(members) != len(archive.infolist()):
            raise Unreadable("a zip archive with two members of one name")
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise Unreadable("a zip archive that torch.save did not write (expected one data.pkl, uncompressed)")
        unlike = [name for name, member in members.items() if member.file_size != member.compress_size]
        if unlike or sum(member.file_size for member in members.values()) > size:
            raise Unreadable("a zip archive whose members overlap, or are not as long as it says")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise Unreadable("big-endian numbers, which are not read")
        pickled = archive.read(pickles[0])
        reader = _Reader(path, io.BytesIO(pickled), len(pickled), TORCH_NAMES, budget)
        content = reader.load()
        for key, storage in reader.storages.items():
            _fill(key, storage, archive.read(f"{root}data/{key}"))
    return content


def _require_small_directory(stream: IO[bytes], size: int, budget: _Budget) -> None:
    """Refuse a directory that is larger than the most members need, before it is read: each entry takes ten times its bytes."""
    end_bytes = min(size, _ZIP64_END_BYTES + _ZIP64_LOCATOR_BYTES + _ZIP_END_BYTES)
    stream.seek(size - end_bytes)
    end = stream.read(end_bytes).rjust(_ZIP64_END_BYTES + _ZIP64_LOCATOR_BYTES + _ZIP_END_BYTES, b"\0")
    stream.seek(0)
    if not end[-_ZIP_END_BYTES:].startswith(_ZIP_END):
        raise Unreadable("a zip archive that is cut short, or followed by something else")
    is_large = end[_ZIP64_END_BYTES:].startswith(_ZIP64_LOCATOR)
    directory = int.from_bytes(end[40:48], "little") if is_large else int.from_bytes(end[-10:-6], "little")
    budget.require_members(directory // ZIP_ENTRY_BYTES)


def _load_torch_legacy(path: Path, stream: IO[bytes], size: int, budget: _Budget) -> object:
    """The format of PyTorch before 1.6: five pickles one after the other, then each storage as a count and its bytes."""

    def next_pickle(names: Names) -> tuple[Any, dict[str, PickledStorage]]:
        reader = _Reader(path, stream, size - stream.tell(), names, budget)
        return reader.load(), reader.storages

    for _header in ("magic", "protocol", "system"):
        next_pickle(_NOTHING)
    content, storages = next_pickle(TORCH_NAMES)
    for key in next_pickle(_NOTHING)[0]:
        storage = storages.pop(key)  # each has its bytes once
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        if numel != storage.numel:
            raise Unreadable(f"storage {key} with {numel} numbers where its tensors expect {storage.numel}")
        _fill(key, storage, stream.read(min(storage.expected_bytes, size - stream.tell())))
    return content


def _fill(key: str, storage: PickledStorage, content: bytes) -> None:
    if len(content) != storage.expected_bytes:
        raise Unreadable(f"storage {key} with {len(content)} bytes where its tensors expect {storage.expected_bytes}")
    storage.content = content


def _arrays(path: Path, content: object, budget: _Budget) -> Arrays:
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected arrays by name; save the bare state dict")
    arrays: Arrays = {}
    strangers: list[str] = []
    for name, value in content.items():
        if name == _PADDLE_NAME_TABLE:
            continue
        array = _array(value, budget)
        if array is None or not isinstance(name, str):
            strangers.append(f"{name!r:.60} ({type(value).__name__})")
        else:
            arrays[name] = array
    if strangers:
        raise WeightsError(f"{path}: expected arrays by name, found also {join_limited(strangers)}; save the bare state dict")
    return arrays


def _array(value: object, budget: _Budget) -> np.ndarray | None:
    if isinstance(value, tuple) and value and isinstance(value[0], str):  # paddle.save of a tensor: (parameter name, array)
        value = value[-1]
    if isinstance(value, PickledTensor):
        budget.take(value.checked_bytes())
        return value.array()
    if isinstance(value, PickledArray) and value.value is not None:
        # Paddle writes bfloat16 as uint16, and no other weights of it are uint16.
        is_half = value.value.dtype in (np.uint16, np.float16)
        budget.take(value.value.nbytes * (2 if is_half else 1))
        return bfloat16_to_float32(value.value) if value.value.dtype == np.uint16 else value.value
    return None
