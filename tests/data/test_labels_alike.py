"""One rule for labels in every format: white space is taken off and counted, numbers agree, look-alikes are found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import Run

from hubflow.errors import ContractError
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.settings import DatasetSpec, PredictSettings
from hubflow.schemas.tasks import TaskName
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.predict import predict
from hubflow.store.store import Store

TEXT: TaskName = "text_classification"


class Loader:
    """Loads data sets into one store and tells what was found."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, str(folder / "store")

    def load(self, path: Path, format: str = "csv", task: TaskName = TEXT, **spec: Any) -> DatasetRef:
        settings = DatasetSpec.model_validate({"format": format, "train": str(path), "dev_fraction": 0, **spec})
        return load_dataset.fn(settings, task, self.store)

    def facts(self, reference: DatasetRef) -> dict[str, Any]:
        return Store(self.store).open(reference).facts

    def counts(self, reference: DatasetRef) -> dict[str, int]:
        return dict(self.facts(reference)["label_counts"]["train"])

    def similar(self, reference: DatasetRef) -> list[str]:
        findings = self.facts(reference)["data_report"]["findings"]
        return [example for one in findings if one["check"] == "similar_labels" for example in one["examples"]]

    def converted(self, reference: DatasetRef) -> dict[str, int]:
        return dict(self.facts(reference)["data_report"]["splits"]["train"]["coerced"])


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


def test_labels_that_look_alike_are_stripped_or_found(shared_case: Callable[[str], Path], loader: Loader) -> None:
    path = shared_case("labels-that-look-alike") / "train.csv"
    reference = loader.load(path)
    assert loader.counts(reference) == {"Neg": 6, "neg": 18, "pos": 20, "pos\u200b": 4}
    assert loader.converted(reference) == {"white space around labels": 14}
    assert loader.similar(reference) == [
        "'pos' (20 in train) and 'pos\\u200b' (4 in train)",
        "'neg' (18 in train) and 'Neg' (6 in train)",
    ]
    with pytest.raises(ContractError, match=r"similar_labels: 4 labels look like another.*'pos\\u200b'"):
        loader.load(path, checks={"similar_labels": "fail"})


VALUES: dict[str, tuple[list[Any], list[str]]] = {
    "whole numbers": ([1, 0], ["1", "0"]),
    "numbers with decimals": ([1.0, 0.0], ["1", "0"]),
    "fractions": ([0.5, 1.0], ["0.5", "1"]),
    "numbers as text": (["1", "0"], ["1", "0"]),
    "decimals as text": (["1.0", "0.0"], ["1", "0"]),
    "truth": ([True, False], ["true", "false"]),
    "words": ([" a", "b\u00a0"], ["a", "b"]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_one_rule_for_labels_of_all_formats(kind: str, loader: Loader, tmp_path: Path) -> None:
    values, expected = VALUES[kind]
    frame = pd.DataFrame({"text": [f"text {place}" for place in range(10)], "label": values * 5})
    records = [{"text": text, "label": values[place % 2]} for place, text in enumerate(frame["text"])]
    plain = [json.dumps(value) if not isinstance(value, str) else value for value in values]
    for name, sep in (("csv", ","), ("tsv", "\t")):
        lines = [f"{text}{sep}{plain[place % 2]}\n" for place, text in enumerate(frame["text"])]
        (tmp_path / f"a.{name}").write_text(f"text{sep}label\n" + "".join(lines), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    frame.to_parquet(tmp_path / "a.parquet")
    found = {}
    for name, format in (
        ("a.csv", "csv"),
        ("a.tsv", "tsv"),
        ("a.jsonl", "jsonl"),
        ("a.json", "jsonl"),
        ("a.parquet", "parquet"),
    ):
        found[name] = loader.counts(loader.load(tmp_path / name, format))
    for name, given in (
        ("pandas", frame),
        ("objects", frame.astype(object)),
        ("records", records),
        ("category", frame.astype({"label": "category"})),
    ):
        found[name] = loader.counts(dataset_from_frames.fn({"train": given}, TEXT, loader.store, dev_fraction=0, source=name))
    assert len(found) == 9
    assert all(counts == {label: 5 for label in sorted(expected)} for counts in found.values()), found


def test_numbers_of_one_label_in_one_file_are_one_class(loader: Loader, tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"t{place}", "label": label})
        for place, label in enumerate([1, 1.0, "1", "1.0", " 1", 0, "0", -0.0])
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    reference = loader.load(tmp_path / "a.jsonl", "jsonl")
    assert loader.counts(reference) == {"0": 3, "1": 5}
    assert loader.converted(reference) == {
        "label": 4,
        "white space around labels": 1,
        "whole numbers with decimals as labels": 3,
    }


def test_truth_beside_numbers_and_nfd_beside_nfc_are_found(loader: Loader, tmp_path: Path) -> None:
    labels = ["1", "true", "01", "été", "e\u0301te\u0301", "Ａ", "A"]
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"t{place},{label}\n" for place, label in enumerate(labels)), encoding="utf-8")
    assert loader.similar(loader.load(path)) == [
        "'1' (1 in train) and 'true' (1 in train) and '01' (1 in train)",
        "'\\xe9t\\xe9' (1 in train) and 'e\\u0301te\\u0301' (1 in train)",
        "'Ａ' (1 in train) and 'A' (1 in train)",
    ]


