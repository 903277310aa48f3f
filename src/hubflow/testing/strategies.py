"""Hypothesis strategies of every contract: frames that keep it, and frames that break it. `hubflow[testing]` has hypothesis.

`valid(contract)` and `broken(contract)` are for the contracts of `hubflow.schemas`, and for subclasses of those of rows.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from hypothesis import assume
from hypothesis import strategies as st

from hubflow.errors import TagError
from hubflow.schemas.frames import (
    BLANK,
    PROBABILITY,
    EvaluatedRows,
    EvaluatedTokens,
    Evaluations,
    Metrics,
    Predictions,
    SplitSummary,
    TokenPredictions,
    TrainingSteps,
)
from hubflow.schemas.labels import clean_label, require_names, tagging_of
from hubflow.schemas.rows import ImageRows, RowModel, TextPairRows, TextRows, TokenRows, label_column, row_schema

CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]), st.sampled_from(list("ab \t\r\n\",'\\\0\x02\x1c\x85\u2028\u3000\ufeff\u200b好é𝄞"))
)
TEXT = st.text(CHARACTERS, min_size=1, max_size=12)
VISIBLE = TEXT.filter(lambda text: text.strip(BLANK) != "")
ROW_NUMBER = "greater_than_or_equal_to"
_BY_CHECK: dict[str, st.SearchStrategy[Any]] = {
    ROW_NUMBER: st.integers(1, 2**53),  # which a float, the type of a column with one of them, holds exactly
    "has_text": VISIBLE,
    "has_label": VISIBLE,
    "sha256": st.text("0123456789abcdef", min_size=64, max_size=64),
    "string_list": st.lists(TEXT, min_size=1, max_size=4),
    "": st.text(CHARACTERS, max_size=12),
}
"""Values that keep each check of a column; those of any other check come from pandera's own strategy of the column."""
MIN_ROWS = 4  # with any one of them away, two labels are left


def _check_of(model: RowModel, column: str) -> str:
    """The name of the check of a column; empty when it has only its type, and the names of several in one text."""
    return " ".join(str(check.name) for check in row_schema(model).columns[column].checks)


def _is_one_scheme(names: list[str]) -> bool:
    """Whether labels are tags of one scheme without doubt."""
    try:
        require_names(names)
        tagging_of(names)
    except TagError:
        return False
    return True


@st.composite
def rows_of(draw: st.DrawFn, model: RowModel, text: st.SearchStrategy[str] | None = None) -> pd.DataFrame:
    """Rows that keep `model`, with row numbers that are distinct, and at least two labels in any all but one of them.

    Args:
        draw: hypothesis's own.
        model: the contract.
        text: what texts, words and labels are drawn from, for file formats that cannot hold them all.
    """
    size = draw(st.integers(MIN_ROWS, 6))
    schema, label = row_schema(model), label_column(model)
    frame: dict[str, pd.Series[Any]] = {}
    for name, column in schema.columns.items():
        check = _check_of(model, name)
        values = _BY_CHECK.get(check)
        if values is None:  # a check of one's own
            frame[name] = draw(column.strategy(size=size))[name].reset_index(drop=True)
            continue
        if text is not None and check in ("has_text", "has_label"):
            values = text.filter(lambda value: value.strip(BLANK) != "")
        elif text is not None and check == "string_list":
            values = st.lists(text, min_size=1, max_size=4)
        drawn = draw(st.lists(values, min_size=size, max_size=size, unique=check == ROW_NUMBER))
        frame[name] = pd.Series(drawn, dtype=column.dtype.type)
    words = VISIBLE if text is None else text.filter(lambda value: value.strip(BLANK) != "")
    names = draw(st.lists(words.map(clean_label), min_size=2, max_size=2, unique=True))  # as they come back
    labels = [names[position % 2] for position in range(size)]
    if issubclass(model, TokenRows):
        assume(_is_one_scheme(names))
        frame[label] = pd.Series(
            [[name] * len(words) for name, words in zip(labels, frame["tokens"], strict=True)], dtype=object
        )
    elif _check_of(model, label) == "has_label":
        frame[label] = pd.Series(labels, dtype="str")
    rows = pd.DataFrame(frame)
    schema.validate(rows)
    return rows


