"""Writes the small .bin files of this folder. Run it in an environment of its own, with PyTorch."""

from pathlib import Path

import torch

HERE = Path(__file__).parent
RANGE = torch.arange(6, dtype=torch.float32)
WEIGHTS = torch.nn.BatchNorm1d(2).state_dict()  # an OrderedDict with metadata, one int64 among float32
WEIGHTS.update(
    {
        "whole": RANGE,
        "window": RANGE[2:5],  # two names on one storage
        "transposed": RANGE.reshape(2, 3).t(),
        "half": torch.tensor([1.0, -0.5, 65504.0], dtype=torch.float16),
        "brain": torch.tensor([1.0, -2.5, 3.0e38], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
)

if __name__ == "__main__":
    torch.save(WEIGHTS, HERE / "torch_weights.bin")
    torch.save(WEIGHTS, HERE / "torch_weights_before_1_6.bin", _use_new_zipfile_serialization=False)
