"""Recipe of the module `digits`: the backbone digits_cnn, trained to tell scikit-learn's handwritten digits 0 to 4 apart.

Each digit is turned by quarters and mirrored, and every such variant is a class of its own: telling 40 classes apart gives
features of strokes that serve other digits too. The demo fine-tunes the module on 5 to 9, which it has never seen.
Run from the project's root:

    uv run python examples/make_digits_module.py src/hubflow/modules/assets/digits
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from hubflow.programs.session import open_session
from hubflow.schemas.settings import DatasetSpec, HeadSettings, ModuleSpec, TrainSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.store import Store
from hubflow.training.checkpoints import save_weights

DIGITS = range(5)
QUARTERS = 4
# Momentum, not Adam: rounding differences between processors grow less.
TRAIN = TrainSettings(epochs=5, batch_size=32, learning_rate=0.03, optimizer="momentum")


def write_variants(folder: Path) -> None:
    """Write every variant of every digit image to a folder of its class."""
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label not in DIGITS:
            continue
        pixels = np.round(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        for variant in range(2 * QUARTERS):
            turned = np.rot90(pixels if variant < QUARTERS else pixels[:, ::-1], variant)
            target = folder / f"{label}-{variant}" / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(turned)).save(target)


def make(config: Path, target: Path) -> float:
    """Write `model.safetensors` and `config.json` to `target`; returns the accuracy on the held-out tenth of the rows."""
    module_spec = ModuleSpec(name=str(config), pretrained=False)
    with tempfile.TemporaryDirectory() as temporary:
        store, data = f"{temporary}/store", Path(temporary) / "digits"
        write_variants(data)
        dataset = load_dataset.fn(DatasetSpec(format="image_folder", train=str(data)), "image_classification", store)
        module = load_module.fn(module_spec, store)
        encoded = encode_dataset.fn(dataset, module, module_spec, store)
        task = build_head.fn("image_classification", module, dataset, module_spec, HeadSettings(), store)
        checkpoint = fine_tune.fn(task, encoded, TRAIN, store, seed=0, device="cpu")
        session = open_session(task, Store(store), "cpu")
        session.load(Store(store).open(checkpoint).folder)
        backbone = {name: array for name, array in session.weights().items() if not name.startswith("head.")}
    target.mkdir(parents=True, exist_ok=True)
    save_weights(target / "model.safetensors", backbone)
    if config.resolve() != target.resolve():
        shutil.copyfile(config / "config.json", target / "config.json")
    assert checkpoint.best_value is not None
    return checkpoint.best_value


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(f"dev accuracy {make(folder, folder):.4f}")