def test_a_label_that_looks_like_one_of_the_list_is_named_beside_it(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(" neg \npos\u00a0\n", encoding="utf-8")
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,neg\nb,Neg\nc, pos\nd,pos\u200b\n", encoding="utf-8")
    with pytest.raises(ContractError) as refused:
        loader.load(path, label_list=str(tmp_path / "labels.txt"))
    assert "'Neg' looks like the known label 'neg'" in str(refused.value)
    assert "'pos\\u200b' looks like the known label 'pos'" in str(refused.value)


def test_names_of_image_folders_and_labels_of_lists_follow_the_rule(loader: Loader, tmp_path: Path) -> None:
    for place, name in enumerate(["cat", "cat ", "dog", "Dog"]):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 40 * place, np.uint8)).save(tmp_path / "pictures" / name / "a.png")
    reference = loader.load(tmp_path / "pictures", "image_folder", "image_classification")
    assert loader.counts(reference) == {"Dog": 1, "cat": 2, "dog": 1}
    assert loader.converted(reference) == {"white space around labels": 1}
    assert loader.similar(reference) == ["'Dog' (1 in train) and 'dog' (1 in train)"]


def test_tags_of_words_follow_the_rule(loader: Loader, tmp_path: Path) -> None:
    lines = [{"tokens": ["a", "b"], "labels": ["O", " B-X"]}, {"tokens": ["c", "d"], "labels": ["B-X\u00a0", "b-x"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reference = loader.load(tmp_path / "a.jsonl", "jsonl", "sequence_labelling")
    assert loader.counts(reference) == {"B-X": 2, "O": 1, "b-x": 1}
    assert loader.converted(reference) == {"white space around labels": 2}
    assert loader.similar(reference) == ["'B-X' (2 in train) and 'b-x' (1 in train)"]


@pytest.mark.slow
def test_predictions_are_compared_with_labels_by_the_same_rule(text_run: Run, tmp_path: Path) -> None:
    texts = ["a fine film", "a dull film"]
    scores = []
    for name, labels in (("plain", ["1", "0"]), ("odd", [" 1.0", "0\u00a0"])):
        path = tmp_path / f"{name}.csv"
        path.write_text(
            "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)), encoding="utf-8"
        )
        result = predict.fn(PredictSettings(export=str(text_run.export_folder), data=str(path)))
        assert result.notes == []
        scores.append(result.metrics)
        assert pd.read_parquet(result.output)["label"].tolist() == labels
    assert scores[0] == scores[1] != {}
