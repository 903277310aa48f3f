"""Hypothesis strategies that are derived from the contracts' own columns and checks, and mutations of what they give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import assume
from hypothesis import strategies as st

from hubflow.errors import TagError
from hubflow.schemas.frames import BLANK, PROBABILITY
from hubflow.schemas.labels import clean_label, require_names, tagging_of
from hubflow.schemas.rows import ImageRows, RowModel, TextPairRows, TextRows, TokenRows, label_column, row_schema

CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]), st.sampled_from(list("ab \t\r\n\",'\\\0\x02\x1c\x85\u2028\u3000\ufeff\u200b好é𝄞"))
)
TEXT = st.text(CHARACTERS, min_size=1, max_size=12)
VISIBLE = TEXT.filter(lambda text: text.strip(BLANK) != "")
ROW_NUMBER = "greater_than_or_equal_to"
BY_CHECK: dict[str, st.SearchStrategy[Any]] = {
    ROW_NUMBER: st.integers(1, 2**53),  # which a float, the type of a column with one of them, holds exactly
    "has_text": VISIBLE,
    "has_label": VISIBLE,
    "sha256": st.text("0123456789abcdef", min_size=64, max_size=64),
    "string_list": st.lists(TEXT, min_size=1, max_size=4),
    "": st.text(CHARACTERS, max_size=12),
}
"""What keeps each check of a column; a contract with a check that is not here has no strategy, and its test fails."""
MIN_ROWS = 4  # with any one of them away, two labels are left


def check_of(model: RowModel, column: str) -> str:
    """The name of the check of a column; empty when it has only its type."""
    (name,) = [str(check.name) for check in row_schema(model).columns[column].checks] or [""]
    return name


def are_told(names: list[str]) -> bool:
    """Whether labels are tags that can be read in one way."""
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
        check = check_of(model, name)
        values = BY_CHECK[check]
        if text is not None and check in ("has_text", "has_label"):
            values = text.filter(lambda value: value.strip(BLANK) != "")
        elif text is not None and check == "string_list":
            values = st.lists(text, min_size=1, max_size=4)
        drawn = draw(st.lists(values, min_size=size, max_size=size, unique=check == ROW_NUMBER))
        frame[name] = pd.Series(drawn, dtype=column.dtype.type)
    words = VISIBLE if text is None else text.filter(lambda value: value.strip(BLANK) != "")
    names = draw(st.lists(words.map(clean_label), min_size=2, max_size=2, unique=True))  # as they come back
    labels = [names[place % 2] for place in range(size)]
    if model is TokenRows:
        assume(are_told(names))
        frame[label] = pd.Series(
            [[name] * len(words) for name, words in zip(labels, frame["tokens"], strict=True)], dtype=object
        )
    else:
        frame[label] = pd.Series(labels, dtype="str")
    rows = pd.DataFrame(frame)
    schema.validate(rows)
    return rows


@dataclass(frozen=True)
class Mutated:
    """Rows after one mutation: which place is at fault, if any, and what names it in the error of a whole column."""

    name: str
    rows: pd.DataFrame
    at_fault: int | None = None
    said: str = ""


def replaced(rows: pd.DataFrame, column: str, place: int, value: Any) -> pd.DataFrame:
    """Rows with one value of another content or type."""
    values = list(rows[column])
    values[place] = value
    series = pd.Series(values, index=rows.index, dtype=object)
    return rows.assign(**{column: series.infer_objects() if column == "row" else series})


WRONG = [3, 2.5, True, b"x", ["x"], {"a": 1}, float("inf")]
WRONG_LISTS = [3, 2.5, "bc", b"x", {"a": 1}, [], [3], [b"x"], [["a"]], [None], [""], ["a", b"x"], np.array([1])]
AS_LABELS = [*WRONG[:3], *[value for value in WRONG_LISTS if str(value) == "[3]"], WRONG_LISTS[-1]]
"""Those of them that are labels, or lists of labels."""
BLANKS = ["", " ", "\u3000\t", "\x1c", "\u200b \ufeff"]
NO_NUMBERS = [2.5, None, pd.NA, "b", 2**63, float("nan"), "1"]


@st.composite
def mutated(draw: st.DrawFn, model: RowModel) -> Mutated:
    """Rows of `model` after one of the mutations below."""
    rows = draw(rows_of(model))
    names = [name for name, allowed in MUTATIONS.items() if allowed is None or model in allowed]
    name = draw(st.sampled_from(names))
    place = draw(st.integers(0, len(rows) - 1))
    column = draw(st.sampled_from([column for column in row_schema(model).columns if column != "row"]))
    return _BY_NAME[name](draw, model, rows, place, column)


def _null(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("null", replaced(rows, column, place, draw(st.sampled_from([None, float("nan"), pd.NA]))), place)


def _type(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    wrong = WRONG_LISTS if model is TokenRows else WRONG
    if column in ("label", "labels"):  # a number or Boolean is a label
        wrong = [value for value in wrong if not any(value is one for one in AS_LABELS)]
    value = draw(st.sampled_from(wrong))
    return Mutated("type", replaced(rows, column, place, value), place)


def _range(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("range", replaced(rows, "row", place, draw(st.sampled_from([0, -1, -(2**63)]))), place)


def _number(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    value = draw(st.sampled_from(NO_NUMBERS))
    return Mutated("number", replaced(rows, "row", place, value), place, said=f"place {place + 1} ")


def _duplicated(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("duplicated", pd.concat([rows, rows.iloc[[place]]], ignore_index=draw(st.booleans())))


def _reordered(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("reordered", rows.iloc[draw(st.permutations(range(len(rows))))])


def _surrogate(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    value, half = rows[column].iloc[place], draw(st.sampled_from(["\ud800", "\udfff", "\udc80"]))
    value = [*value[:-1], value[-1] + half] if model is TokenRows else value + half
    return Mutated("surrogate", replaced(rows, column, place, value), place)


def _nul(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    value = rows[column].iloc[place]
    is_hash = check_of(model, column) == "sha256"
    value = [*value[:-1], value[-1] + "\0"] if model is TokenRows else value + "\0"
    return Mutated("nul", replaced(rows, column, place, value), place if is_hash else None)


def _blank(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("blank", replaced(rows, "label", place, draw(st.sampled_from(BLANKS))), place)


def _ragged(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("ragged", replaced(rows, column, place, [*rows[column].iloc[place], "more"]), place)


def _array(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    make: Callable[[Any], Any] = draw(st.sampled_from([tuple, lambda items: np.array(items, dtype=object)]))
    return Mutated("array", rows.assign(**{column: pd.Series(list(map(make, rows[column])), dtype=object)}))


def _hash(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated(
        "hash", replaced(rows, "sha256", place, draw(st.sampled_from(["A" * 64, "a" * 63, "a" * 65, "g" * 64]))), place
    )


def _empty(draw: st.DrawFn, model: RowModel, rows: pd.DataFrame, place: int, column: str) -> Mutated:
    return Mutated("empty", rows.iloc[:0], 0, said="holds no rows")


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
    columns = {f"{PROBABILITY}{label}": table[:, place] for place, label in enumerate(labels)}
    predicted = pd.Series([labels[place] for place in best], dtype="str")
    return pd.DataFrame(
        {"row": np.array(numbers, np.int64), "predicted": predicted, "probability": table.max(axis=1), **columns}
    )
