"""Weights of a module: read as arrays, held to what a network expects, and the blocks that their names tell."""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from hubflow.errors import ModuleError, WeightsError, join_limited
from hubflow.files import held_open, open_file
from hubflow.modules.pickles import Arrays, bfloat16_to_float32, read_pickled_arrays
from hubflow.modules.registry import own_file, read_settings
from hubflow.schemas.library import library_settings

EMBEDDINGS, STEM, HEAD = "embeddings", "stem", "head"
HEAD_PREFIX = "head."
# What is no block by its own name: the first layers, and what closes a block of DenseNet or of a ResNet's stem.
_IMAGE_GROUPS: dict[str, str] = {
    **dict.fromkeys(("conv1", "bn1", "conv", "conv1_func", "_conv1", "features.0"), STEM),
    **{f"tr_conv{stage}_blk": f"db_conv_{stage}" for stage in (2, 3, 4)},
    "batch_norm": "db_conv_5",
}
_NUMBERED = re.compile(r"^(features|blocks)\.\d+")


def text_blocks(num_layers: int) -> tuple[str, ...]:
    """`embeddings`, then `encoder.0` and so on."""
    return (EMBEDDINGS, *(f"encoder.{layer}" for layer in range(num_layers)))


def text_block_of(name: str, num_layers: int) -> str:
    """The block of a text encoder's tensor; the pooler is part of the last encoder block."""
    blocks = text_blocks(num_layers)
    return next((block for block in blocks if name.startswith(f"{block}.")), blocks[-1])


def image_blocks(names: Iterable[str]) -> tuple[str, ...]:
    """The blocks of an image backbone, from its tensor names in the order of its layers (`architecture_tensors`).

    `stem`, then the layers' containers: `layer1` to `layer4` of a ResNet, `features.N` or `blocks.N` of a MobileNet, and so on.
    A convolution after them is a block of its own.
    """
    return tuple(dict.fromkeys(map(image_block_of, names)))


def image_block_of(name: str) -> str:
    """The block of an image backbone's tensor or layer."""
    numbered = _NUMBERED.match(name)
    group = numbered[0] if numbered else name.partition(".")[0]
    return _IMAGE_GROUPS.get(group, group)


SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PADDLE_PATTERN = "*.pdparams"
TORCH_PICKLE = "pytorch_model.bin"
WIDEST = 8
"""Bytes of a number, at most."""
MAX_NAME = 255
"""Bytes of a file's name, at most."""
NARROWEST = 2
"""Bytes of a parameter, at least: in half precision."""
LOOKED_FOR = (SAFETENSORS, SAFETENSORS_INDEX, PADDLE_PATTERN, TORCH_PICKLE)


def read_weights(folder: Path) -> Arrays:
    """Arrays by tensor name, from the first kind of weight file in the folder; every floating-point array as float32.

    Raises:
        WeightsError: when there are none, a shard is missing, or a file cannot be read, is unsafe or beyond a limit.
    """
    files = weight_files(folder)
    weight_bytes(files)
    if files[0].name == SAFETENSORS:
        arrays = _read_safetensors(files[0])
    elif files[0].name == SAFETENSORS_INDEX:
        arrays = _read_shards(files[0])
    else:
        arrays = read_pickled_arrays(files[0])
    return {name: _float32(array) for name, array in arrays.items()}


def weight_files(folder: Path) -> list[Path]:
    """The first kind of weights in the folder: one file, or an index and its shards.

    Raises:
        WeightsError: when there are none, or a shard is missing.
        ModuleError: when one is a link that leads out of the folder.
    """
    if (folder / SAFETENSORS).is_file():
        files = [folder / SAFETENSORS]
    elif (folder / SAFETENSORS_INDEX).is_file():
        index = folder / SAFETENSORS_INDEX
        shards = weight_shards(index)
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent:
            raise WeightsError(
                f"{index}: {len(absent)} of {len(shards)} shards are missing: {join_limited(absent)}; get them again"
            )
        files = [index, *(folder / shard for shard in shards)]
    else:
        files = [_pickled_file(folder)]
    return [own_file(file) for file in files]


