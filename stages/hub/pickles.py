"""Reads the arrays of pickled weight files without running what is in them. Must not import Paddle, PyTorch or Prefect.

A pickle names the functions that rebuild its objects, and may name any. Here every name that is admitted stands for a small
builder of our own, so nothing of numpy, Paddle or PyTorch is called with arguments from the file; every other name is refused.
"""

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from hubflow.schemas.errors import bounded
from hubflow.stages.hub.errors import WeightsError
from hubflow.stages.hub.pickled_objects import (
    PADDLE_NAMES,
    TORCH_NAMES,
    Admitted,
    PickledArray,
    PickledStorage,
    PickledTensor,
    Unreadable,
    bfloat16_to_float32,
)

Arrays = dict[str, np.ndarray]
Names = Mapping[tuple[str, str], Callable[..., Any]]
_ZIP_MAGIC = b"PK\x03\x04"
_TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_PADDLE_NAME_TABLE = "StructuredToParameterName@@"
_NOTHING: Names = {}


def read_pickled_arrays(path: Path) -> Arrays:
    """Arrays by name from Paddle's `.pdparams` or PyTorch's `.bin`, in file order; bfloat16 comes back as float32.

    Raises:
        WeightsError: when the file asks for anything but arrays and plain containers (naming it), is cut short, or holds
            something that is not an array.
    """
    try:
        with path.open("rb") as stream:
            return _arrays(path, _load(path, stream))
    except WeightsError:
        raise
    except Unreadable as error:
        raise WeightsError(f"{path}: holds {error}; get the file again, or save the weights as model.safetensors") from None
    except Exception as error:  # a hostile or cut file can make an unpickler raise nearly anything
        raise WeightsError(
            f"{path}: not a readable .pdparams or .bin file of weights ({type(error).__name__}: {str(error)[:200]}); "
            "get the file again, or save the weights as model.safetensors"
        ) from error


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds only the admitted names; `storages` collects what tensors refer to, by key."""

    def __init__(self, path: Path, stream: IO[bytes], names: Names) -> None:
        super().__init__(stream, encoding="latin-1")
        self._path = path
        self._names = names
        self.storages: dict[str, PickledStorage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._names:
            raise WeightsError(
                f"{self._path}: asks for {module_name}.{global_name}, which is refused: weights are arrays in plain "
                "containers, and a file that asks for more may run code. Use model.safetensors from a source you trust"
            )
        return Admitted(self._names[module_name, global_name])

    def persistent_load(self, pid: Any, /) -> Any:
        tag, kind, key, _location, numel, *view = pid
        if tag != "storage" or not isinstance(kind, Admitted) or type(numel) is not int or numel < 0 or any(view):
            raise Unreadable(f"a reference {pid!r:.100}, which is not to a plain storage")
        if str(key) not in self.storages:
            self.storages[str(key)] = kind(numel)
        return self.storages[str(key)]


def _load(path: Path, stream: IO[bytes]) -> object:
    magic = stream.read(len(_TORCH_LEGACY_MAGIC))
    stream.seek(0)
    if magic.startswith(_ZIP_MAGIC):
        return _load_torch_zip(path, stream)
    if magic == _TORCH_LEGACY_MAGIC:
        return _load_torch_legacy(path, stream)
    return _Unpickler(path, stream, PADDLE_NAMES).load()


def _load_torch_zip(path: Path, stream: IO[bytes]) -> object:
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise Unreadable("a zip archive that torch.save did not write (expected one data.pkl, uncompressed)")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise Unreadable("big-endian numbers, which are not read")
        with archive.open(pickles[0]) as pickled:
            unpickler = _Unpickler(path, pickled, TORCH_NAMES)
            content = unpickler.load()
        for key, storage in unpickler.storages.items():
            _fill(key, storage, archive.read(f"{root}data/{key}"))
    return content


def _load_torch_legacy(path: Path, stream: IO[bytes]) -> object:
    """The format of PyTorch before 1.6: five pickles one after the other, then each storage as a count and its bytes."""
    for _header in ("magic", "protocol", "system"):
        _Unpickler(path, stream, _NOTHING).load()
    unpickler = _Unpickler(path, stream, TORCH_NAMES)
    content = unpickler.load()
    file_bytes = os.fstat(stream.fileno()).st_size
    for key in _Unpickler(path, stream, _NOTHING).load():
        storage = unpickler.storages[key]
        numel = int.from_bytes(stream.read(8), "little", signed=True)
        if numel != storage.numel:
            raise Unreadable(f"storage {key} with {numel} numbers where its tensors expect {storage.numel}")
        _fill(key, storage, stream.read(min(storage.expected_bytes, file_bytes)))
    return content


def _fill(key: str, storage: PickledStorage, content: bytes) -> None:
    if len(content) != storage.expected_bytes:
        raise Unreadable(f"storage {key} with {len(content)} bytes where its tensors expect {storage.expected_bytes}")
    storage.content = content


def _arrays(path: Path, content: object) -> Arrays:
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected arrays by name; save the bare state dict")
    arrays: Arrays = {}
    strangers: list[str] = []
    for name, value in content.items():
        if name == _PADDLE_NAME_TABLE:
            continue
        array = _array(value)
        if array is None or not isinstance(name, str):
            strangers.append(f"{name!r:.60} ({type(value).__name__})")
        else:
            arrays[name] = array
    if strangers:
        raise WeightsError(f"{path}: expected arrays by name, found also {bounded(strangers)}; save the bare state dict")
    return arrays


def _array(value: object) -> np.ndarray | None:
    if isinstance(value, tuple) and value and isinstance(value[0], str):  # paddle.save of a tensor: (parameter name, array)
        value = value[-1]
    if isinstance(value, PickledTensor):
        return value.array()
    if isinstance(value, PickledArray) and value.value is not None:
        # Paddle writes bfloat16 as uint16, and no other weights of it are uint16.
        return bfloat16_to_float32(value.value) if value.value.dtype == np.uint16 else value.value
    return None
