"""Names of classes that the data gives as numbers: of a label list, or of a Parquet file. Must not import Paddle or Prefect."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
from pyarrow import compute

from hubflow.errors import DataError
from hubflow.schemas.checks import SEQUENCES
from hubflow.schemas.labels import clean_label

MISSING = -1  # how the library datasets writes that a row has no label


def names_by_column(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Class names by column, as the library datasets keeps them in the metadata of a Parquet file's schema."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {str(name): _names(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # of another writer, who owes it no form
        return {}
    return {name: names for name, names in found.items() if names}


def named_column(path: Path, name: str, column: Any, names: Sequence[str], numbers: np.ndarray) -> tuple[Any, int]:
    """A column of class numbers, or of lists of them, as their names, and how many there are; others as they are.

    Args:
        path: of the file, for errors.
        name: of the column, likewise.
        column: chunked array.
        names: in the order of the numbers.
        numbers: of the rows `[rows]`.

    Raises:
        DataError: when a number has no name.
    """
    kind = column.type
    is_list = arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind)
    if not arrow.types.is_integer(kind.value_type if is_list else kind):
        return column, 0
    whole = compute.take(arrow.chunked_array(column), arrow.array(np.arange(len(column))))
    whole = arrow.concat_arrays(whole.chunks) if whole.num_chunks else arrow.array([], kind)
    lists = whole.cast(arrow.large_list(arrow.int64())) if is_list else None
    values = whole.cast(arrow.int64()) if lists is None else lists.values
    ids = compute.fill_null(values, MISSING).to_numpy(zero_copy_only=False)
    strange = np.flatnonzero((ids < MISSING) | (ids >= len(names)))
    if len(strange):
        place = strange[0] if lists is None else np.searchsorted(lists.offsets.to_numpy(), strange[0], side="right") - 1
        raise DataError(
            f"{path}: record {numbers[place]}: column {name!r} holds the class {ids[strange[0]]}, but the file's `huggingface` "
            f"metadata names {len(names)}, 0 to {len(names) - 1}; correct the value or write the file again"
        )
    named = arrow.array(names, arrow.large_string()).take(arrow.array(ids, mask=ids == MISSING))
    count = int((ids != MISSING).sum())
    if lists is None:
        return arrow.chunked_array([named]), count
    mask = lists.is_null() if lists.null_count else None
    return arrow.chunked_array([arrow.LargeListArray.from_arrays(lists.offsets, named, mask=mask)]), count


def named_rows(rows: pd.DataFrame, column: str, names: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Rows whose labels are numbers with the label of that place in a label list, and how many labels that are.

    A number may be written `1`, `1.0` or with blanks around it. A list that holds numbers itself names no others.
    """
    if column not in rows or any(map(_is_number, names)):
        return rows, 0
    values = rows[column]
    flat = values if column == "label" else chain.from_iterable(one for one in values if isinstance(one, SEQUENCES))
    by_number = {str(place): name for place, name in enumerate(names)}
    texts = {one for one in flat if isinstance(one, str)}
    found = {text: by_number[number] for text in texts if (number := clean_label(text)) in by_number}
    if not found:
        return rows, 0
    if column == "label":
        return rows.assign(label=values.replace(found)), int(values.isin(list(found)).sum())
    count = sum(value in found for one in values if isinstance(one, SEQUENCES) for value in one)
    named = [[found.get(value, value) for value in one] if isinstance(one, SEQUENCES) else one for one in values]
    return rows.assign(labels=pd.Series(named, index=rows.index, dtype=object)), count


def _names(feature: Any) -> tuple[str, ...]:
    """Names of a feature that is a class, or a list of classes."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names(feature[0])
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature.get("names") or ()))
    return _names(feature["feature"]) if "feature" in feature else ()


def _is_number(label: str) -> bool:
    return label.removeprefix("-").isdecimal()
