"""A small training whose rows differ much in length, and what two of them must have alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from runs import WORDS, text_settings
from safetensors.numpy import load_file
from small_modules import make_tiny_bert

from hubflow.schemas.references import CheckpointRef, EncodedRef, TaskRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.store import Store
from hubflow.training.callbacks import Callback

STEPS = 8


class Job:
    """A small fine-tune without dropout, whose rows differ much in length."""

    def __init__(self, folder: Path, **train: Any) -> None:
        module = make_tiny_bert(folder / "bert", WORDS)
        values = text_settings(folder, module)
        values["module"] |= {"dropout": 0.0, "attention_dropout": 0.0}
        for split, rows in (("train", 100), ("dev", 20)):
            _write_rows(Path(values["data"][split]), rows)
        values |= {"head": {"dropout": 0.0}}
        values["train"] = {"max_steps": STEPS, "batch_size": 32, "learning_rate": 1e-3, "log_every_steps": 1, **train}
        self.settings = FineTuneSettings.model_validate(values)

    def prepare(self, store: Path | str) -> tuple[TaskRef, EncodedRef]:
        settings, place = self.settings, str(store)
        dataset = load_dataset.fn(settings.data, settings.task, place)
        module = load_module.fn(settings.module, place)
        encoded = encode_dataset.fn(dataset, module, settings.module, place)
        return build_head.fn(settings.task, module, dataset, settings.module, settings.head, place), encoded

    def run(self, store: Path, processes: int, callbacks: tuple[Callback, ...] = ()) -> CheckpointRef:
        task, encoded = self.prepare(store)
        return fine_tune.fn(
            task, encoded, self.settings.train, str(store), 0, "cpu", callbacks=callbacks, num_processes=processes
        )


def _write_rows(path: Path, rows: int) -> None:
    generator = np.random.default_rng(rows)
    lines = ["id\ttext\tlabel"]
    for number in range(rows):
        words = generator.choice(WORDS[:10], generator.integers(1, 13))
        lines.append(f"{number}\t{'fine' if number % 2 else 'dull'} {' '.join(words)}\t{number % 2}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def kept(store: Path | str, checkpoint: CheckpointRef) -> tuple[pd.DataFrame, dict[str, np.ndarray[Any, Any]]]:
    folder = Store(store).open(checkpoint).folder
    return pd.read_parquet(folder / "steps.parquet"), load_file(folder / "model.safetensors")


def require_alike(store: Path | str, one: CheckpointRef, other_store: Path | str, other: CheckpointRef) -> None:
    """Losses and final weights within 1e-5."""
    (steps, weights), (other_steps, other_weights) = kept(store, one), kept(other_store, other)
    assert steps["step"].to_list() == other_steps["step"].to_list()
    assert len(steps) == steps["step"].max()
    np.testing.assert_allclose(steps["loss"], other_steps["loss"], atol=1e-5, rtol=0)
    assert weights.keys() == other_weights.keys()
    for name, array in weights.items():
        np.testing.assert_allclose(array, other_weights[name], atol=1e-5, rtol=0, err_msg=name)
