"""Keys of rows: 64-bit hashes of texts, pairs, words, images and groups, vectorised. Must not import Paddle or Prefect."""

import sys
import unicodedata
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from hubflow.data import column_text
from hubflow.schemas.references import RowKind

Keys = NDArray[np.uint64]
PAIR_SEPARATOR = "\x1e"
WORD_SEPARATOR = "\x1f"
_SPACE, _FIRST_PRINTED = 32, 32
_WIDE_SPACES = r"[\x{85}\x{1680}\p{Zl}\p{Zp}]"  # those that NFKC leaves as they are


def exact_texts(rows: pd.DataFrame, kind: RowKind) -> pa.Array:
    """What makes a row the same as another, as one string a row: text, pair, words, or the hash of an image."""
    if kind == "image":
        return _strings(rows["sha256"])
    if kind == "tokens":
        return _joined(rows["tokens"], WORD_SEPARATOR)
    return _pairs(_strings(rows["text"]), _strings(rows["text_pair"])) if kind == "text_pair" else _strings(rows["text"])


def normalised_texts(rows: pd.DataFrame, kind: RowKind) -> pa.Array:
    """The same after NFKC, in lower case, white space collapsed, punctuation at the ends dropped; words joined by a space.

    A text of nothing but punctuation keeps it.
    """
    if kind == "tokens":
        return _normalised(_joined(rows["tokens"], " "))
    texts = _normalised(_strings(rows["text"]))
    return _pairs(texts, _normalised(_strings(rows["text_pair"]))) if kind == "text_pair" else texts


def hashed(texts: pa.Array) -> Keys:
    """64-bit hash of each string `[rows]`, the same in every process."""
    keys: Keys = pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)
    return keys


def group_keys(values: "pd.Series[Any]") -> tuple[Keys, NDArray[np.bool_]]:
    """Hash of each group key `[rows]`, and which rows have one, not empty; a number is the same as text and as number."""
    try:
        keys = _one_array(pa.array(values, from_pandas=True))
    except (pa.ArrowException, OverflowError):  # Python objects of several types
        keys = pa.array(values.astype("str").where(values.notna()), pa.large_string())
    if pa.types.is_floating(keys.type):
        keys = pc.if_else(pc.is_nan(keys), pa.scalar(None, keys.type), keys)
    keys = pc.fill_null(_one_array(column_text.texts(keys)), "")
    return hashed(keys), pc.greater(pc.binary_length(keys), 0).to_numpy(zero_copy_only=False)


def label_lists(labels: "pd.Series[Any]") -> tuple[Keys, dict[str, int]]:
    """Hash of each row's list of labels `[rows]`, and how many words have each label."""
    lists = _lists(labels)
    counts = pc.value_counts(lists.flatten())
    return hashed(_joined_lists(lists, WORD_SEPARATOR)), dict(
        zip(*(part.to_pylist() for part in counts.flatten()), strict=True)
    )


def _normalised(texts: pa.Array) -> pa.Array:
    lower = _collapsed(pc.utf8_lower(pc.utf8_normalize(texts, "NFKC")))
    trimmed = pc.utf8_trim(lower, _dropped_at_ends())
    return pc.if_else(pc.equal(pc.binary_length(trimmed), 0), pc.utf8_trim_whitespace(lower), trimmed)


def _collapsed(texts: pa.Array) -> pa.Array:
    """Every run of white space as one space; only rows that need it pay for a regular expression."""
    needed = _has_odd_spaces(texts)
    if not needed.any():
        return texts
    mask = pa.array(needed)
    mended = pc.replace_substring_regex(texts.filter(mask), rf"(?:\s|{_WIDE_SPACES})+", " ")
    return pc.replace_with_mask(texts, mask, mended)


def _has_odd_spaces(texts: pa.Array) -> NDArray[np.bool_]:
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    odd = data < _FIRST_PRINTED
    odd[1:] |= (data[1:] == _SPACE) & (data[:-1] == _SPACE)
    found = np.zeros(len(texts), bool)
    found[np.searchsorted(offsets - offsets[0], np.flatnonzero(odd), side="right") - 1] = True
    wide = ~pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    if wide.any():
        found[wide] |= pc.match_substring_regex(texts.filter(pa.array(wide)), _WIDE_SPACES).to_numpy(zero_copy_only=False)
    return found


@cache
def _dropped_at_ends() -> str:
    """White space and every character that Unicode calls punctuation."""
    return " " + "".join(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char).startswith("P"))


def _strings(values: "pd.Series[Any]") -> pa.Array:
    return _one_array(pa.array(values, pa.large_string()))


def _joined(values: "pd.Series[Any]", separator: str) -> pa.Array:
    return _joined_lists(_lists(values), separator)


def _lists(values: "pd.Series[Any]") -> pa.Array:
    return _one_array(pa.array(values, pa.list_(pa.large_string())))


def _joined_lists(lists: pa.Array, separator: str) -> pa.Array:
    return pc.binary_join(lists, pa.scalar(separator, pa.large_string()))


def _pairs(left: pa.Array, right: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(left, right, pa.scalar(PAIR_SEPARATOR, pa.large_string()))


def _one_array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
