"""Reads a module's weights as numpy arrays and holds them to what a network expects. Must not import Paddle or Prefect."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from hubflow.schemas.errors import bounded
from hubflow.schemas.files import held_open, open_file, read_text
from hubflow.stages.hub.errors import WeightsError
from hubflow.stages.hub.pickled_objects import bfloat16_to_float32
from hubflow.stages.hub.pickles import Arrays, read_pickled_arrays

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PADDLE_PATTERN = "*.pdparams"
TORCH_PICKLE = "pytorch_model.bin"
LOOKED_FOR = (SAFETENSORS, SAFETENSORS_INDEX, PADDLE_PATTERN, TORCH_PICKLE)


def read_weights(folder: Path) -> Arrays:
    """Arrays by tensor name, from the first kind of weight file in the folder; every floating-point array as float32.

    Raises:
        WeightsError: when there are none, a shard is missing, or a file cannot be read or is unsafe.
    """
    if (folder / SAFETENSORS).is_file():
        arrays = _read_safetensors(folder / SAFETENSORS)
    elif (folder / SAFETENSORS_INDEX).is_file():
        arrays = _read_shards(folder / SAFETENSORS_INDEX)
    else:
        arrays = read_pickled_arrays(_pickled_file(folder))
    return {name: _float32(array) for name, array in arrays.items()}


def match_weights(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray], source: str, ignore: Collection[str] = ()
) -> Arrays:
    """The arrays of `found` that `expected` names, once every name and shape agrees.

    Args:
        expected: shape by tensor name.
        found: arrays by the same names.
        source: where the arrays come from, for the message.
        ignore: names that `found` may hold beyond the expected ones.

    Raises:
        WeightsError: listing all missing and unexpected tensors and all wrong shapes.
    """
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {list(found[name].shape)}" for name in found if name not in expected and name not in set(ignore)]
    wrong = [
        f"{name} (expected {list(shape)}, found {list(found[name].shape)})"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    faults = [("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)]
    lines = [f"  - {len(names)} {what}: {bounded(names)}" for what, names in faults if names]
    if lines:
        raise WeightsError(
            f"{source}: the weights do not fit the network that its config.json describes\n" + "\n".join(lines) + "\n"
            "  check that config.json and weights come from the same module, or build with pretrained=False"
        )
    return {name: found[name] for name in expected}


def weight_shards(index: Path) -> dict[str, list[str]]:
    """Tensor names by shard file, from a `model.safetensors.index.json`; shards are plain file names.

    Raises:
        WeightsError: when the index cannot be read or names a file outside its folder.
    """
    try:
        weight_map: dict[str, str] = json.loads(read_text(index))["weight_map"]
        shards: dict[str, list[str]] = {}
        for tensor, shard in weight_map.items():
            shards.setdefault(shard, []).append(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not a readable index of shards ({error!r}); expected a weight_map by tensor") from error
    outside = [
        shard
        for shard in shards
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard or shard in ("", ".", "..")
    ]
    if outside or not shards:
        raise WeightsError(f"{index}: expected the names of shards beside it, found {bounded(map(repr, outside)) or 'none'}")
    return shards


def _pickled_file(folder: Path) -> Path:
    candidates = [*sorted(folder.glob(PADDLE_PATTERN)), folder / TORCH_PICKLE]
    present = [path for path in candidates if path.is_file()]
    if not present:
        raise WeightsError(f"{folder}: no weights; looked for {', '.join(LOOKED_FOR)}. Add one, or build with pretrained=False")
    if len(present) > 1 and present[1].suffix == present[0].suffix:
        raise WeightsError(f"{folder}: several weight files ({bounded(path.name for path in present)}); keep the one to use")
    return present[0]


def _read_shards(index: Path) -> Arrays:
    shards = weight_shards(index)
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise WeightsError(f"{index}: {len(absent)} of {len(shards)} shards are missing: {bounded(absent)}; get them again")
    arrays: Arrays = {}
    for shard, tensors in shards.items():
        content = _read_safetensors(index.parent / shard)
        lacking = [tensor for tensor in tensors if tensor not in content]
        if lacking:
            raise WeightsError(f"{index.parent / shard}: lacks tensors that {index.name} puts there: {bounded(lacking)}")
        arrays.update({tensor: content[tensor] for tensor in tensors})
    return arrays


def _read_safetensors(path: Path) -> Arrays:
    try:
        with held_open(path) as name, safe_open(name, framework="numpy") as tensors:
            dtypes = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}
            arrays = {name: tensors.get_tensor(name) for name, dtype in dtypes.items() if dtype != "BF16"}
        bfloat16 = [name for name, dtype in dtypes.items() if dtype == "BF16"]
        return {**arrays, **_read_bfloat16(path, bfloat16)}
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); get the file again") from error


def _read_bfloat16(path: Path, names: list[str]) -> Arrays:
    """numpy has no bfloat16: read the bytes where the header, which safe_open has checked, says they are."""
    if not names:
        return {}
    with open_file(path) as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(header_bytes))
        arrays: Arrays = {}
        for name in names:
            start, end = header[name]["data_offsets"]
            stream.seek(8 + header_bytes + start)
            arrays[name] = bfloat16_to_float32(np.frombuffer(stream.read(end - start), "<u2").reshape(header[name]["shape"]))
    return arrays


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def weight_names(folder: Path) -> list[str]:
    """Names of the tensors that `read_weights` would give; of safetensors only the headers are read.

    Raises:
        WeightsError: as `read_weights`.
    """
    if (folder / SAFETENSORS).is_file():
        try:
            with held_open(folder / SAFETENSORS) as name, safe_open(name, "np") as stream:
                return list(stream.keys())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{folder / SAFETENSORS}: not a readable safetensors file ({error}); get it again") from error
    if (folder / SAFETENSORS_INDEX).is_file():
        return [name for names in weight_shards(folder / SAFETENSORS_INDEX).values() for name in names]
    return list(read_pickled_arrays(_pickled_file(folder)))
