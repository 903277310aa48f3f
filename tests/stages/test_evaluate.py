"""evaluate: exact metrics of every split but train, with the predictions that they come from."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from runs import Run

from hubflow.data.columns import with_extra_columns
from hubflow.errors import LabelMapError, SettingsError
from hubflow.evaluation.folder import read_details, require_evaluable
from hubflow.schemas.settings import EvaluateSettings, SliceSettings
from hubflow.schemas.tasks import find_task_type
from hubflow.stages.evaluate import evaluate
from hubflow.store.store import Store
from hubflow.text import metrics_table


@pytest.mark.parametrize("name", ["digits_run", "text_run"])
def test_accuracy_is_that_of_the_kept_predictions(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    for split, metrics in run.evaluation.metrics.items():
        evaluated = pd.read_parquet(run.store.open(run.evaluation).folder / f"{split}.parquet")
        assert len(evaluated) == run.dataset.rows[split]
        assert metrics["accuracy"] == (evaluated["label"] == evaluated["predicted"]).mean()
        assert metrics["loss"] == pytest.approx(evaluated["loss"].mean(), rel=1e-5)
        known = tuple(find_task_type(run.settings.task).metrics)  # what settings accept as best_metric
        assert tuple(metrics) == tuple(name for name in known if name not in ("top_3_accuracy", "top_5_accuracy"))
        probabilities = evaluated[[f"probability_{label}" for label in evaluated["label"].unique()]]
        assert (probabilities.sum(axis=1) - 1).abs().max() < 1e-5
        assert (evaluated["probability"] - probabilities.max(axis=1)).abs().max() < 1e-6
        assert set(map(str, probabilities.dtypes)) == {"float32"}


@pytest.mark.parametrize("name", ["digits_run", "text_run"])
def test_details_agree_with_the_flat_metrics_and_the_kept_predictions(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    details = read_details(run.store, run.evaluation)
    assert list(details) == list(run.evaluation.metrics)
    for split, one in details.items():
        evaluated = pd.read_parquet(run.store.open(run.evaluation).folder / f"{split}.parquet")
        assert one.rows == len(evaluated)
        assert sum(score.f1 for score in one.per_class.values()) / len(one.per_class) == pytest.approx(
            run.evaluation.metrics[split]["f1_macro"]
        )
        assert one.confusion.labels is not None
        counts = pd.crosstab(evaluated["label"], evaluated["predicted"]).reindex(
            index=one.confusion.labels, columns=one.confusion.labels, fill_value=0
        )
        assert one.confusion.counts == counts.to_numpy().tolist()
        assert sum(pair.count for pair in one.confusion.pairs) == (evaluated["label"] != evaluated["predicted"]).sum()


def test_the_batch_size_changes_nothing(text_run: Run, tmp_path: Path) -> None:
    store = shutil.copytree(text_run.settings.store, tmp_path / "store")
    again = evaluate.fn(text_run.checkpoint, text_run.encoded, EvaluateSettings(batch_size=7), str(store), "cpu", reuse=False)
    for split, metrics in text_run.evaluation.metrics.items():
        assert again.metrics[split] == pytest.approx(metrics, rel=1e-5)


def test_rows_with_another_label_map_are_refused(text_run: Run, digits_run: Run) -> None:
    task = text_run.checkpoint.task.model_copy(update={"label_map_sha256": "0" * 64})
    checkpoint = text_run.checkpoint.model_copy(update={"task": task})
    with pytest.raises(LabelMapError, match="is not that of the checkpoint"):
        evaluate.fn(checkpoint, text_run.encoded, EvaluateSettings(), text_run.settings.store)


def test_a_metric_that_one_split_lacks_leaves_its_cell_empty() -> None:
    assert metrics_table({"dev": {"a": 1.0}, "test": {"b": 0.5}}).splitlines()[2:] == [
        "| dev | 1.0000 |  |",
        "| test |  | 0.5000 |",
    ]


def test_further_columns_of_the_data_are_kept_with_their_types_and_names_of_ours_make_way(tmp_path: Path) -> None:
    data = tmp_path / "dev.parquet"
    when = pd.Timestamp("2026-01-01 03:30", tz="UTC")
    columns = {"row": [1, 2], "text": ["a", "b"], "label": ["0", "1"], "customer": [7, None], "loss": ["x", "y"]}
    pd.DataFrame({**columns, "source_loss": [1, 2], "when": [None, when]}).astype({"customer": "Int64"}).to_parquet(data)
    evaluated = pd.DataFrame({"row": [2], "position": [1], "loss": [0.25]})
    table = with_extra_columns(evaluated, data, "text")
    assert table.column_names == ["row", "position", "loss", "customer", "source_source_loss", "source_loss", "when"]
    assert table.select(["customer", "source_source_loss", "source_loss"]).to_pylist()[0] == {
        "customer": None,
        "source_source_loss": "y",
        "source_loss": 2,
    }
    assert str(table.schema.field("customer").type) == "int64"
    assert table.column("when").to_pylist()[0] == when


def test_ids_travel_from_the_data_to_the_evaluated_rows(text_run: Run) -> None:
    evaluated = pd.read_parquet(text_run.store.open(text_run.evaluation).folder / "test.parquet")
    assert evaluated["id"].tolist() == [str(row + 98) for row in evaluated["row"]]


def test_slices_and_metrics_of_ones_own_see_the_further_columns_of_the_data(
    text_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(shutil.copytree(text_run.settings.store, tmp_path / "store"))
    source = "def high(evaluated, labels):\n    return (evaluated['id'].astype(int) > 110).sum() + len(labels)\n"
    (tmp_path / "metrics_of_mine.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = EvaluateSettings(
        metrics=("metrics_of_mine:high",), slices=SliceSettings(columns=("id",), max_values=4), bootstrap={"resamples": 50}
    )
    found = evaluate.fn(text_run.checkpoint, text_run.encoded, settings, store, "cpu")
    assert found.path != text_run.evaluation.path  # other settings, another evaluation
    assert found.metrics["test"]["metrics_of_mine:high"] == 20 + 2
    details = read_details(Store(store), found)["test"]
    assert [one.rows for one in details.slices if one.by == "column"] == [1, 1, 1, 28]
    assert {one.by for one in details.slices} == {"column", "length", "label"}
    assert details.resamples == 50
    assert details.intervals["accuracy"].low <= found.metrics["test"]["accuracy"] <= details.intervals["accuracy"].high


def test_what_the_evaluation_would_refuse_is_refused_before_training(text_run: Run) -> None:
    for settings, message in [
        (EvaluateSettings(slices=SliceSettings(columns=("shop",))), "has no column 'shop'; it has row, text, label, id"),
        (EvaluateSettings(metrics=("absent_module:cost",)), "absent_module cannot be imported"),
    ]:
        with pytest.raises(SettingsError, match=message):
            require_evaluable(settings, text_run.dataset, text_run.settings.store)
