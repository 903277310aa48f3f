"""fine_tune: the best weights with their history, the same from the same seed, and label maps that agree."""

import pandas as pd
import pytest
from runs import Run

from hubflow.schemas.errors import LabelMapError
from hubflow.stages.fine_tune import fine_tune


def test_the_checkpoint_keeps_the_best_epoch_and_its_history(digits_run: Run) -> None:
    checkpoint, folder = digits_run.checkpoint, digits_run.store.open(digits_run.checkpoint).folder
    evaluations = pd.read_parquet(folder / "evaluations.parquet")
    assert checkpoint.best_metric == "accuracy"
    assert checkpoint.best_value == evaluations["accuracy"].max()
    assert checkpoint.best_epoch == evaluations["epoch"][evaluations["accuracy"].idxmax()]
    assert checkpoint.steps == 2 * -(-digits_run.dataset.rows["train"] // 16)
    assert (folder / "steps.parquet").is_file()


def test_the_best_weights_are_those_that_evaluate_judges(digits_run: Run) -> None:
    assert digits_run.evaluation.metrics["dev"]["accuracy"] == digits_run.checkpoint.best_value


def test_the_same_seed_trains_the_same_weights(digits_run: Run) -> None:
    run, store = digits_run, digits_run.store
    weights = store.open(run.checkpoint).folder / "model.safetensors"
    files = {path.name: path.read_bytes() for path in weights.parent.glob("*.safetensors")}
    other = run.settings.train.model_copy(update={"log_every_steps": 11})  # another key: trained anew beside the first
    again = fine_tune(run.task, run.encoded, other, run.settings.store, run.settings.seed, "cpu")
    assert again.path != run.checkpoint.path
    assert files
    assert {path.name: path.read_bytes() for path in store.open(again).folder.glob("*.safetensors")} == files


def test_rows_with_another_label_map_are_refused(text_run: Run) -> None:
    task = text_run.task.model_copy(update={"label_map_sha256": "0" * 64})
    with pytest.raises(LabelMapError, match="the label map of the encoded rows"):
        fine_tune(task, text_run.encoded, text_run.settings.train, text_run.settings.store)
