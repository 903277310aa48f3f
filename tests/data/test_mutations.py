"""What is valid passes unchanged; what one mutation breaks is refused by its row, or quarantined alone."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hubflow.errors import ContractError, HubflowError
from hubflow.schemas.frames import PROBABILITY, require_predictions
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.rows import ImageRows, RowModel, TextPairRows, TextRows, TokenRows
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store
from hubflow.testing.strategies import TEXT, Mutated, mutated, predictions, rows_of

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("HUBFLOW_EXAMPLES", "6"))
seeded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="HUBFLOW_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TASKS: dict[RowModel, TaskName] = {
    TextRows: "text_classification",
    TextPairRows: "text_classification",
    TokenRows: "sequence_labelling",
    ImageRows: "image_classification",
}
MODELS = pytest.mark.parametrize("model", TASKS)
Kept = tuple[pd.DataFrame, dict[str, Any]]


class Kitchen:
    """A store for one example, and what the stage made of the rows: those kept, and those quarantined."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def keep(self, rows: pd.DataFrame, model: RowModel, share: float) -> pd.DataFrame:
        options: dict[str, Any] = {"dev_fraction": 0, "max_invalid_fraction": share}
        return self._read(dataset_from_frames.fn({"train": rows}, TASKS[model], str(self.folder / "store"), **options))

    def load(self, content: bytes, model: RowModel, share: float, **spec: Any) -> pd.DataFrame:
        path = self.folder / "train"
        path.write_bytes(content)
        pair = {"text_pair_column": "text_pair"} if model is TextPairRows else {}
        known = DatasetSpec.model_validate(
            {"train": str(path), "dev_fraction": 0, "max_invalid_fraction": share, **pair, **spec}
        )
        return self._read(load_dataset.fn(known, TASKS[model], str(self.folder / "store")))

    def quarantine_rows(self) -> list[int]:
        (report,) = (self.folder / "store" / "data-reports").glob("*/report.json")
        path = json.loads(report.read_text())["splits"]["train"]["quarantine"]
        return [] if path is None else list(pd.read_parquet(self.folder / "store" / path)["row"])

    def _read(self, reference: Any) -> pd.DataFrame:
        return pd.read_parquet(Store(self.folder / "store").open(reference).folder / "train.parquet")