@st.composite
def broken_rows_of(draw: st.DrawFn, model: RowModel) -> pd.DataFrame:
    """Rows of which one at least breaks `model`; the contract names it, or refuses them all."""
    return draw(mutated(model, REFUSED)).rows


@dataclass(frozen=True)
class Mutated:
    """Rows after one mutation: which position is at fault, if any, and what names it in the error of a whole column."""

    name: str
    rows: pd.DataFrame
    at_fault: int | None = None
    message: str = ""


def _replaced(rows: pd.DataFrame, column: str, position: int, value: Any) -> pd.DataFrame:
    """Rows with one value of another content or type."""
    values = list(rows[column])
    values[position] = value
    series = pd.Series(values, index=rows.index, dtype=object)
    return rows.assign(**{column: series.infer_objects() if column == "row" else series})


WRONG = [3, 2.5, True, b"x", ["x"], {"a": 1}, float("inf")]
WRONG_LISTS = [3, 2.5, "bc", b"x", {"a": 1}, [], [3], [b"x"], [["a"]], [None], [""], ["a", b"x"], np.array([1])]
AS_LABELS = [*WRONG[:3], *[value for value in WRONG_LISTS if str(value) == "[3]"], WRONG_LISTS[-1]]
"""Those of them that are labels, or lists of labels."""
BLANKS = ["", " ", "\u3000\t", "\x1c", "\u200b \ufeff"]
NO_NUMBERS = [2.5, None, pd.NA, "b", 2**63, float("nan"), "1"]


@st.composite
def mutated(draw: st.DrawFn, model: RowModel, among: Collection[str] | None = None) -> Mutated:
    """Rows of `model` after one of the mutations below, or of those `among` which it shall be."""
    rows = draw(rows_of(model))
    chosen = {name: allowed for name, allowed in MUTATIONS.items() if among is None or name in among}
    names = [name for name, allowed in chosen.items() if allowed is None or issubclass(model, allowed)]
    name = draw(st.sampled_from(names))
    position = draw(st.integers(0, len(rows) - 1))
    column = draw(st.sampled_from([column for column in row_schema(model).columns if column != "row"]))
    return _BY_NAME[name](draw, model, rows, position, column)


