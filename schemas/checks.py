"""Vectorised checks of row columns, each a bool per row. Must not import Paddle or Prefect."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
from pyarrow import compute

from hubflow.schemas.labels import INVISIBLE, WHITE_SPACE

BLANK = WHITE_SPACE + INVISIBLE
SEQUENCES = (list, tuple, np.ndarray)


def has_text(values: "pd.Series[str]") -> "pd.Series[bool]":
    """Whether each value holds something besides white space and characters that show nothing."""
    return values.str.strip(BLANK) != ""


def is_sha256(values: "pd.Series[str]") -> "pd.Series[bool]":
    """Whether each value is 64 lower-case hexadecimal digits."""
    return values.str.fullmatch("[0-9a-f]{64}")


def are_string_lists(values: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each value is a list of one or more strings, none of them empty."""
    if _all_string_lists(values):
        return pd.Series(True, index=values.index)
    return values.map(_is_string_list).astype(bool)


def equal_lengths(left: "pd.Series[Any]", right: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether the lists of each row have the same length; what is no list is left to `are_string_lists`."""
    lengths, others = left.map(_length), right.map(_length)
    return (lengths == others) | (lengths < 0) | (others < 0)


def known_labels(labels: Iterable[str]) -> Callable[["pd.Series[Any]"], "pd.Series[bool]"]:
    """Check that each value, or each item of each list, is one of `labels`; missing values are left to other checks."""
    known = frozenset(labels)

    def check(values: "pd.Series[Any]") -> "pd.Series[bool]":
        if not len(values) or not isinstance(values.iloc[0], SEQUENCES):
            return values.isin(list(known)) | values.isna()
        lists = values[values.map(_length) >= 0]
        if known.issuperset(_hashable(chain.from_iterable(lists))):
            return pd.Series(True, index=values.index)
        return values.map(lambda items: first_unknown(items, known) is None).astype(bool)

    return check


def first_unknown(items: object, known: frozenset[str]) -> tuple[int, object] | None:
    """Position and value of the first string of `items` that is not in `known`."""
    if not isinstance(items, SEQUENCES):
        return None
    return next(((place, item) for place, item in enumerate(items) if isinstance(item, str) and item not in known), None)


def _hashable(items: Iterable[object]) -> set[object]:
    return {item for item in items if isinstance(item, str)}


def _all_string_lists(values: "pd.Series[Any]") -> bool:
    if not set(map(type, values)).issubset(SEQUENCES):
        return False  # Arrow takes a str for a list of its characters
    if not set(map(type, chain.from_iterable(values))).issubset((str,)):
        return False  # and bytes for the text that they may be
    try:
        lists = arrow.array(values, type=arrow.large_list(arrow.large_string()))
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError, UnicodeEncodeError):
        return False
    items = lists.flatten()
    shortest = compute.min(compute.list_value_length(lists)).as_py() or 0
    shortest_item = compute.min(compute.utf8_length(items)).as_py() or 0
    return bool(lists.null_count == 0 and items.null_count == 0 and shortest > 0 and shortest_item > 0)


def _is_string_list(value: object) -> bool:
    return isinstance(value, SEQUENCES) and len(value) > 0 and all(isinstance(item, str) and item != "" for item in value)


def _length(value: object) -> int:
    return len(value) if isinstance(value, SEQUENCES) else -1
