"""Text pairs from file to predictions: what is trained on pairs is predicted on pairs."""

from pathlib import Path

import pandas as pd
import pytest
from runs import WORDS, Run, run_stages
from small_modules import make_tiny_bert

from hubflow.errors import SettingsError
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.stages.predict import predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pairs")
    rows = [("a fine film", "a fine plot" if n % 2 else "no film", str(n % 2), n) for n in range(60)]
    frame = pd.DataFrame(rows, columns=["text_a", "text_b", "label", "id"])
    frame.to_csv(folder / "train.csv", index=False)
    values = {
        "task": "text_classification",
        "module": {"name": str(make_tiny_bert(folder / "bert", WORDS)), "max_seq_len": 16},
        "data": {
            "format": "csv",
            "train": str(folder / "train.csv"),
            "text_column": "text_a",
            "text_pair_column": "text_b",
            "dev_fraction": 0.2,
            "test_fraction": 0.2,
        },
        "train": {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3},
        "store": str(folder / "store"),
        "device": "cpu",
    }
    return run_stages(FineTuneSettings.model_validate(values))


def predict_settings(run: Run, tmp_path: Path, **more: object) -> PredictSettings:
    test = run.store.open(run.dataset).folder / "test.parquet"
    return PredictSettings.model_validate(
        {"export": str(run.export_folder), "data": str(test), "output": str(tmp_path / "out.parquet"), **more}
    )


def test_predicting_on_pairs_gives_what_evaluate_reported(pair_run: Run, tmp_path: Path) -> None:
    result = predict.fn(predict_settings(pair_run, tmp_path, text_pair_column="text_pair"))
    assert result.metrics["accuracy"] == pair_run.evaluation.metrics["test"]["accuracy"]
    predicted = pd.read_parquet(result.output)
    assert predicted["id"].tolist() == pd.read_parquet(predict_settings(pair_run, tmp_path).data)["id"].tolist()


def test_single_texts_are_refused_by_what_was_trained_on_pairs(pair_run: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="trained on text_pair rows, the settings give text; set text_pair_column"):
        predict.fn(predict_settings(pair_run, tmp_path))


def test_an_earlier_prediction_is_carried_under_another_name(pair_run: Run, tmp_path: Path) -> None:
    first = predict.fn(predict_settings(pair_run, tmp_path, text_pair_column="text_pair"))
    again = predict.fn(
        PredictSettings(
            export=str(pair_run.export_folder),
            data=first.output,
            output=str(tmp_path / "again.parquet"),
            text_pair_column="text_pair",
        )
    )
    frame = pd.read_parquet(again.output)
    assert frame["source_predicted"].tolist() == frame["predicted"].tolist()


def test_labels_outside_the_map_are_told_and_an_empty_label_column_counts_as_none(pair_run: Run, tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["a film", "a plot"], "text_pair": ["no", "a"], "label": ["1", "maybe"]})
    rows.to_csv(tmp_path / "odd.csv", index=False)
    rows.assign(label="").to_csv(tmp_path / "empty.csv", index=False)
    odd = predict.fn(predict_settings(pair_run, tmp_path, data=str(tmp_path / "odd.csv"), text_pair_column="text_pair"))
    empty = predict.fn(predict_settings(pair_run, tmp_path, data=str(tmp_path / "empty.csv"), text_pair_column="text_pair"))
    assert odd.metrics == empty.metrics == {}
    assert odd.notes == ["no metrics: 1 label(s) are not in the export's label map: row 3 ('maybe')"]
    assert empty.notes == []