def _null(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("null", _replaced(rows, column, position, draw(st.sampled_from([None, float("nan"), pd.NA]))), position)


def _type(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    wrong = WRONG_LISTS if issubclass(model, TokenRows) else WRONG
    if column in ("label", "labels"):  # a number or Boolean is a label
        wrong = [value for value in wrong if not any(value is one for one in AS_LABELS)]
    value = draw(st.sampled_from(wrong))
    return Mutated("type", _replaced(rows, column, position, value), position)


def _range(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("range", _replaced(rows, "row", position, draw(st.sampled_from([0, -1, -(2**63)]))), position)


def _number(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    value = draw(st.sampled_from(NO_NUMBERS))
    return Mutated("number", _replaced(rows, "row", position, value), position, message=f"position {position + 1} ")


def _duplicated(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("duplicated", pd.concat([rows, rows.iloc[[position]]], ignore_index=draw(st.booleans())))


def _reordered(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("reordered", rows.iloc[draw(st.permutations(range(len(rows))))])


def _surrogate(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    value, half = rows[column].iloc[position], draw(st.sampled_from(["\ud800", "\udfff", "\udc80"]))
    value = [*value[:-1], value[-1] + half] if issubclass(model, TokenRows) else value + half
    return Mutated("surrogate", _replaced(rows, column, position, value), position)


def _nul(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    value = rows[column].iloc[position]
    is_hash = _check_of(model, column) == "sha256"
    value = [*value[:-1], value[-1] + "\0"] if issubclass(model, TokenRows) else value + "\0"
    return Mutated("nul", _replaced(rows, column, position, value), position if is_hash else None)


def _blank(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("blank", _replaced(rows, "label", position, draw(st.sampled_from(BLANKS))), position)


def _ragged(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("ragged", _replaced(rows, column, position, [*rows[column].iloc[position], "more"]), position)


def _array(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    kind = draw(st.sampled_from(["tuple", "array"]))
    return Mutated(
        "array",
        rows.assign(
            **{
                column: pd.Series(
                    [tuple(items) if kind == "tuple" else np.array(items, dtype=object) for items in rows[column]], dtype=object
                )
            }
        ),
    )


def _hash(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated(
        "hash", _replaced(rows, "sha256", position, draw(st.sampled_from(["A" * 64, "a" * 63, "a" * 65, "g" * 64]))), position
    )


def _empty(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, position: int, column: str) -> Mutated:
    return Mutated("empty", rows.iloc[:0], 0, message="holds no rows")


MUTATIONS: dict[str, tuple[RowModel, ...] | None] = {
    "null": None,
    "type": None,
    "range": None,
    "number": None,
    "duplicated": None,
    "reordered": None,
    "surrogate": None,
    "nul": None,
    "blank": (TextRows, TextPairRows, ImageRows),
    "ragged": (TokenRows,),
    "array": (TokenRows,),
    "hash": (ImageRows,),
    "empty": None,
}
"""By name, the contracts whose rows it is for; None is all of them."""
REFUSED = ("null", "type", "range", "number", "blank", "ragged", "hash")
"""Mutations that the contract itself refuses; ingestion refuses others, and some are valid rows again."""
_BY_NAME: dict[str, Callable[..., Mutated]] = {name: globals()[f"_{name}"] for name in MUTATIONS}


@st.composite
def predictions(draw: st.DrawFn, labels: tuple[str, ...]) -> pd.DataFrame:
    """Predictions of these labels, as `hubflow.schemas.frames.Predictions` has them."""
    size = draw(st.integers(1, 6))
    weights = draw(
        st.lists(st.lists(st.integers(1, 1000), min_size=len(labels), max_size=len(labels)), min_size=size, max_size=size)
    )
    table = np.array(weights, float)
    table /= table.sum(axis=1, keepdims=True)
    numbers = draw(st.lists(st.integers(1, 2**53), min_size=size, max_size=size, unique=True))
    best = table.argmax(axis=1)
    columns = {f"{PROBABILITY}{label}": table[:, position] for position, label in enumerate(labels)}
    predicted = pd.Series([labels[position] for position in best], dtype="str")
    return pd.DataFrame(
        {"row": np.array(numbers, np.int64), "predicted": predicted, "probability": table.max(axis=1), **columns}
    )


def valid(contract: type[pa.DataFrameModel]) -> st.SearchStrategy[pd.DataFrame]:
    """Frames that keep a contract.

    Args:
        contract: of `hubflow.schemas`, or a subclass of `TextRows`, `TextPairRows`, `TokenRows` or `ImageRows`.

    Raises:
        TypeError: for another contract.
    """
    if issubclass(contract, (TextRows, TokenRows, ImageRows)):
        return rows_of(contract)
    if contract not in _FRAMES:
        names: list[type] = [TextRows, TextPairRows, TokenRows, ImageRows, *_FRAMES]
        known = ", ".join(one.__name__ for one in names)
        raise TypeError(
            f"there is no strategy of {contract.__name__}; expected one of {known}, or a contract of rows of your own"
        )
    return _FRAMES[contract]()


def broken(contract: type[pa.DataFrameModel]) -> st.SearchStrategy[pd.DataFrame]:
    """Frames that break a contract: in one row, of the contracts of rows, and in a column or a row of the others.

    Args:
        contract: as `valid` takes.

    Raises:
        TypeError: as `valid` does.
    """
    if issubclass(contract, (TextRows, TokenRows, ImageRows)):
        return broken_rows_of(contract)
    return _broken_frame(contract)


LABELS = ("negative", "positive")
_WHOLE = st.integers(1, 2**31)
_RATIO = st.floats(0, 1)
_LOSS = st.floats(0, 100)


@st.composite
def _broken_frame(draw: st.DrawFn, contract: type[pa.DataFrameModel]) -> pd.DataFrame:
    frame: pd.DataFrame = draw(valid(contract))
    column = draw(st.sampled_from([name for name, one in contract.to_schema().columns.items() if one.required]))
    if draw(st.booleans()):
        del frame[column]
        return frame
    values: list[Any] = list(frame[column])
    values[draw(st.integers(0, len(values) - 1))] = None
    frame[column] = pd.Series(values, index=frame.index, dtype=object)
    return frame


@st.composite
def _steps(draw: st.DrawFn) -> pd.DataFrame:
    size = draw(st.integers(1, 6))
    values = {name: draw(st.lists(_LOSS, min_size=size, max_size=size)) for name in ("loss", "learning_rate", "grad_norm")}
    return pd.DataFrame({**_rising(draw, size), **values})


@st.composite
def _evaluations(draw: st.DrawFn) -> pd.DataFrame:
    size = draw(st.integers(1, 6))
    values = {name: draw(st.lists(_RATIO, min_size=size, max_size=size)) for name in ("loss", "accuracy")}
    return pd.DataFrame({**_rising(draw, size), **values})


def _rising(draw: st.DrawFn, size: int) -> dict[str, Any]:
    steps = sorted(draw(st.lists(_WHOLE, min_size=size, max_size=size, unique=True)))
    epochs = sorted(draw(st.lists(st.integers(1, 50), min_size=size, max_size=size)))
    return {"step": np.array(steps, np.int64), "epoch": np.array(epochs, np.int64)}


@st.composite
def _metrics(draw: st.DrawFn) -> pd.DataFrame:
    chosen = draw(st.lists(st.sampled_from(["train", "dev", "test"]), min_size=1, max_size=3, unique=True))
    lines = [(split, metric, draw(_RATIO)) for split in chosen for metric in ("loss", "accuracy", "f1_macro")]
    return pd.DataFrame(lines, columns=["split", "metric", "value"]).astype({"split": "str", "metric": "str"})


@st.composite
def _summary(draw: st.DrawFn) -> pd.DataFrame:
    lines = []
    for split in ("train", "dev", "test")[: draw(st.integers(1, 3))]:
        counts = draw(st.lists(st.integers(1, 1000), min_size=2, max_size=4))
        lines += [(split, sum(counts), f"label{number}", count, count / sum(counts)) for number, count in enumerate(counts)]
    frame = pd.DataFrame(lines, columns=["split", "rows", "label", "count", "share"])
    return frame.astype({"split": "str", "label": "str", "rows": np.int64, "count": np.int64})


@st.composite
def _evaluated(draw: st.DrawFn, is_sequence: bool) -> pd.DataFrame:
    size = draw(st.integers(1, 6))
    label = st.sampled_from(LABELS)
    frame: dict[str, Any] = {
        "row": np.arange(1, size + 1, dtype=np.int64),
        "position": np.arange(size, dtype=np.int64),
        "loss": np.array(draw(st.lists(_LOSS, min_size=size, max_size=size))),
    }
    lengths = draw(st.lists(st.integers(1, 4), min_size=size, max_size=size))
    for name in ("label", "predicted"):
        if is_sequence:
            values = [draw(st.lists(label, min_size=length, max_size=length)) for length in lengths]
            frame[name] = pd.Series(values, dtype=object)
        else:
            frame[name] = pd.Series(draw(st.lists(label, min_size=size, max_size=size)), dtype="str")
    if not is_sequence:
        frame["probability"] = np.array(draw(st.lists(_RATIO, min_size=size, max_size=size)))
    return pd.DataFrame(frame)


@st.composite
def _token_predictions(draw: st.DrawFn) -> pd.DataFrame:
    sentences = draw(st.lists(st.lists(VISIBLE, min_size=1, max_size=4), min_size=1, max_size=6))
    predicted = [draw(st.lists(st.sampled_from(LABELS), min_size=len(words), max_size=len(words))) for words in sentences]
    probability = [draw(st.lists(_RATIO, min_size=len(words), max_size=len(words))) for words in sentences]
    lists = {"tokens": sentences, "predicted": predicted, "probability": probability}
    rows = {"row": np.arange(1, len(sentences) + 1, dtype=np.int64)}
    return pd.DataFrame({**rows, **{name: pd.Series(values, dtype=object) for name, values in lists.items()}})


_FRAMES: dict[type[pa.DataFrameModel], Callable[[], st.SearchStrategy[pd.DataFrame]]] = {
    SplitSummary: _summary,
    TrainingSteps: _steps,
    Evaluations: _evaluations,
    Metrics: _metrics,
    EvaluatedRows: lambda: _evaluated(False),
    EvaluatedTokens: lambda: _evaluated(True),
    Predictions: lambda: predictions(LABELS),
    TokenPredictions: _token_predictions,
}
