"""evaluate: exact metrics of every split but train, with the predictions that they come from."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from runs import Run

from hubflow.schemas.errors import LabelMapError
from hubflow.schemas.settings import METRICS, EvaluateSettings
from hubflow.stages.evaluate import evaluate, metrics_table


@pytest.mark.parametrize("name", ["digits_run", "text_run"])
def test_accuracy_is_that_of_the_kept_predictions(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    for split, metrics in run.evaluation.metrics.items():
        judged = pd.read_parquet(run.store.open(run.evaluation).folder / f"{split}.parquet")
        assert len(judged) == run.dataset.rows[split]
        assert metrics["accuracy"] == (judged["label"] == judged["predicted"]).mean()
        assert metrics["loss"] == pytest.approx(judged["loss"].mean(), rel=1e-5)
        assert tuple(metrics) == METRICS[run.settings.task]  # what settings accept as best_metric


def test_the_batch_size_changes_nothing(text_run: Run, tmp_path: Path) -> None:
    store = shutil.copytree(text_run.settings.store, tmp_path / "store")
    again = evaluate(text_run.checkpoint, text_run.encoded, EvaluateSettings(batch_size=7), str(store), "cpu", reuse=False)
    for split, metrics in text_run.evaluation.metrics.items():
        assert again.metrics[split] == pytest.approx(metrics, rel=1e-5)


def test_rows_with_another_label_map_are_refused(text_run: Run, digits_run: Run) -> None:
    task = text_run.checkpoint.task.model_copy(update={"label_map_sha256": "0" * 64})
    checkpoint = text_run.checkpoint.model_copy(update={"task": task})
    with pytest.raises(LabelMapError, match="is not that of the checkpoint"):
        evaluate(checkpoint, text_run.encoded, EvaluateSettings(), text_run.settings.store)


def test_a_metric_that_one_split_lacks_leaves_its_cell_empty() -> None:
    assert metrics_table({"dev": {"a": 1.0}, "test": {"b": 0.5}}).splitlines()[2:] == [
        "| dev | 1.0000 |  |",
        "| test |  | 0.5000 |",
    ]
