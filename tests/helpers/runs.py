"""Runs of every stage over small data, as plain functions, for the tests that look at what the stages leave behind."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubflow.schemas.references import (
    CheckpointRef,
    DatasetRef,
    EncodedRef,
    EvaluationRef,
    ExportRef,
    ModuleRef,
    TaskRef,
    VerdictRef,
)
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.stages.write_report import write_report
from hubflow.store.store import Store

WORDS = ("a", "fine", "dull", "film", "with", "joy", "of", "no", "great", "plot", ".", "<", ">", "/", "script", "alert")


@dataclass(frozen=True)
class Run:
    """What each stage returned."""

    settings: FineTuneSettings
    dataset: DatasetRef
    module: ModuleRef
    encoded: EncodedRef
    task: TaskRef
    checkpoint: CheckpointRef
    evaluation: EvaluationRef
    export: ExportRef

    @property
    def store(self) -> Store:
        """The store of the run."""
        return Store(self.settings.store)

    @property
    def export_folder(self) -> Path:
        """Absolute path of the exported folder."""
        return self.store.root / self.export.path


def run_stages(settings: FineTuneSettings) -> Run:
    """Run every stage as a plain function."""
    store = settings.store
    dataset = load_dataset.fn(settings.data, settings.task, store)
    module = load_module.fn(settings.module, store)
    encoded = encode_dataset.fn(dataset, module, settings.module, store)
    task = build_head.fn(settings.task, module, dataset, settings.module, settings.head, store)
    checkpoint = fine_tune.fn(task, encoded, settings.train, store, settings.seed, "cpu")
    evaluation = evaluate.fn(checkpoint, encoded, settings.evaluate, store, "cpu")
    export = export_inference_program.fn(checkpoint, encoded, evaluation, store)
    return Run(settings, dataset, module, encoded, task, checkpoint, evaluation, export)


def report(
    settings: FineTuneSettings,
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    export: ExportRef,
    store: str,
    verdict: VerdictRef | None = None,
    began: datetime.datetime | None = None,
) -> Path:
    """Write a run's report as the flow does; its page."""
    options: dict[str, Any] = {"seconds": {"fine_tune": 1.5}, "run_settings": settings, "began": began}
    made = write_report.fn(evaluation, encoded, export, store, settings.name, settings.report, verdict, **options)
    return Path(made)


def digits_settings(store: Path, **more: Any) -> dict[str, Any]:
    """Settings of a small fine-tune of the module that ships with hubflow."""
    data = {"format": "digits", "digits": [5, 6, 7], "max_rows": 90, "dev_fraction": 0.2, "test_fraction": 0.4}
    train = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
    return {
        "task": "image_classification",
        "module": {"name": "digits"},
        "data": data,
        "train": train,
        "store": str(store),
        "device": "cpu",
        **more,
    }


def write_reviews(path: Path, rows: int, separator: str = "\t") -> Path:
    """A table `id, text, label` of made-up reviews."""
    lines = [f"{n + 100}{separator}{'a fine' if n % 2 else 'a dull'} film of no plot .{separator}{n % 2}" for n in range(rows)]
    path.write_text("\n".join([separator.join(("id", "text", "label")), *lines]) + "\n", encoding="utf-8")
    return path


def text_settings(folder: Path, module: Path, **more: Any) -> dict[str, Any]:
    """Settings of a small fine-tune on made-up reviews in `folder`."""
    sizes = {"train": 60, "dev": 20, "test": 31}
    files = {split: str(write_reviews(folder / f"{split}.tsv", rows)) for split, rows in sizes.items()}
    return {
        "task": "text_classification",
        "module": {"name": str(module), "max_seq_len": 16},
        "data": {"format": "tsv", **files},
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "store": str(folder / "store"),
        "device": "cpu",
        **more,
    }
