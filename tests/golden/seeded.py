"""Weights made from nothing but their names, so that golden files need not hold them; must not import PyTorch or Paddle."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
MATRIX_AXES = 2


def seeded_tensor(name: str, shape: tuple[int, ...], scale: float = 0.1) -> FloatArray:
    """The float32 weights that the golden files use for the tensor `name` of a checkpoint.

    Norm scales (one-dimensional `weight`s) lie around 1, `running_var` above 1, all else is normal with deviation `scale`.
    """
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")))
    noise = generator.standard_normal(shape)
    if name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(noise)
    elif name.endswith("weight") and len(shape) == 1:
        values = 1 + 0.1 * noise
    else:
        values = scale * noise
    return np.asarray(values, np.float32)


def seeded_tensors(shapes: Mapping[str, Sequence[int]], gain: float) -> dict[str, FloatArray]:
    """`seeded_tensor` of each name, batch counters left out.

    Convolutions (four dimensions) get the deviation `sqrt(gain / fan_in)`, which keeps a deep network's activations near 1.
    """
    return {
        name: seeded_tensor(name, tuple(shape), float(np.sqrt(gain / np.prod(shape[1:]))) if len(shape) > MATRIX_AXES else 0.1)
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }
