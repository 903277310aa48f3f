"""predict: a row out for each row in, further columns carried, complete files only, and the metrics that evaluate gave."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import Run, write_reviews

from hubflow.schemas.errors import ContractError, HubflowError, SettingsError
from hubflow.schemas.folders import StoreError
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.predict import predict


def settings(run: Run, data: object, **more: Any) -> PredictSettings:
    return PredictSettings(export=str(run.export_folder), data=str(data), **more)


def test_the_test_split_gives_what_evaluate_reported_to_the_row(text_run: Run, tmp_path: Path) -> None:
    result = predict(settings(text_run, text_run.settings.data.test, output=str(tmp_path / "out.parquet")))
    reported = text_run.evaluation.metrics["test"]
    assert result.metrics == {name: reported[name] for name in result.metrics}
    judged = pd.read_parquet(text_run.store.open(text_run.evaluation).folder / "test.parquet")
    predicted = pd.read_parquet(result.output)
    assert predicted["row"].tolist() == judged["row"].tolist()
    assert predicted["predicted"].tolist() == judged["predicted"].tolist()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_keep_their_order_and_their_columns_in_every_format(ending: str, text_run: Run, tmp_path: Path) -> None:
    rows = [
        {"text": f"a {word} film", "customer": f"c{n}", "note": None} for n, word in enumerate(["fine", "dull", "great"] * 3)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = predict(settings(text_run, data, output=str(tmp_path / f"out.{ending}"), batch_size=2))
    read = {"csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet}[ending]
    out = read(result.output)
    assert out["row"].tolist() == list(range(1, 10))
    assert out["customer"].tolist() == [row["customer"] for row in rows]
    assert out["text"].tolist() == [row["text"] for row in rows]
    assert (out[["probability_0", "probability_1"]].sum(axis=1) - 1).abs().max() < 1e-5
    assert (out["probability"] - out[["probability_0", "probability_1"]].max(axis=1)).abs().max() < 1e-6
    assert result.metrics == {}


def test_a_column_that_has_a_name_of_ours_is_kept_under_another(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("text\tpredicted\tsource_predicted\tprobability_9\na film\told\tolder\tx\n", encoding="utf-8")
    out = pd.read_parquet(predict(settings(text_run, data)).output)
    assert out.loc[0, ["source_source_predicted", "source_predicted", "probability_9"]].tolist() == ["old", "older", "x"]
    assert out.loc[0, "predicted"] in ("0", "1")


def test_further_columns_do_not_change_what_is_predicted(text_run: Run, tmp_path: Path) -> None:
    """Whatever they are called."""
    names = ("text", "path", "image", "text_pair", "tokens", "sha256")
    rows = [dict(zip(names, (f"a {word} film", *"vwxyz"), strict=True)) for word in ("fine", "dull", "great")]
    data, plain = tmp_path / "rows.jsonl", tmp_path / "plain.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows), encoding="utf-8")
    found, expected = (pd.read_parquet(predict(settings(text_run, path)).output) for path in (data, plain))
    assert found["probability"].tolist() == expected["probability"].tolist()
    assert set(names) <= set(found)


def test_a_failure_leaves_no_file_and_what_was_there_unharmed(text_run: Run, tmp_path: Path) -> None:
    data, output = tmp_path / "rows.tsv", tmp_path / "out" / "predictions.csv"
    output.parent.mkdir()
    output.write_text("old\n", encoding="utf-8")
    data.write_text("text\na film\n \n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"row 3"):
        predict(settings(text_run, data, output=str(output)))
    assert [path.name for path in output.parent.iterdir()] == ["predictions.csv"]
    assert output.read_text(encoding="utf-8") == "old\n"


def test_an_output_that_cannot_be_written_is_named(text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 3)
    with pytest.raises(StoreError, match=r"rows\.tsv/out\.csv: the predictions cannot be written"):
        predict(settings(text_run, data, output=str(data / "out.csv")))


def test_images_are_labelled_one_row_each(digits_run: Run, tmp_path: Path) -> None:
    rows = pd.read_parquet(digits_run.store.open(digits_run.dataset).folder / "test.parquet").head(6)
    for row in rows.itertuples():
        (tmp_path / "images" / str(row.label)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / str(row.label) / f"{row.row}.png").write_bytes(row.image)
    result = predict(settings(digits_run, tmp_path / "images"))
    out = pd.read_parquet(result.output)
    assert len(out) == 6
    judged = pd.read_parquet(digits_run.store.open(digits_run.evaluation).folder / "test.parquet").set_index("row")
    for row in out.itertuples():
        assert row.predicted == judged.loc[int(Path(str(row.path)).stem), "predicted"]


@pytest.mark.parametrize(
    ("data", "more", "error", "message"),
    [
        ("absent.tsv", {}, HubflowError, "absent.tsv: no such file"),
        ("rows.xyz", {}, SettingsError, "the ending does not tell the format"),
        ("rows.tsv", {"text_column": "body"}, HubflowError, "no column 'body'"),
        ("rows.tsv", {"format": "conll"}, SettingsError, "format 'conll' holds no rows for this export's task"),
    ],
)
def test_what_cannot_be_predicted_on_is_told(
    data: str, more: dict[str, Any], error: type[Exception], message: str, text_run: Run, tmp_path: Path
) -> None:
    write_reviews(tmp_path / "rows.tsv", 2)
    with pytest.raises(error) as caught:
        predict(settings(text_run, tmp_path / data, **more))
    assert message in str(caught.value)


def test_an_altered_export_is_refused(text_run: Run, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "export"
    shutil.copytree(text_run.export_folder, copy)
    (copy / "label_map.json").write_text('["1", "0"]', encoding="utf-8")
    with pytest.raises(StoreError, match=r"label_map\.json"):
        predict(PredictSettings(export=str(copy), data=str(text_run.settings.data.test)))
