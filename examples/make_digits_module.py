"""Recipe of the module `digits`: the backbone digits_cnn, trained on scikit-learn's handwritten digits 0 to 4.

The demo fine-tunes it on 5 to 9, which it has never seen. Run from the project's root:

    uv run python examples/make_digits_module.py stages/hub/assets/digits
"""

import shutil
import sys
import tempfile
from pathlib import Path

from hubflow.schemas.settings import DatasetSpec, HeadSettings, ModuleSpec, TrainSettings
from hubflow.stages.build_head import build_head, open_session
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.hub.checkpoints import save_weights
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.stages.store import Store

DATA = DatasetSpec(format="digits", digits=(0, 1, 2, 3, 4), dev_share=0.2)
TRAIN = TrainSettings(epochs=20, batch_size=32, learning_rate=2e-3, weight_decay=0.05)


def make(config: Path, target: Path) -> float:
    """Write `model.safetensors` and `config.json` to `target`; returns the accuracy on the held-out fifth of the rows."""
    module_spec = ModuleSpec(name=str(config), pretrained=False)
    with tempfile.TemporaryDirectory() as store:
        dataset = load_dataset(DATA, "image_classification", store)
        module = load_module(module_spec, store)
        encoded = encode_dataset(dataset, module, module_spec, store)
        task = build_head("image_classification", module, dataset, module_spec, HeadSettings(), store)
        checkpoint = fine_tune(task, encoded, TRAIN, store, seed=0, device="cpu")
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