@pytest.fixture(scope="module")
def kitchen() -> Callable[[], Any]:
    """Makes a folder for each example, in memory where the system has such a place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108

    def folder() -> Any:
        return tempfile.TemporaryDirectory(dir=place)

    return folder


def content(rows: pd.DataFrame, columns: list[str] | None = None) -> dict[str, list[Any]]:
    """Columns as plain lists, in order."""
    names = columns or list(rows)
    return {name: [list(v) if isinstance(v, list | tuple | np.ndarray) else v for v in rows[name]] for name in names}


# Rows at hand


@MODELS
@seeded
@given(data=st.data())
def test_rows_that_keep_their_contract_pass_the_stage_unchanged(model: RowModel, kitchen: Any, data: st.DataObject) -> None:
    rows = data.draw(rows_of(model))
    with kitchen() as folder:
        assert content(Kitchen(folder).keep(rows, model, 0.0), list(rows)) == content(rows)


@MODELS
@seeded
@given(data=st.data(), share=st.sampled_from([0.0, 0.9]))
def test_one_mutation_is_taken_as_it_is_or_refused_by_its_row(
    model: RowModel, kitchen: Any, data: st.DataObject, share: float
) -> None:
    with kitchen() as folder:
        require_told(Kitchen(folder), data.draw(mutated(model)), model, share)


def require_told(kitchen: Kitchen, case: Mutated, model: RowModel, share: float) -> None:
    if case.message:
        with pytest.raises(HubflowError) as whole:
            kitchen.keep(case.rows, model, share)
        assert case.message in str(whole.value)
    elif case.at_fault is None:
        assert content(kitchen.keep(case.rows, model, share), list(case.rows)) == content(case.rows)
        assert kitchen.quarantine_rows() == []
    else:
        number = case.rows["row"].iloc[case.at_fault]
        if share:
            others = case.rows.drop(index=case.rows.index[case.at_fault])
            assert content(kitchen.keep(case.rows, model, share), list(others)) == content(others)
        else:
            with pytest.raises(ContractError) as refused:
                kitchen.keep(case.rows, model, share)
            assert f": row {number} (" in str(refused.value)
            str(refused.value).encode()
        assert kitchen.quarantine_rows() == [number]


# Files


def plain(without: str) -> st.SearchStrategy[str]:
    """Texts that a format without quotes can hold."""
    return TEXT.map(lambda text: "".join(char for char in text if char not in without)).filter(bool)


def fields_of(rows: pd.DataFrame) -> list[str]:
    return [name for name in rows if name != "row"]


def as_csv(rows: pd.DataFrame, end: str, is_minimal: bool = False) -> tuple[str, list[int]]:
    stream, numbers = io.StringIO(newline=""), []
    writer = csv.writer(stream, lineterminator=end, quoting=csv.QUOTE_MINIMAL if is_minimal else csv.QUOTE_ALL)
    writer.writerow(fields_of(rows))
    for record in rows[fields_of(rows)].itertuples(index=False):
        numbers.append(stream.getvalue().count("\n") + 1)
        writer.writerow(record)
    return stream.getvalue(), numbers


def as_tsv(rows: pd.DataFrame, end: str) -> tuple[str, list[int]]:
    lines = ["\t".join(record) for record in rows[fields_of(rows)].itertuples(index=False)]
    return end.join(["\t".join(fields_of(rows)), *lines]), list(range(2, len(rows) + 2))


def as_jsonl(rows: pd.DataFrame, end: str, is_ascii: bool = False) -> tuple[str, list[int]]:
    records = content(rows[fields_of(rows)])
    lines = [json.dumps({name: records[name][place] for name in records}, ensure_ascii=is_ascii) for place in range(len(rows))]
    return end.join(lines) + end, list(range(1, len(rows) + 1))


def as_conll(rows: pd.DataFrame, end: str) -> tuple[str, list[int]]:
    lines: list[str] = []
    numbers = []
    for words, labels in zip(rows["tokens"], rows["labels"], strict=True):
        numbers.append(len(lines) + 1)
        lines += [f"{word} {label}" for word, label in zip(words, labels, strict=True)] + [""]
    return end.join(lines), numbers


def as_msra(rows: pd.DataFrame, end: str) -> tuple[str, list[int]]:
    lines = [
        "\x02".join(words) + "\t" + "\x02".join(labels) for words, labels in zip(rows["tokens"], rows["labels"], strict=True)
    ]
    return end.join(["text_a\tlabel", *lines]) + end, list(range(2, len(rows) + 2))


TEXT_FORMATS: dict[str, Any] = {"csv": as_csv, "tsv": as_tsv, "jsonl": as_jsonl}
TOKEN_FORMATS: dict[str, Any] = {"jsonl": as_jsonl, "conll": as_conll, "msra": as_msra}
WITHOUT = {"csv": "", "jsonl": "", "parquet": "", "tsv": "\t\n\r", "conll": " \t\n\r", "msra": "\t\n\r\x02"}
CASES = [(model, name) for model in (TextRows, TextPairRows) for name in (*TEXT_FORMATS, "parquet")]
CASES += [(TokenRows, name) for name in (*TOKEN_FORMATS, "parquet")]
FILES = pytest.mark.parametrize(("model", "name"), CASES)


@FILES
@seeded
@given(data=st.data())
def test_a_file_of_valid_rows_is_loaded_as_it_was_written(model: Any, name: str, kitchen: Any, data: st.DataObject) -> None:
    rows = data.draw(rows_of(model, plain(WITHOUT[name])))
    with kitchen() as folder:
        if name == "parquet":
            stream = io.BytesIO()
            rows.drop(columns="row").to_parquet(stream)
            numbers = list(range(1, len(rows) + 1))
            found = Kitchen(folder).load(stream.getvalue(), model, 0.0, format=name)
        else:
            end, encoding = data.draw(st.sampled_from(["\n", "\r\n"])), data.draw(st.sampled_from(ENCODINGS))
            extra = {"csv": "is_minimal", "jsonl": "is_ascii"}.get(name)
            if extra == "is_minimal":  # what is not quoted must not look like the end of a line or a mark to leave out
                assume(not any("\r" in text for column in fields_of(rows) for text in rows[column]))
            write = (TOKEN_FORMATS if model is TokenRows else TEXT_FORMATS)[name]
            text, numbers = write(rows, end, **({extra: data.draw(st.booleans())} if extra else {}))
            mark = b"\xef\xbb\xbf" if encoding == "utf-8" and data.draw(st.booleans()) else b""
            found = Kitchen(folder).load(mark + text.encode(encoding), model, 0.0, format=name, encoding=encoding)
        assert content(found, list(rows)) == content(rows.assign(row=numbers))


ENCODINGS = ["utf-8", "gb18030", "utf-16", "utf-16-le"]
MARKER = "@@@"
LINES = pytest.mark.parametrize(("model", "name"), [case for case in CASES if case[1] != "parquet"])
BROKEN = {"byte": b"\xff", "gb18030": "房间".encode("gb18030"), "half": b"\xed\xa0\x80", "cut": b"\xe5\xa5"}


@LINES
@seeded
@given(data=st.data(), share=st.sampled_from([0.0, 0.9]), how=st.sampled_from([*BROKEN, "ragged"]))
def test_a_line_of_bytes_of_another_encoding_or_of_more_fields_is_refused_by_its_number(
    model: Any, name: str, kitchen: Any, data: st.DataObject, share: float, how: str
) -> None:
    rows = data.draw(rows_of(model, plain(WITHOUT[name] + "\ufeff")))
    place = data.draw(st.integers(0, len(rows) - 1))
    column = "tokens" if model is TokenRows else "text"
    value = list(rows[column])
    value[place] = [MARKER, *value[place][1:]] if model is TokenRows else MARKER
    rows = rows.assign(**{column: pd.Series(value, dtype=rows[column].dtype)})
    text, numbers = (TOKEN_FORMATS if model is TokenRows else TEXT_FORMATS)[name](rows, "\n")
    more = {"csv": b'a","b', "tsv": b"a\tb", "jsonl": b'a"b', "conll": b"a b", "msra": b"a\tb"}[name]
    written = text.encode().replace(MARKER.encode(), more if how == "ragged" else b"a" + BROKEN[how] + b"b", 1)
    with kitchen() as folder:
        place_of = Kitchen(folder)
        if share:
            found = place_of.load(written, model, share, format=name)
            others = rows.assign(row=numbers).drop(index=place)
            assert content(found, list(others)) == content(others)
        else:
            with pytest.raises(HubflowError) as refused:
                place_of.load(written, model, share, format=name)
            lines = range(numbers[place], numbers[place] + text.count("\n") + 1)
            assert f"line {numbers[place]}" in str(refused.value) or (
                name in ("csv", "conll") and any(f"line {line}" in str(refused.value) for line in lines)
            )
        assert place_of.quarantine_rows() == [numbers[place]]


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl", "parquet", "conll", "msra"])
def test_a_cell_of_ten_megabytes_is_kept_whole(name: str, tmp_path: Path) -> None:
    long = "é" * 5_000_000
    model: RowModel = TokenRows if name in ("conll", "msra") else TextRows
    texts: list[Any] = ["a", long, "b", "c"]
    rows = pd.DataFrame({"text": texts, "label": ["0", "1", "0", "1"]})
    if model is TokenRows:
        rows = pd.DataFrame({"tokens": [[text] for text in texts], "labels": [["O"], ["X"], ["O"], ["X"]]})
    stream = io.BytesIO()
    if name == "parquet":
        rows.to_parquet(stream)
    written = stream.getvalue() or ({**TEXT_FORMATS, **TOKEN_FORMATS}[name](rows, "\n")[0]).encode()
    assert content(Kitchen(str(tmp_path)).load(written, model, 0.0, format=name), list(rows)) == content(rows)


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl", "parquet", "conll", "msra"])
@pytest.mark.parametrize("header", [False, True])
def test_a_file_without_rows_is_refused_by_its_name(name: str, header: bool, tmp_path: Path) -> None:
    written = (
        b"text\tlabel\n".replace(b"\t", b"," if name == "csv" else b"\t") if header and name in ("csv", "tsv", "msra") else b""
    )
    with pytest.raises(HubflowError, match="train: "):
        Kitchen(str(tmp_path)).load(written, TokenRows if name in ("conll", "msra") else TextRows, 0.9, format=name)


# Predictions

LABELS = LabelMap(labels=("no", "yes", "maybe"))


@seeded
@given(frame=predictions(LABELS.labels))
def test_sound_predictions_pass_unchanged(frame: pd.DataFrame) -> None:
    before = frame.copy()
    assert require_predictions(frame, LABELS, list(frame["row"]), "predictions").equals(before)


FAULTS: dict[str, tuple[str, list[Any]]] = {
    "null label": ("predicted", [None]),
    "unknown label": ("predicted", ["other", "", "YES"]),
    "type of a label": ("predicted", [3, b"yes", ["yes"]]),
    "probability": ("probability", [-0.1, 1.1, float("nan"), float("inf")]),
    "share": (f"{PROBABILITY}yes", [-0.1, 1.1, float("nan"), float("inf")]),
    "row": ("row", [0, -1, 2**60]),
}


@seeded
@given(frame=predictions(LABELS.labels), data=st.data())
def test_one_mutation_of_predictions_is_refused_by_its_row(frame: pd.DataFrame, data: st.DataObject) -> None:
    rows = list(frame["row"])
    column, values = FAULTS[data.draw(st.sampled_from(list(FAULTS)))]
    place = data.draw(st.integers(0, len(frame) - 1))
    changed = list(frame[column])
    changed[place] = data.draw(st.sampled_from(values))
    frame = frame.assign(**{column: changed})
    with pytest.raises(ContractError, match=rf"row {frame['row'].iloc[place]}\b"):
        require_predictions(frame, LABELS, rows, "predictions")


@seeded
@given(frame=predictions(LABELS.labels), how=st.sampled_from(["one less", "twice", "reordered", "no rows"]))
def test_predictions_that_are_not_one_for_each_row_in_order_are_refused(frame: pd.DataFrame, how: str) -> None:
    assume(len(frame) > 1)
    changed = {"one less": frame.iloc[1:], "twice": pd.concat([frame, frame.iloc[:1]]), "no rows": frame.iloc[:0]}
    with pytest.raises(ContractError, match="one line for each row, in order"):
        require_predictions(changed.get(how, frame.iloc[::-1]), LABELS, list(frame["row"]), "predictions")
