"""predict: a row out for each row in, further columns carried, complete files only, and the metrics that evaluate gave."""

import gzip
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import Run, write_reviews

from hubflow.errors import ContractError, HubflowError, SettingsError, StoreError
from hubflow.inference.batch.shard import predict_part
from hubflow.schemas.references import PredictionJob, ShardRecord, ShardRef
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.predict import predict


def settings(run: Run, data: object, **more: Any) -> PredictSettings:
    return PredictSettings(export=str(run.export_folder), data=str(data), **more)


def test_the_test_split_gives_what_evaluate_reported_to_the_row(text_run: Run, tmp_path: Path) -> None:
    result = predict.fn(settings(text_run, text_run.settings.data.test, output=str(tmp_path / "out.parquet")))
    reported = text_run.evaluation.metrics["test"]
    assert result.metrics == {name: reported[name] for name in result.metrics}
    evaluated = pd.read_parquet(text_run.store.open(text_run.evaluation).folder / "test.parquet")
    predicted = pd.read_parquet(result.output)
    assert predicted["row"].tolist() == evaluated["row"].tolist()
    assert predicted["predicted"].tolist() == evaluated["predicted"].tolist()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_keep_their_order_and_their_columns_in_every_format(ending: str, text_run: Run, tmp_path: Path) -> None:
    rows = [
        {"text": f"a {word} film", "customer": f"c{n}", "note": None} for n, word in enumerate(["fine", "dull", "great"] * 3)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = predict.fn(settings(text_run, data, output=str(tmp_path / f"out.{ending}"), batch_size=2))
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
    out = pd.read_parquet(predict.fn(settings(text_run, data)).output)
    assert out.loc[0, ["source_source_predicted", "source_predicted", "probability_9"]].tolist() == ["old", "older", "x"]
    assert out.loc[0, "predicted"] in ("0", "1")


def test_further_columns_do_not_change_what_is_predicted(text_run: Run, tmp_path: Path) -> None:
    """Whatever they are called."""
    names = ("text", "path", "image", "text_pair", "tokens", "sha256")
    rows = [dict(zip(names, (f"a {word} film", *"vwxyz"), strict=True)) for word in ("fine", "dull", "great")]
    data, plain = tmp_path / "rows.jsonl", tmp_path / "plain.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows), encoding="utf-8")
    found, expected = (pd.read_parquet(predict.fn(settings(text_run, path)).output) for path in (data, plain))
    assert found["probability"].tolist() == expected["probability"].tolist()
    assert set(names) <= set(found)


def test_a_failure_leaves_no_file_and_what_was_there_unharmed(text_run: Run, tmp_path: Path) -> None:
    data, output = tmp_path / "rows.tsv", tmp_path / "out" / "predictions.csv"
    output.parent.mkdir()
    output.write_text("old\n", encoding="utf-8")
    data.write_text("text\na film\n \n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"row 3"):
        predict.fn(settings(text_run, data, output=str(output), max_invalid_fraction=0.4, overwrite=True))
    assert sorted(path.name for path in output.parent.iterdir()) == [
        ".predictions.csv.quarantine.parquet.hubflow",
        "predictions.csv",
        "predictions.csv.quarantine.parquet",
    ]
    assert output.read_text(encoding="utf-8") == "old\n"


def test_bad_rows_are_set_aside_beside_the_good_ones(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("id\ttext\n1\ta film\n2\t \n3\ta dull film\nfour\n5\ta plot\n", encoding="utf-8")
    result = predict.fn(settings(text_run, data, rows_per_shard=2))
    assert (result.rows, result.invalid_rows) == (3, 2)
    assert "2 of 5 rows are quarantined" in result.notes[0]
    out = pd.read_parquet(result.output)
    assert out["row"].tolist() == [2, 4, 6]
    assert out["id"].tolist() == ["1", "3", "5"]
    aside = pd.read_parquet(str(result.quarantine))
    assert aside["row"].tolist() == [3, 5]
    assert [list(checks) for checks in aside["checks"]] == [["text: has_text"], ["line: fields"]]
    assert predict.fn(settings(text_run, write_reviews(tmp_path / "rows.tsv", 3))).quarantine is None
    assert not Path(str(result.quarantine)).exists()


def test_checks_of_rows_without_labels_have_their_names_beside_a_contract_of_ones_own() -> None:
    code = """
from hubflow.schemas.rows import ImageRows, TextPairRows, TextRows, TokenRows, row_schema
for model in (TextRows, TextPairRows, TokenRows, ImageRows):
    type("Mine", (model,), {}).to_schema()  # pandera forgets the names of checks that it has made for another class
    schema = row_schema(model, labelled=False)
    parts = [schema, *schema.columns.values()]
    print(model.__name__, sorted({str(check.name) for part in parts for check in part.checks}))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "has_text" in shown
    assert "'_" not in shown


def test_rows_of_which_none_is_sound_are_refused(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("id\ttext\n1\t \n2\t\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"2 of 2 row\(s\) \(100.00%\) are quarantined"):
        predict.fn(settings(text_run, data))


def test_a_glob_and_a_list_of_files_are_predicted_in_order_and_named(text_run: Run, tmp_path: Path) -> None:
    for name, rows in (("b", 3), ("a", 2), ("c", 4)):
        write_reviews(tmp_path / f"{name}.tsv", rows)
    output = str(tmp_path / "out.parquet")
    out = pd.read_parquet(predict.fn(settings(text_run, tmp_path / "[ab].tsv", output=output)).output)
    assert out["file"].map(lambda path: Path(path).name).tolist() == ["a.tsv"] * 2 + ["b.tsv"] * 3
    assert out["row"].tolist() == [2, 3, 2, 3, 4]
    both = PredictSettings(
        export=str(text_run.export_folder), data=(str(tmp_path / "c.tsv"), str(tmp_path / "a.tsv")), output=output
    )
    assert predict.fn(both).rows == 6
    assert pd.read_parquet(output)["row"].tolist() == [2, 3, 4, 5, 2, 3]
    with pytest.raises(SettingsError, match="several files need one named"):
        predict.fn(settings(text_run, tmp_path / "*.tsv"))
    with pytest.raises(HubflowError, match="matches no file"):
        predict.fn(settings(text_run, tmp_path / "*.csv", output=output))


def test_top_k_gives_the_most_probable_labels_as_lists(digits_run: Run, tmp_path: Path) -> None:
    folder = some_images(digits_run, tmp_path / "images")
    whole = pd.read_parquet(predict.fn(settings(digits_run, folder)).output)
    top = pd.read_parquet(predict.fn(settings(digits_run, folder, top_k=2)).output)
    names = [name for name in whole.columns.astype(str) if name.startswith("probability_")]
    assert not [name for name in top.columns.astype(str) if name.startswith("probability_")]
    for row, labels, values in zip(whole[names].to_numpy(), top["top_labels"], top["top_probabilities"], strict=True):
        order = (-row).argsort()[:2]
        assert [f"probability_{label}" for label in labels] == [names[place] for place in order]
        assert list(values) == pytest.approx(row[order], abs=1e-6)
    assert predict.fn(settings(digits_run, folder, top_k=99, output=str(tmp_path / "out.jsonl"))).rows == len(whole)


def test_an_image_that_does_not_decode_or_is_missing_is_set_aside(digits_run: Run, tmp_path: Path) -> None:
    folder = some_images(digits_run, tmp_path / "images")
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in folder.rglob("*.png"))
    (tmp_path / paths[1]).write_bytes(b"no image")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*paths, "images/gone.png", "../other.png"]), encoding="utf-8")
    result = predict.fn(settings(digits_run, listed, rows_per_shard=3))
    assert (result.rows, result.invalid_rows) == (len(paths) - 1, 3)
    aside = pd.read_parquet(str(result.quarantine))
    assert aside["row"].tolist() == [2, len(paths) + 1, len(paths) + 2]
    assert [checks[0] for checks in aside["checks"]] == ["image: decodes", "line: file", "line: path"]
    with pytest.raises(HubflowError, match=r"1 image\(s\) cannot be decoded"):
        predict.fn(settings(digits_run, folder, max_invalid_fraction=0.1))


def test_only_rows_that_have_a_label_are_measured(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("text\tlabel\na fine film\t1\na dull film\t\na plot\t0\n", encoding="utf-8")
    result = predict.fn(settings(text_run, data))
    assert result.notes == ["metrics are of the 2 rows, of 3, that have a label"]
    right = pd.read_parquet(result.output).iloc[[0, 2]]
    assert result.metrics["accuracy"] == (right["predicted"] == right["label"]).mean()


class Stopped(Exception):
    """Stands for a kill."""


@pytest.mark.slow
def test_a_stopped_run_goes_on_by_part_and_gives_the_same(text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 20)
    given = settings(text_run, data, rows_per_shard=4)
    whole = Path(predict.fn(given).output).read_bytes()
    Path(given.data + ".predictions.parquet").unlink()  # type: ignore[operator]
    predicted: list[int] = []

    def some(work: PredictionJob, parts: Sequence[ShardRef], most: int) -> Iterator[ShardRecord]:
        for part in parts:
            if not (Path(work.folder) / f"{part.key}.json").exists():
                if len(predicted) == most:
                    raise Stopped
                predicted.append(part.number)
            yield predict_part(work, part)

    with pytest.raises(Stopped):
        predict.fn(given, lambda work, parts: some(work, parts, 3))
    (work,) = tmp_path.glob(".*.parts")
    assert len(list(work.glob("*.json"))) == 3
    altered = next(path for path in work.glob("*.parquet") if path.with_suffix(".json").exists())
    altered.write_bytes(altered.read_bytes()[:-1])
    result = predict.fn(given, lambda work, parts: some(work, parts, 99))
    assert predicted == [0, 1, 2, 3, 4]
    assert Path(result.output).read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".rows.tsv.predictions.parquet.hubflow",
        "rows.tsv",
        "rows.tsv.predictions.parquet",
    ]


def test_an_output_that_cannot_be_written_is_named(text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 3)
    with pytest.raises(StoreError, match=r"rows\.tsv/out\.csv could not be written"):
        predict.fn(settings(text_run, data, output=str(data / "out.csv")))


def some_images(run: Run, folder: Path) -> Path:
    rows = pd.read_parquet(run.store.open(run.dataset).folder / "test.parquet").head(6)
    for row in rows.itertuples():
        (folder / str(row.label)).mkdir(parents=True, exist_ok=True)
        (folder / str(row.label) / f"{row.row}.png").write_bytes(row.image)
    return folder


def test_images_are_labelled_one_row_each(digits_run: Run, tmp_path: Path) -> None:
    some_images(digits_run, tmp_path / "images")
    result = predict.fn(settings(digits_run, tmp_path / "images"))
    out = pd.read_parquet(result.output)
    assert len(out) == 6
    evaluated = pd.read_parquet(digits_run.store.open(digits_run.evaluation).folder / "test.parquet").set_index("row")
    for row in out.itertuples():
        assert row.predicted == evaluated.loc[int(Path(str(row.path)).stem), "predicted"]


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
        predict.fn(settings(text_run, tmp_path / data, **more))
    assert message in str(caught.value)


def test_an_altered_export_is_refused(text_run: Run, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "export"
    shutil.copytree(text_run.export_folder, copy)
    (copy / "label_map.json").write_text('["1", "0"]', encoding="utf-8")
    with pytest.raises(StoreError, match=r"label_map\.json"):
        predict.fn(PredictSettings(export=str(copy), data=str(text_run.settings.data.test)))


def inbox(run: Run, folder: Path) -> list[Path]:
    """Images of several kinds beside each other, with files that are none."""
    rows = pd.read_parquet(run.store.open(run.dataset).folder / "test.parquet").head(6)
    folder.mkdir()
    paths = []
    for name, image in zip(("a.png", "b.PNG", "c.jpg", "d", "sub.dir/e.png", "z.png"), rows["image"], strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(image)
        paths.append(folder / name)
    (folder / "notes.txt").write_text("a.png 5\n", encoding="utf-8")
    (folder / "Thumbs.db").write_bytes(b"x")
    return paths


def test_an_image_and_a_glob_of_images_are_images(digits_run: Run, tmp_path: Path) -> None:
    paths = inbox(digits_run, tmp_path / "in")
    whole = predict.fn(settings(digits_run, tmp_path / "in"))
    out = pd.read_parquet(whole.output).set_index("path")["predicted"]
    assert list(out.index) == list(map(str, paths))
    assert whole.notes[-1] == "skipped, as no rows: hidden or system file 1, other file type 1"
    one = pd.read_parquet(predict.fn(settings(digits_run, paths[1])).output)
    assert one["predicted"].tolist() == [out[str(paths[1])]]
    glob = predict.fn(settings(digits_run, tmp_path / "in" / "*", output=str(tmp_path / "glob.parquet"), rows_per_shard=2))
    found = pd.read_parquet(glob.output)
    assert found["path"].tolist() == [str(path) for path in (*paths[:4], *paths[4:])]
    assert found["file"].tolist() == [str(tmp_path / "in" / "sub.dir") if "sub.dir" in path else path for path in found["path"]]
    assert found["predicted"].tolist() == out[found["path"]].tolist()
    assert glob.notes[-1] == "skipped, as no rows: hidden or system file 1, other file type 2"  # predictions lie there now
    several = PredictSettings(
        export=str(digits_run.export_folder), data=(str(paths[0]), str(paths[3])), output=str(tmp_path / "two.csv")
    )
    assert pd.read_csv(predict.fn(several).output)["path"].tolist() == [str(paths[0]), str(paths[3])]
    with pytest.raises(HubflowError, match=r"b\.PNG: is an image; expected a list of images"):
        predict.fn(settings(digits_run, paths[1], format="image_list"))
    with pytest.raises(HubflowError, match="no such file or folder"):
        predict.fn(settings(digits_run, tmp_path / "absent.png"))


@pytest.mark.parametrize("pattern", ["in/**", "in/**/*", "in/**/*.*", "in/**/"])
def test_a_glob_of_all_depths_gives_each_image_once(
    pattern: str, digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = inbox(digits_run, tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    out = pd.read_parquet(predict.fn(settings(digits_run, pattern, output="out.parquet")).output)
    expected = [path for path in paths if path.suffix or pattern != "in/**/*.*"]
    assert out["path"].tolist() == list(map(str, expected))


def test_images_are_named_as_they_were_given(digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = inbox(digits_run, tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    out = pd.read_parquet(predict.fn(settings(digits_run, "in/*.png", output="out.parquet")).output)
    assert out["file"].tolist() == ["in/a.png", "in/z.png"]
    assert out["path"].tolist() == [str(paths[0]), str(paths[5])]


def test_a_missing_image_of_several_is_set_aside_under_its_name(digits_run: Run, tmp_path: Path) -> None:
    paths = inbox(digits_run, tmp_path / "in")
    paths[0].write_bytes(b"no image")
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "gone.png")
    result = predict.fn(settings(digits_run, tmp_path / "in" / "*.png", output=str(tmp_path / "out.parquet")))
    assert (result.rows, result.invalid_rows) == (1, 2)
    aside = pd.read_parquet(str(result.quarantine))
    assert aside["file"].tolist() == [str(paths[0]), str(tmp_path / "in" / "broken.png")]


def test_lists_to_predict_on_take_a_root_and_labels_by_number(digits_run: Run, tmp_path: Path) -> None:
    paths = inbox(digits_run, tmp_path / "in")
    names = tmp_path / "labels.txt"
    names.write_text("0 5\n1 6\n2 7\n", encoding="utf-8")
    listed = tmp_path / "list.tsv"
    listed.write_text("".join(f"{path.relative_to(tmp_path / 'in')}\t1\n" for path in paths), encoding="utf-8")
    result = predict.fn(settings(digits_run, listed, image_root=str(tmp_path / "in"), label_list=str(names)))
    out = pd.read_parquet(result.output)
    assert out["path"].tolist() == list(map(str, paths))
    assert result.metrics["accuracy"] == (out["predicted"] == "6").mean()


def test_a_compressed_file_or_an_array_is_predicted_by_its_inner_ending(text_run: Run, tmp_path: Path) -> None:
    rows = [{"text": f"a {word} film"} for word in ["fine", "dull", "great"]]
    plain = tmp_path / "rows.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    expected = pd.read_parquet(predict.fn(settings(text_run, plain)).output)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(plain, "rows.jsonl")
    for name in ("rows.jsonl.gz", "rows.json", "export.zip"):
        found = pd.read_parquet(predict.fn(settings(text_run, tmp_path / name)).output)
        assert found.drop(columns="row").equals(expected.drop(columns="row"))
    (tmp_path / "rows.csv").write_text("text;id\na fine film, really;1\n", encoding="utf-8")
    assert pd.read_parquet(predict.fn(settings(text_run, tmp_path / "rows.csv", delimiter=";")).output)["id"].tolist() == ["1"]


def test_rows_swallowed_by_an_open_quote_are_noted(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text('id,text\n1,fine\n2,"great\n3,so so\n4,dull"\n', encoding="utf-8")
    result = predict.fn(settings(text_run, data))
    assert result.rows == 2
    assert "1 quoted field(s) hold 3 lines that look like rows" in result.notes[0]
    assert "(first: lines 3 to 5)" in result.notes[0]
