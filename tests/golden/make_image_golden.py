"""Write the golden files of the image backbones: what torchvision and timm compute from seeded weights; see README.md."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeded import seeded_tensor, seeded_tensors

HERE = Path(__file__).parent
IMAGE_SHAPE = (2, 3, 64, 64)


@dataclass(frozen=True)
class Case:
    """A golden file `<architecture>_<layout>`; `gain` of its convolutions keeps the features near 1."""

    architecture: str
    layout: str
    build: Callable[[], torch.nn.Module]
    features: Callable[[Any, torch.Tensor], torch.Tensor]
    gain: float


def import_torchvision_models() -> Any:
    """torchvision's models, which are plain Python, without its compiled operators, which want the GPU build of torch."""
    register = torch.library.register_fake

    def skip_own_operators(name: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **options)

    torch.library.register_fake = skip_own_operators
    from torchvision import models

    return models


def cases() -> Iterator[Case]:
    """Each architecture that needs a table of names, by each library."""
    torchvision = import_torchvision_models()
    import timm

    for ours, theirs, gain in (
        ("resnet18", "resnet18", 1.0),
        ("resnet50", "resnet50", 1.0),
        ("mobilenet_v2", "mobilenetv2_100", 2.0),
        ("mobilenet_v3_small", "mobilenetv3_small_100", 2.4),
        ("mobilenet_v3_large", "mobilenetv3_large_100", 2.0),
    ):
        trunk = resnet_trunk if ours.startswith("resnet") else lambda model, image: model.features(image)
        yield Case(ours, "torchvision", getattr(torchvision, ours), trunk, gain)
        yield Case(
            ours, "timm", lambda name=theirs: timm.create_model(name), lambda model, image: model.forward_features(image), gain
        )


def resnet_trunk(model: Any, image: torch.Tensor) -> torch.Tensor:
    """All of a torchvision ResNet but its pool and classifier."""
    return torch.nn.Sequential(*list(model.children())[:-2])(image)


def main() -> None:
    """Write `<architecture>_<layout>.npz` and `.json` beside this file."""
    image = torch.from_numpy(seeded_tensor("image", IMAGE_SHAPE, 1.0))
    for case in cases():
        model = case.build().eval()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        weights = {name: torch.from_numpy(tensor) for name, tensor in seeded_tensors(shapes, case.gain).items()}
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            feature_map = case.features(model, image).mean(dim=(2, 3)).numpy()
        print(f"{case.architecture} {case.layout}: deviation {feature_map.std():.3f}, largest {np.abs(feature_map).max():.3f}")
        name = f"{case.architecture}_{case.layout}"
        np.savez_compressed(HERE / f"{name}.npz", feature_map=feature_map)
        facts = {"architecture": case.architecture, "layout": case.layout, "gain": case.gain, "image_shape": IMAGE_SHAPE}
        tensors = ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in shapes.items())
        text = json.dumps(facts)[:-1] + f', "tensors": {{\n{tensors}\n}}}}\n'
        (HERE / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
