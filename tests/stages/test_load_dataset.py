"""load_dataset: one label map for every split, refusals, splits made here, and reuse by content."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from hubflow.errors import ContractError, DataError, HubflowError
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.rows import ROW_MODELS, validate_rows
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store, StoreError

TEXT: TaskName = "text_classification"
TAGS: TaskName = "sequence_labelling"
IMAGES: TaskName = "image_classification"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def write_file(name: str, content: str) -> str:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write_file


def reviews(labels: str, text: str = "fine") -> str:
    return "text\tlabel\n" + "".join(f"{text} {place}\t{label}\n" for place, label in enumerate(labels))


def load(tmp_path: Path, task: TaskName = TEXT, reuse: bool = True, **spec: Any) -> DatasetRef:
    return load_dataset.fn(DatasetSpec.model_validate({"format": "tsv", **spec}), task, str(tmp_path / "store"), reuse)


def splits(tmp_path: Path, reference: DatasetRef) -> dict[str, pd.DataFrame]:
    folder = Store(tmp_path / "store").open(reference).folder
    return {split: pd.read_parquet(folder / f"{split}.parquet") for split in reference.rows}


def facts(tmp_path: Path, reference: DatasetRef) -> dict[str, object]:
    return Store(tmp_path / "store").open(reference).facts


def test_given_splits_are_written_in_order_with_their_label_map(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train, dev, test = (write(f"{name}.tsv", reviews(labels)) for name, labels in (("a", "10ba"), ("b", "01"), ("c", "b")))
    reference = load(tmp_path, train=train, dev=dev, test=test)
    assert reference.rows == {"train": 4, "dev": 2, "test": 1}
    assert reference.rows_kind == "text"
    rows = splits(tmp_path, reference)
    assert rows["train"][["row", "text", "label"]].to_numpy().tolist()[:2] == [[2, "fine 0", "1"], [3, "fine 1", "0"]]
    label_map = LabelMap.load(Store(tmp_path / "store").open(reference).folder / "label_map.json")
    assert label_map.labels == ("0", "1", "a", "b")
    assert (label_map.num_classes, label_map.sha256) == (reference.num_classes, reference.label_map_sha256)
    known = facts(tmp_path, reference)
    assert known["label_counts"] == {
        "train": {"0": 1, "1": 1, "a": 1, "b": 1},
        "dev": {"0": 1, "1": 1, "a": 0, "b": 0},
        "test": {"0": 0, "1": 0, "a": 0, "b": 1},
    }
    assert known["sources"] == {"train": train, "dev": dev, "test": test}


def test_what_is_written_keeps_the_contract_when_read_again(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    reference = load(tmp_path, TAGS, format="msra", train=write("a.tsv", "a\x02b\tO\x02B-X\n" * 9))
    for rows in splits(tmp_path, reference).values():
        validate_rows(rows, ROW_MODELS[reference.rows_kind], "store", LabelMap(labels=("O", "B-X")))


def test_dev_and_test_are_made_from_train_when_not_given(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    path = write("a.tsv", reviews("01" * 50))
    reference = load(tmp_path, train=path, dev_fraction=0.1, test_fraction=0.2)
    assert reference.rows == {"train": 70, "dev": 10, "test": 20}
    rows = splits(tmp_path, reference)
    assert sorted(pd.concat(rows.values())["row"]) == list(range(2, 102))
    assert rows["dev"]["label"].value_counts().to_dict() == {"0": 5, "1": 5}
    assert facts(tmp_path, reference)["sources"] == {"train": path, "dev": path, "test": path}
    other = load(tmp_path, train=path, dev_fraction=0.1, test_fraction=0.2, split_seed=1)
    assert not splits(tmp_path, other)["dev"].equals(rows["dev"])
    assert load(tmp_path, train=path, dev_fraction=0).rows == {"train": 100}


def test_max_rows_bounds_every_split_but_not_the_label_map(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train, dev = write("a.tsv", reviews("0" * 50 + "1" * 40 + "23456789ab")), write("b.tsv", reviews("a"))
    reference = load(tmp_path, train=train, dev=dev, max_rows=5)
    assert reference.rows == {"train": 5, "dev": 1}
    assert reference.num_classes == 12


def test_a_label_of_dev_that_train_lacks_is_named(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train, dev = write("train.tsv", reviews("0101")), write("dev.tsv", reviews("012"))
    with pytest.raises(ContractError) as caught:
        load(tmp_path, train=train, dev=dev)
    assert str(caught.value).startswith(f"{dev}: 1 row(s)")
    assert "row 4 ('2')" in str(caught.value)
    assert "'0', '1'" in str(caught.value)


def test_the_label_list_sets_order_and_may_hold_more_than_train(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train, dev, labels = write("a.tsv", reviews("0101")), write("b.tsv", reviews("2")), write("labels.txt", "2\n1\n0\n")
    reference = load(tmp_path, train=train, dev=dev, label_list=labels)
    assert reference.label_map_sha256 == LabelMap(labels=("2", "1", "0")).sha256
    write("labels.txt", "0\n1\n2\n")
    other = load(tmp_path, train=train, dev=dev, label_list=labels)
    assert other.label_map_sha256 == LabelMap(labels=("0", "1", "2")).sha256
    write("labels.txt", "0\n2\n")
    with pytest.raises(ContractError, match="'1'"):
        load(tmp_path, train=train, label_list=labels)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path, train=train, label_list=str(tmp_path / "none.txt"))


def test_labels_of_tokens_make_the_map_of_sequence_labelling(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train, dev = write("a.txt", "EU B-ORG\nof O\n\nUN B-ORG\nX I-ORG\n"), write("b.txt", "a O\n\nb O\nJo B-PER\n")
    with pytest.raises(ContractError, match=r"row 3 \('B-PER'\)"):
        load(tmp_path, TAGS, format="conll", train=train, dev=dev)
    dev = write("b.txt", "a O\n")
    reference = load(tmp_path, TAGS, format="conll", train=train, dev=dev)
    assert reference.label_map_sha256 == LabelMap(labels=("O", "B-ORG", "I-ORG")).sha256
    counts = {"train": {"O": 1, "B-ORG": 2, "I-ORG": 1}, "dev": {"O": 1, "B-ORG": 0, "I-ORG": 0}}
    assert facts(tmp_path, reference)["label_counts"] == counts


def test_one_class_only_is_refused(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    with pytest.raises(DataError, match="found only the label '1' in all 3 rows; expected at least 2"):
        load(tmp_path, train=write("a.tsv", reviews("111")))
    with pytest.raises(DataError, match="found only the label '3'"):
        load(tmp_path, IMAGES, format="digits", digits=(3,))


def test_splits_without_rows_are_refused(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train = write("a.tsv", reviews("0101"))
    with pytest.raises(DataError, match=r"b\.tsv: holds no rows"):
        load(tmp_path, train=train, dev=write("b.tsv", reviews("")))
    with pytest.raises(DataError, match=r"too few to make dev"):
        load(tmp_path, train=write("c.tsv", reviews("01")))


def test_faults_of_several_splits_come_together(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train = write("train.tsv", reviews("0101"))
    with pytest.raises(DataError) as missing:
        load(tmp_path, train=train, dev=str(tmp_path / "dav.tsv"), test=str(tmp_path / "tset.tsv"))
    assert "dav.tsv: no such file" in str(missing.value)
    assert "tset.tsv: no such file" in str(missing.value)
    dev, test = write("dev.tsv", reviews("2")), write("test.tsv", reviews("0", text=" ") + " \t1\n")
    with pytest.raises(DataError) as faulty:
        load(tmp_path, train=train, dev=dev, test=test)
    assert "row 2 ('2')" in str(faulty.value)
    assert "row 3 (' ')" in str(faulty.value)


def test_a_format_that_does_not_fit_the_task_and_an_unwritable_store_are_refused(
    tmp_path: Path, write: Callable[[str, str], str]
) -> None:
    train = write("a.tsv", reviews("0101"))
    with pytest.raises(DataError, match="format 'tsv' holds no rows for image_classification"):
        load(tmp_path, IMAGES, train=train)
    spec = DatasetSpec.model_validate({"format": "tsv", "train": train})
    with pytest.raises(StoreError, match="cannot be written"):
        load_dataset.fn(spec, TEXT, store=train)


def test_the_same_content_is_taken_from_the_store(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train = write("a.tsv", reviews("01" * 10))
    first = load(tmp_path, train=train)
    made = (tmp_path / "store" / first.path).stat().st_mtime_ns
    assert load(tmp_path, train=train) == first
    assert (tmp_path / "store" / first.path).stat().st_mtime_ns == made
    assert load(tmp_path, train=train, reuse=False) == first
    assert (tmp_path / "store" / first.path).stat().st_mtime_ns != made
    write("a.tsv", reviews("01" * 11))
    assert load(tmp_path, train=train).path != first.path


def test_a_damaged_artefact_is_made_again(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train = write("a.tsv", reviews("01" * 10))
    first = load(tmp_path, train=train)
    damaged = tmp_path / "store" / first.path / "train.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert load(tmp_path, train=train) == first
    assert splits(tmp_path, first)["train"]["label"].isin(["0", "1"]).all()


def test_nothing_is_left_in_the_store_after_a_fault(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    with pytest.raises(HubflowError):
        load(tmp_path, train=write("a.tsv", reviews("11")))
    assert list((tmp_path / "store").rglob("*.parquet")) == []


def test_an_image_that_changes_makes_another_artefact(tmp_path: Path) -> None:
    for name, shade in (("cat/a", 1), ("cat/b", 2), ("dog/c", 3), ("dog/d", 4)):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), shade).save(tmp_path / "images" / f"{name}.png")
    spec: dict[str, Any] = {"format": "image_folder", "train": str(tmp_path / "images"), "dev_fraction": 0.3}
    first = load(tmp_path, IMAGES, **spec)
    assert first.rows == {"train": 3, "dev": 1}
    assert load(tmp_path, IMAGES, **spec) == first
    Image.new("L", (2, 2), 9).save(tmp_path / "images" / "cat" / "a.png")
    assert load(tmp_path, IMAGES, **spec).path != first.path


def test_digits_carry_their_pictures(tmp_path: Path) -> None:
    reference = load(tmp_path, IMAGES, format="digits", digits=(5, 6), test_fraction=0.2, max_rows=40)
    assert reference.rows_kind == "image"
    assert reference.rows == {"train": 40, "dev": 36, "test": 40}
    assert splits(tmp_path, reference)["dev"]["image"].iloc[0].startswith(b"\x89PNG")


def test_further_columns_of_json_lines_reach_the_artefact(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    lines = '{"text": "a", "label": 0, "id": 1}\n{"text": "b", "label": 1, "id": {"x": [2]}}\n{"text": "c", "label": 1}\n'
    reference = load(tmp_path, format="jsonl", train=write("a.jsonl", lines), dev_fraction=0)
    assert splits(tmp_path, reference)["train"]["id"].tolist()[:2] == ["1", '{"x": [2]}']


def test_further_columns_of_parquet_reach_the_artefact(tmp_path: Path) -> None:
    maps = pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64()))
    columns = {"text": ["a", "b"], "label": [1, 0], "n": [1.5, None], "b": [b"x", b"y"], "s": [{"x": [1]}, None], "m": maps}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    reference = load(tmp_path, format="parquet", train=str(tmp_path / "a.parquet"), dev_fraction=0)
    kept = parquet.read_table(Store(tmp_path / "store").open(reference).folder / "train.parquet")
    for name in "nbsm":
        assert kept.column(name).to_pylist() == pa.table(columns).column(name).to_pylist()
    assert [str(kept.schema.field(name).type) for name in "nb"] == ["double", "binary"]
    assert pa.types.is_struct(kept.schema.field("s").type) and pa.types.is_map(kept.schema.field("m").type)


@pytest.mark.slow
def test_conll2003_gives_nine_tags(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("conll2003_en")
    names = (("train", "train"), ("dev", "valid"), ("test", "test"))
    paths: dict[str, Any] = {split: str(folder / f"{name}.txt") for split, name in names}
    reference = load(tmp_path, TAGS, format="conll", **paths)
    assert reference.rows == {"train": 14041, "dev": 3250, "test": 3453}
    assert reference.num_classes == 9


def conll(rows: list[list[str]]) -> str:
    """A file of sentences, each of `token/tag` items."""
    return "".join("".join(f"{one.replace('/', ' ')}\n" for one in row) + "\n" for row in rows)


def report_of(tmp_path: Path, reference: DatasetRef) -> dict[str, Any]:
    report: Any = facts(tmp_path, reference)["data_report"]
    return dict(report)


def findings_of(tmp_path: Path, reference: DatasetRef) -> set[str]:
    return {one["check"] for one in report_of(tmp_path, reference)["findings"]}


def test_skipped_lines_are_in_the_data_report(tmp_path: Path, shared_case: Callable[[str], Path]) -> None:
    train = str(shared_case("comment-lines") / "train.conll")
    reference = load(tmp_path, TAGS, format="conll", train=train)
    assert reference.num_classes == 2
    split = report_of(tmp_path, reference)["splits"]["train"]
    assert split["skipped"] == {"comment lines": split["read"]}


def test_tokens_that_are_positions_are_a_finding(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    indexed = write("a.conll", "".join(f"1 film{place} O\n2 is O\n3 Rome{place} B-LOC\n\n" for place in range(20)))
    reference = load(tmp_path, TAGS, format="conll", train=indexed)
    assert "numbered_tokens" in findings_of(tmp_path, reference)
    by_word = load(tmp_path, TAGS, format="conll", train=indexed, tokens_column=1)
    assert "numbered_tokens" not in findings_of(tmp_path, by_word)
    assert splits(tmp_path, by_word)["train"]["tokens"].iloc[0].tolist()[1] == "is"
    with pytest.raises(ContractError, match="numbered_tokens"):
        load(tmp_path, TAGS, format="conll", train=indexed, checks={"numbered_tokens": "fail"})


@pytest.mark.parametrize(
    ("tags", "remedy"),
    [
        (("O", "B-PER", "I-PER", "E-MAIL"), "tag_scheme"),
        (("0", "1", "2"), "label_list"),
        (("O", "b-per", "i-per"), "tag_scheme"),
    ],
)
def test_tags_that_can_be_read_in_two_ways_are_refused_with_the_file(
    tags: tuple[str, ...], remedy: str, tmp_path: Path, write: Callable[[str, str], str]
) -> None:
    train = write("a.conll", conll([[f"w{place}/{tag}" for tag in tags] for place in range(20)]))
    with pytest.raises(ContractError, match=remedy) as caught:
        load(tmp_path, TAGS, format="conll", train=train)
    assert str(caught.value).startswith(train)
    reference = load(tmp_path, TAGS, format="conll", train=train, tag_scheme="plain")
    label_map = LabelMap.load(Store(tmp_path / "store").open(reference).folder / "label_map.json")
    assert (label_map.tag_scheme, set(label_map.labels)) == ("plain", set(tags))


@pytest.mark.parametrize("tags", [("o", "PER"), ("0", "B-PER"), ("B-PER", "I-PER")])
def test_tags_without_an_outside_are_a_finding(tags: tuple[str, ...], tmp_path: Path, write: Callable[[str, str], str]) -> None:
    train = write("a.conll", conll([[f"w{place}/{tag}" for tag in tags] for place in range(20)]))
    assert "no_outside_tag" in findings_of(tmp_path, load(tmp_path, TAGS, format="conll", train=train))
    speech = write("b.conll", conll([[f"w{place}/{tag}" for tag in ("DET", "NOUN")] for place in range(20)]))
    assert "no_outside_tag" not in findings_of(tmp_path, load(tmp_path, TAGS, format="conll", train=speech))


def test_numbers_are_mapped_through_the_label_list(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    names = write("labels.txt", "O\nB-PER\nI-PER\n")
    train = write("a.jsonl", "".join(f'{{"tokens": ["a{n}", "b", "c"], "labels": [0, 1, "2"]}}\n' for n in range(20)))
    reference = load(tmp_path, TAGS, format="jsonl", train=train, label_list=names)
    assert splits(tmp_path, reference)["train"]["labels"].iloc[0].tolist() == ["O", "B-PER", "I-PER"]
    with pytest.raises(ContractError, match="'3'"):
        load(tmp_path, TAGS, format="jsonl", train=write("b.jsonl", '{"tokens": ["a"], "labels": [3]}\n'), label_list=names)
    kinds = write("kinds.txt", "neg\npos\n")
    text = load(tmp_path, TEXT, train=write("c.tsv", reviews("01" * 10)), label_list=kinds)
    assert set(splits(tmp_path, text)["train"]["label"]) == {"neg", "pos"}
    floats = write("e.jsonl", "".join(f'{{"text": "text {n}", "label": {n % 2}.0}}\n' for n in range(20)))
    named = load(tmp_path, TEXT, format="jsonl", text_column="text", train=floats, label_list=kinds)
    assert set(splits(tmp_path, named)["train"]["label"]) == {"neg", "pos"}
    numbers = write("numbers.txt", "1\n0\n")
    same = load(tmp_path, TEXT, train=write("d.tsv", reviews("01" * 10)), label_list=numbers)
    assert set(splits(tmp_path, same)["train"]["label"]) == {"0", "1"}


def as_datasets_writes_it(table: pa.Table, features: dict[str, Any]) -> pa.Table:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return table.replace_schema_metadata(metadata)


@pytest.mark.parametrize("kind", ["Sequence", "List", "list"])
def test_numbers_of_parquet_get_the_names_of_its_metadata(kind: str, tmp_path: Path) -> None:
    names = {"names": ["O", "B-PER", "I-PER"], "_type": "ClassLabel"}
    feature: Any = [names] if kind == "list" else {"feature": names, "_type": kind}
    tags = pa.array([[0, 1], [2]] * 10, pa.list_(pa.int32()))
    table = pa.table({"tokens": [["a", "b"], ["c"]] * 10, "ner_tags": tags})
    parquet.write_table(as_datasets_writes_it(table, {"ner_tags": feature}), tmp_path / "a.parquet", row_group_size=3)
    given = {"format": "parquet", "train": str(tmp_path / "a.parquet"), "label_column": "ner_tags"}
    reference = load(tmp_path, TAGS, **given)
    rows = splits(tmp_path, reference)["train"]
    expected = {2: ["O", "B-PER"], 1: ["I-PER"]}
    assert all(list(tags) == expected[len(tags)] for tags in rows["labels"])
    assert report_of(tmp_path, reference)["splits"]["train"]["coerced"] == {"labels": 30}


def test_class_labels_of_parquet_get_their_names_and_a_missing_one_none(tmp_path: Path) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pa.table({"text": [f"film {n}" for n in range(21)], "label": [*([0, 1] * 10), -1]})
    parquet.write_table(as_datasets_writes_it(table, features), tmp_path / "a.parquet")
    with pytest.raises(ContractError, match="row 21"):
        load(tmp_path, format="parquet", train=str(tmp_path / "a.parquet"))
    reference = load(tmp_path, format="parquet", train=str(tmp_path / "a.parquet"), max_invalid_fraction=0.1)
    assert set(splits(tmp_path, reference)["train"]["label"]) == {"neg", "pos"}
    strange = as_datasets_writes_it(pa.table({"text": ["a", "b"], "label": [0, 7]}), features)
    parquet.write_table(strange, tmp_path / "c.parquet")
    with pytest.raises(DataError, match="record 2: column 'label' holds the class 7"):
        load(tmp_path, format="parquet", train=str(tmp_path / "c.parquet"))


def test_sentences_of_one_word_do_not_hide_tokens_that_are_positions(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    short = "".join(f"1 Yes{place} O\n\n" for place in range(30))
    indexed = write("a.conll", short + "".join(f"1 film{place} O\n2 Rome{place} B-LOC\n\n" for place in range(20)))
    assert "numbered_tokens" in findings_of(tmp_path, load(tmp_path, TAGS, format="conll", train=indexed))


def test_a_file_of_comments_alone_is_an_empty_file_of_a_glob(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    write("part-1.conll", "# id = 1\nEU B-ORG\nsays O\n\n")
    write("part-2.conll", "# nothing\n# here\n\n")
    reference = load(tmp_path, TAGS, dev_fraction=0, format="conll", train=str(tmp_path / "part-*.conll"))
    split = report_of(tmp_path, reference)["splits"]["train"]
    assert split["skipped"] == {"comment lines": 1, "empty files": 1}


def test_a_parquet_file_without_records_is_empty_whatever_its_columns(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    rows.to_parquet(tmp_path / "part-1.parquet")
    pd.DataFrame().to_parquet(tmp_path / "part-0.parquet")
    reference = load(tmp_path, dev_fraction=0, format="parquet", train=str(tmp_path / "part-*.parquet"))
    assert reference.rows["train"] == 3
    assert report_of(tmp_path, reference)["splits"]["train"]["skipped"] == {"empty files": 1}


@pytest.mark.parametrize("labels", [("1.0", "0.0"), (" 1", "0 ")])
def test_numbers_are_named_by_the_label_list_however_they_are_written(
    labels: tuple[str, str], tmp_path: Path, write: Callable[[str, str], str]
) -> None:
    rows = write("a.csv", "text,label\n" + "".join(f"text {place},{labels[place % 2]}\n" for place in range(6)))
    reference = load(tmp_path, dev_fraction=0, format="csv", train=rows, label_list=write("labels.txt", "neg\npos\n"))
    assert splits(tmp_path, reference)["train"]["label"].tolist() == ["pos", "neg"] * 3


def test_findings_of_a_glob_name_rows_with_their_files(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    for name in ("a", "b"):
        write(f"part-{name}.csv", f"text,label,user\nthe same,x,u\nno. {name},y,u\n")
    test = write("test.csv", "text,label,user\nnew,x,v\nno. b,y,u\n")
    data = {"format": "csv", "train": str(tmp_path / "part-*.csv"), "test": test, "group_column": "user"}
    reference = load(tmp_path, dev_fraction=0, checks={"same_group_across_splits": "warn"}, **data)
    found = {one["check"]: one["examples"] for one in report_of(tmp_path, reference)["findings"]}
    assert found["duplicates_within_split"] == ["train row 2 of part-a.csv ('x') = train row 2 of part-b.csv ('x')"]
    assert found["same_text_across_splits"] == ["train row 3 of part-b.csv ('y') = test row 3 ('y')"]
    assert found["same_group_across_splits"] == ["train row 2 of part-a.csv = test row 3"]


def test_a_carriage_return_outside_quotes_is_named(tmp_path: Path, write: Callable[[str, str], str]) -> None:
    Path(write("a.csv", "")).write_bytes(b"text,label\na,x\nb\rc,y\n")
    with pytest.raises(ContractError, match="line 3: a carriage return within the line, outside quotes"):
        load(tmp_path, dev_fraction=0, format="csv", train=str(tmp_path / "a.csv"))
