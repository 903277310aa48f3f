"""`hubflow init` and `hubflow contract infer` on files that nobody made with them in mind."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_lines import one_line, run
from PIL import Image

from hubflow.cli.project import SeenData, contract_source, default_name, guesses, look_at, write_project
from hubflow.errors import DataError, HubflowError, SettingsError
from hubflow.schemas.rows import validate_rows
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

TEXTS = [f"{('a fine', 'a dull')[n % 2]} film about number {n}" for n in range(40)]


def table(path: Path, separator: str = ",", header: bool = True) -> Path:
    frame = pd.DataFrame({"id": range(1, 41), "review": TEXTS, "stars": [5, 1] * 20, "shop": ["Bonn", "Köln"] * 20})
    frame.to_csv(path, sep=separator, index=False, header=header)
    return path


def images(folder: Path) -> Path:
    for number in range(8):
        path = folder / ("cats" if number % 2 else "dogs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number * 20).save(path)
    return folder


def model_of(seen: SeenData, tmp_path: Path, **options: Any) -> Any:
    """The contract that is written, as a class."""
    file = tmp_path / "inferred.py"
    file.write_text(contract_source(seen, "Found", **options), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("inferred", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Found


@pytest.mark.parametrize(("separator", "ending"), [(",", ".csv"), (";", ".csv"), ("|", ".csv"), ("\t", ".tsv"), ("\t", ".csv")])
def test_separators_and_columns_are_found(separator: str, ending: str, tmp_path: Path) -> None:
    seen = look_at(str(table(tmp_path / f"reviews{ending}", separator)))
    assert (seen.spec.text_column, seen.spec.label_column) == ("review", "stars")
    assert seen.rows["text"].tolist() == TEXTS
    assert set(seen.rows["label"]) == {"1", "5"}


def test_a_file_without_a_header_is_read_by_position(tmp_path: Path) -> None:
    seen = look_at(str(table(tmp_path / "reviews.csv", header=False)))
    assert not seen.spec.header
    assert seen.spec.text_column == 1
    assert guesses(seen) == "format csv; no header; text in column 1, label in column 2"
    assert len(seen.rows) == 40


def test_json_lines_parquet_and_lists_of_words_are_found(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": TEXTS, "verdict": ["good", "bad"] * 20})
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert look_at(str(tmp_path / name)).spec.text_column == "body"
    words = [{"tokens": ["Ada", "sings"], "labels": ["B-PER", "O"]}] * 5
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(one) + "\n" for one in words), encoding="utf-8")
    assert look_at(str(tmp_path / "w.jsonl")).task == "sequence_labelling"


def odd(folder: Path, name: str) -> tuple[str, dict[str, str]]:
    """A file as other tools write it, and what has to be said of it."""
    frame = pd.DataFrame({"Kommentar": TEXTS, "Urteil": ["gut", "schlecht"] * 20, "code": [f"{n:03}" for n in range(40)]})
    frame.loc[3, "Kommentar"] = 'für Größe; "zitiert", mit\nUmbruch'
    path = folder / name
    if name.endswith(".json"):
        frame.to_json(path, orient="records", force_ascii=False, indent=2)
    elif name == "cp1252.csv":
        frame.to_csv(path, index=False, encoding="cp1252")
        return str(path), {"encoding": "cp1252"}
    else:
        frame.to_csv(path, index=False, encoding="utf-16" if "utf-16" in name else "utf-8-sig")
    return str(path), {"encoding": "utf-16"} if "utf-16" in name else {}


@pytest.mark.parametrize("name", ["bom.csv", "packed.csv.gz", "cp1252.csv", "utf-16.csv", "array.json"])
def test_files_of_other_tools_are_read_and_keep_the_contract_that_is_written(name: str, tmp_path: Path) -> None:
    path, options = odd(tmp_path, name)
    seen = look_at(path, **options)
    assert (seen.spec.text_column, seen.spec.label_column) == ("Kommentar", "Urteil")
    assert seen.rows["text"].iloc[3].startswith("für Größe")
    for with_checks in (True, False):
        file = tmp_path / f"contract_{with_checks}.py"
        file.write_text(contract_source(seen, "Found", with_checks), encoding="utf-8")
        monkey = pytest.MonkeyPatch()
        monkey.syspath_prepend(str(tmp_path))
        spec = seen.spec.model_copy(update={"contract": f"contract_{with_checks}:Found"})
        dataset = load_dataset.fn(spec, seen.task, str(tmp_path / "store"))
        sys.modules.pop(f"contract_{with_checks}")
        monkey.undo()
        assert sum(dataset.rows.values()) == 40
        written = pq.read_table(Store(tmp_path / "store").open(dataset).folder / "train.parquet").column("code").to_pylist()
        assert all(isinstance(code, str) and len(code) == 3 for code in written)  # 007 stays a text


def test_names_that_python_or_settings_would_refuse_become_others() -> None:
    assert [
        default_name(one) for one in ("orders export.csv", "2024-reviews.csv", "отзывы.csv", "class.csv", "/data/photos/")
    ] == ["orders_export", "project_2024_reviews", "project", "project_class", "photos"]


def test_splits_that_lie_together_are_taken(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        table(tmp_path / f"{name}.csv")
        images(tmp_path / "photos" / name)
    for seen in (look_at(str(tmp_path / "train.csv")), look_at(str(tmp_path / "photos"))):
        assert [Path(str(one)).name.split(".")[0] for one in (seen.spec.dev, seen.spec.test)] == ["valid", "test"]
    assert look_at(str(tmp_path / "photos")).task == "image_classification"


def test_a_contract_keeps_its_rows_and_refuses_others(tmp_path: Path) -> None:
    seen = look_at(str(table(tmp_path / "reviews.csv")))
    contract = model_of(seen, tmp_path)
    assert len(validate_rows(seen.rows, contract, "reviews")) == 40
    for column, value in (("shop", "Oslo"), ("id", 41), ("label", "3")):
        other = seen.rows.copy()
        other[column] = other[column].astype(object)
        other.loc[3, column] = value
        with pytest.raises(HubflowError, match=column):
            validate_rows(other.infer_objects(), contract, "reviews")
    later = seen.rows.assign(shop="Oslo")
    assert len(validate_rows(later, model_of(seen, tmp_path, with_checks=False), "reviews")) == 40


def test_labels_of_images_are_all_the_folders(tmp_path: Path) -> None:
    assert "isin=['cats', 'dogs']" in contract_source(look_at(str(images(tmp_path / "pets"))), "Pets")


def test_what_is_not_clear_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        look_at(str(tmp_path / "none.csv"))
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"its ending says no format; expected one of \.csv"):
        look_at(str(tmp_path / "a.xlsx"))
    pd.DataFrame({"x": [f"text {n}" for n in range(9)]}).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(DataError, match="--label-column"):
        look_at(str(tmp_path / "one.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one folder for each class"):
        look_at(str(tmp_path / "empty"))


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    seen = look_at(str(table(tmp_path / "reviews.csv")))
    write_project(tmp_path / "project", "reviews", seen)
    with pytest.raises(SettingsError, match=r"reviews\.yaml.* is there already"):
        write_project(tmp_path / "project", "reviews", seen)
    with pytest.raises(SettingsError, match="expected letters, digits and underscores"):
        write_project(tmp_path / "project", "class", seen)


def test_the_commands_print_what_they_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "reviews.csv")
    monkeypatch.chdir(tmp_path)
    assert one_line(run("init", "reviews.csv", "--json").stdout)["task"] == "text_classification"
    assert "class Reviews(TextRows):" in run("contract", "infer", "reviews.csv", "--name", "Reviews").stdout
    assert run("init").exit_code == 2


@pytest.mark.soak
@pytest.mark.integration
def test_the_tests_of_projects_for_images_and_sentences_pass(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    made = {"photos": shared_data("flowers"), "names": shared_data("conll2003_en") / "train.txt"}
    for name, data in made.items():
        write_project(tmp_path / name, name, look_at(str(data)))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", *made]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
