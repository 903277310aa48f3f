"""A preview of a data set before training: labels with their names and counts, and a row as the model sees it."""

import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow as pa
from PIL import ExifTags, Image
from pyarrow import compute, parquet

from hubflow.errors import DataError
from hubflow.files import open_file
from hubflow.modules.images import FORMATS, ImageRules, read_image
from hubflow.modules.tokenizer import load_tokenizer
from hubflow.schemas.frames import SEQUENCES
from hubflow.schemas.labels import LabelMap, clean_label
from hubflow.schemas.references import DatasetRef, EncodedRef
from hubflow.store.store import Store

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
        position = strange[0] if lists is None else np.searchsorted(lists.offsets.to_numpy(), strange[0], side="right") - 1
        raise DataError(
            f"{path}: record {numbers[position]}: column {name!r} holds the class {ids[strange[0]]}, but the file's "
            f"`huggingface` metadata names {len(names)}, 0 to {len(names) - 1}; correct the value or write the file again"
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
    by_number = {str(position): name for position, name in enumerate(names)}
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


MAX_LABELS, MAX_TOKENS, MAX_CHARS = 20, 40, 300


def label_counts(store: Store, dataset: DatasetRef) -> dict[str, dict[str, int]]:
    """How often each label is in each split; of sentences, how many tokens have it."""
    counts: dict[str, dict[str, int]] = store.open(dataset).facts["label_counts"]
    return counts


def first_rows(store: Store, encoded: EncodedRef) -> dict[str, dict[str, Any]]:
    """The first row of each split, as it is in the data and as the model will see it.

    Returns:
        By split, `row` (its number in the source), and of a text `text`, `text_pair`, `label` and `pieces`; of a sentence
        `tokens`, `tags` and `pieces`; of an image `label`, `file`, and what `image_facts` and `seen_facts` give.
    """
    source, folder, kind = store.open(encoded.dataset).folder, store.open(encoded).folder, encoded.dataset.rows_kind
    label_map = LabelMap.load(folder / "label_map.json")
    found = {}
    for split in encoded.dataset.rows:
        seen = _first(folder / f"{split}.arrow")
        if seen is None:
            continue
        given = _row(source / f"{split}.parquet", seen.get("position", 0))
        facts: dict[str, Any] = {"row": seen["row"]}
        if kind == "image":
            image = given.get("image") or given["path"]
            rules = ImageRules.of(store.open(encoded).facts)
            facts |= {"label": label_map.labels[seen["label"]], "file": given["path"], **image_facts(image, rules)}
            facts |= seen_facts(np.asarray(seen["pixels"], np.uint8))
        else:
            tokenizer = load_tokenizer(store.open(encoded.module).folder)
            facts |= {name: given[name] for name in ("text", "text_pair", "label", "tokens") if name in given}
            if kind == "tokens":
                facts["tags"] = [label_map.labels[tag] for tag in seen["word_labels"]]
            facts["pieces"] = [tokenizer.id_to_token(one) for one in seen["input_ids"]]
        found[str(split)] = facts
    return found


def image_facts(source: str | bytes, rules: ImageRules = ImageRules()) -> dict[str, Any]:  # noqa: B008  # frozen
    """What an image file says of itself, and what is done to its pixels.

    Returns:
        format (PNG, JPEG …), mode (RGB, L, P …), width and height as they are stored, orientation (the EXIF value by which it
        is turned, 1 for none), and changes (`hubflow.modules.images.CHANGES`).
    """
    changes = read_image(source, rules=rules).changes
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open_file(source) as stream,
        Image.open(stream, formats=FORMATS) as image,
    ):
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "turned" in changes else 1
        return {
            "format": image.format,
            "mode": image.mode,
            "width": image.width,
            "height": image.height,
            "orientation": int(orientation),
            "changes": list(changes),
        }


def seen_facts(pixels: np.ndarray) -> dict[str, Any]:
    """Of the pixels that the model sees, flat, three channels one after the other: their side and mean colour, 0 to 255."""
    channels = pixels.reshape(3, -1)
    return {"size": round(channels.shape[1] ** 0.5), "mean_colour": [round(float(one), 1) for one in channels.mean(1)]}


def lines(counts: Mapping[str, Mapping[str, int]], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The same for a terminal: labels and a row of each split; texts are cut."""
    lines = []
    for split, labels in counts.items():
        ordered = sorted(labels.items(), key=lambda one: -one[1])
        named = ", ".join(f"{label!r} {count}" for label, count in ordered[:MAX_LABELS])
        more = f", … and {len(ordered) - MAX_LABELS} more" if len(ordered) > MAX_LABELS else ""
        lines.append(f"{split}: labels {named}{more}")
        if split in rows:
            lines += [f"  {line}" for line in _row_lines(rows[split])]
    return lines


def _row_lines(row: Mapping[str, Any]) -> list[str]:
    label = f", label {row['label']!r}" if "label" in row else ""
    if "mode" in row:
        done = "".join(f", {change.replace('_', ' ')}" for change in row["changes"] if change != "turned")
        turned = f", turned by EXIF orientation {row['orientation']}" if "turned" in row["changes"] else ""
        colour = "/".join(f"{one:.0f}" for one in row["mean_colour"])
        return [
            f"row {row['row']}{label}: {row['file']}",
            f"  {row['format']}, mode {row['mode']}, {row['width']} × {row['height']}{turned}{done}",
            f"  the model sees {row['size']} × {row['size']} in RGB, mean colour {colour} of 255",
        ]
    lines = [f"row {row['row']}{label}"]
    if "tags" in row:
        pairs = [f"{token}/{tag}" for token, tag in zip(row["tokens"], row["tags"], strict=True)]
        lines.append(f"  tokens and tags: {_joined(pairs)}")
    for name in ("text", "text_pair"):
        if name in row:
            lines.append(f"  {name}: {_cut(row[name])!r}")
    return [*lines, f"  the model sees: {_joined(row['pieces'])}"]


def _joined(items: list[str]) -> str:
    more = f" … ({len(items) - MAX_TOKENS} more)" if len(items) > MAX_TOKENS else ""
    return _cut(" ".join(items[:MAX_TOKENS])) + more


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"


def _first(path: Path) -> dict[str, Any] | None:
    """The first row of an Arrow file; None when it has none."""
    with pa.memory_map(str(path)) as stream:
        file = pa.ipc.open_file(stream)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            if batch.num_rows:
                found: dict[str, Any] = batch.slice(0, 1).to_pylist()[0]
                return found
    return None


def _row(path: Path, position: int) -> dict[str, Any]:
    """One row of a Parquet file."""
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(1024):
            if position < batch.num_rows:
                found: dict[str, Any] = batch.slice(position, 1).to_pylist()[0]
                return found
            position -= batch.num_rows
    raise IndexError(f"{path} has no row at position {position}")