def weight_bytes(files: Collection[Path]) -> int:
    """How many bytes weight files have.

    Raises:
        WeightsError: when they are more than `limits.max_parameters` can take.
    """
    size, most = sum(file.stat().st_size for file in files), library_settings().limits.max_parameters
    if size > most * WIDEST:
        raise WeightsError(f"{next(iter(files))}: {size:,} bytes of weights, more than limits.max_parameters {most:,} can take")
    return size


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
        WeightsError: listing all missing and unexpected tensors, and all of a wrong shape or type.
    """
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {list(found[name].shape)}" for name in found if name not in expected and name not in set(ignore)]
    wrong = [
        f"{name} (expected {list(shape)}, found {list(found[name].shape)})"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    integers = [f"{name} ({found[name].dtype})" for name in expected if name in found and found[name].dtype.kind != "f"]
    faults = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of the wrong shape", wrong),
        ("not of real numbers", integers),
    ]
    lines = [f"  - {len(names)} {what}: {join_limited(names)}" for what, names in faults if names]
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
        weight_map: dict[str, str] = read_settings(index)["weight_map"]
        shards: dict[str, list[str]] = {}
        for tensor, shard in weight_map.items():
            shards.setdefault(shard, []).append(tensor)
    except (ModuleError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not a readable index of shards ({error}); expected a weight_map by tensor") from error
    outside = [
        shard
        for shard in shards
        if not isinstance(shard, str)
        or not shard.isprintable()
        or len(shard.encode()) > MAX_NAME
        or Path(shard).name != shard
        or "\\" in shard
        or shard in ("", ".", "..")
    ]
    if outside or not shards:
        named = join_limited(f"{shard!r:.100}" for shard in outside) or "none"
        raise WeightsError(f"{index}: expected the names of shards beside it, found {named}")
    return shards


def _pickled_file(folder: Path) -> Path:
    candidates = [*sorted(folder.glob(PADDLE_PATTERN)), folder / TORCH_PICKLE]
    present = [path for path in candidates if path.is_file()]
    if not present:
        raise WeightsError(f"{folder}: no weights; looked for {', '.join(LOOKED_FOR)}. Add one, or build with pretrained=False")
    if len(present) > 1 and present[1].suffix == present[0].suffix:
        raise WeightsError(
            f"{folder}: several weight files ({join_limited(path.name for path in present)}); keep the one to use"
        )
    return present[0]


def _read_shards(index: Path) -> Arrays:
    arrays: Arrays = {}
    for shard, tensors in weight_shards(index).items():
        content = _read_safetensors(index.parent / shard)
        lacking = [tensor for tensor in tensors if tensor not in content]
        if lacking:
            raise WeightsError(f"{index.parent / shard}: lacks tensors that {index.name} puts there: {join_limited(lacking)}")
        arrays.update({tensor: content[tensor] for tensor in tensors})
    return arrays


def _read_safetensors(path: Path) -> Arrays:
    with _opened(path) as (tensors, dtypes):
        arrays = {name: tensors.get_tensor(name) for name, dtype in dtypes.items() if dtype != "BF16"}
        return {**arrays, **_read_bfloat16(path, [name for name, dtype in dtypes.items() if dtype == "BF16"])}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A safetensors file whose header the library has checked, and the dtype of each tensor.

    Raises:
        WeightsError: when it cannot be read, or holds more tensors or numbers than the limits.
    """
    limits = library_settings().limits
    try:
        with held_open(path) as name, safe_open(name, framework="numpy") as tensors:
            names = tensors.keys()
            if len(names) > limits.max_tensors:
                raise WeightsError(f"{path}: {len(names):,} tensors, more than limits.max_tensors {limits.max_tensors:,}")
            slices = {name: tensors.get_slice(name) for name in names}
            count = sum(math.prod(one.get_shape()) for one in slices.values())
            if count > limits.max_parameters:
                raise WeightsError(f"{path}: {count:,} numbers, more than limits.max_parameters {limits.max_parameters:,}")
            yield tensors, {name: one.get_dtype() for name, one in slices.items()}
    except (SafetensorError, OSError, TypeError, AttributeError, ValueError, KeyError, OverflowError, RecursionError) as error:
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
    first = weight_files(folder)[0]
    if first.name == SAFETENSORS:
        with _opened(first) as (_, dtypes):
            return list(dtypes)
    if first.name == SAFETENSORS_INDEX:
        return [name for names in weight_shards(first).values() for name in names]
    return list(read_pickled_arrays(first))
