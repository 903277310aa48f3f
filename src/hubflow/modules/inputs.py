"""What a user gives a predictor, as a list of rows of the kind that the model was trained on."""

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hubflow.errors import PredictError, join_limited
from hubflow.modules.images import ImageRules, load_pixels
from hubflow.schemas.references import RowKind

COLUMNS: dict[RowKind, tuple[tuple[str, ...], ...]] = {
    "text": (("text",),),
    "text_pair": (("text", "text_pair"),),
    "tokens": (("tokens",),),
    "image": (("image",), ("path",)),
}
"""Columns that the rows of a frame are taken from; of images the first that there is."""
EXPECTED: dict[RowKind, str] = {
    "text": "a text, as the model was trained on",
    "text_pair": "a pair of texts, as the model was trained on",
    "tokens": "a list of words, as the model was trained on",
    "image": "an image: a path, bytes, an open file, a PIL image or a uint8 array [height, width, 3]",
}
Bytes = bytes | bytearray | memoryview
Feed = dict[str, NDArray[Any]]
"""Values of a program's input variables, by name."""
SHOWN_CHARS = 300
PAIR = 2
MAX_BATCH = 1 << 31


def rows_of(inputs: Any, kind: RowKind) -> list[Any]:
    """The rows in `inputs`, each checked: texts, pairs of texts, lists of words, or paths, bytes and PIL images.

    Args:
        inputs: one text, one tuple of two texts for pairs, or one image; or many rows: a list or another iterable, a pandas
            frame or Series, a numpy or Arrow array, an Arrow table, or anything else with the Arrow PyCapsule interface. Of a
            frame, the columns of the row's kind are read: `text`, `text` and `text_pair`, `tokens`, `image` or `path`.
        kind: of the rows that the model was trained on.

    Raises:
        PredictError: for what is no sequence of rows, and naming the first row of another type.
    """
    rows = _listed(inputs, kind)
    found: list[Any] = [_CHECKED[kind](value, row) for row, value in enumerate(rows)]
    _require_characters(found, kind)
    return found


def require_batch_size(value: Any) -> int:
    """A number of rows, at least 1.

    Raises:
        PredictError: when it is none.
    """
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise PredictError(f"batch_size is {value!r}; expected a whole number of at least 1")
    return min(size, MAX_BATCH)


def require_stride(value: Any) -> int | None:
    """A number of tokens, at least 0; None for no windows.

    Raises:
        PredictError: when it is none.
    """
    if value is None:
        return None
    try:
        stride = operator.index(value)
    except TypeError:
        stride = -1
    if stride < 0 or isinstance(value, bool):
        raise PredictError(f"stride is {value!r}; expected a whole number of at least 0, or None")
    return stride


def _listed(inputs: Any, kind: RowKind) -> list[Any]:
    if isinstance(inputs, list):
        return inputs
    if _is_one_row(inputs, kind):
        return [inputs]
    if isinstance(inputs, Mapping):
        raise PredictError(
            f"the inputs are a {type(inputs).__name__}, which has no order of rows; give a list of rows, or a frame with "
            f"{_columns_text(kind)} (pandas.DataFrame(...))"
        )
    if isinstance(inputs, Set):
        raise PredictError(f"the inputs are a {type(inputs).__name__}, which has no order; give a list of rows")
    if isinstance(inputs, str | Bytes):
        raise PredictError(f"the inputs are one {type(inputs).__name__}; expected {EXPECTED[kind]}, or a list of such rows")
    if _is_pandas(inputs, "DataFrame"):
        _require_once(list(inputs.columns), kind)
        return _of_columns({name: inputs[name].tolist() for name in _names(kind) & {*inputs.columns}}, inputs.columns, kind)
    if isinstance(inputs, np.ndarray):
        return _of_array(inputs, kind)
    if hasattr(inputs, "__arrow_c_stream__") or hasattr(inputs, "__arrow_c_array__"):
        return _of_arrow(inputs, kind)
    if isinstance(inputs, Iterable):
        return list(inputs)
    raise PredictError(f"the inputs are of type {type(inputs).__name__}; expected {EXPECTED[kind]}, or a list of such rows")


def _is_one_row(inputs: Any, kind: RowKind) -> bool:
    match kind:
        case "text":
            return isinstance(inputs, str)
        case "text_pair":
            return isinstance(inputs, tuple) and len(inputs) == PAIR and all(isinstance(text, str) for text in inputs)
        case "tokens":
            return False
        case "image":
            is_pixels = isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8
            is_file = isinstance(inputs, str | os.PathLike | Bytes | Image.Image) or _is_open_file(inputs)
            return is_file or (is_pixels and _is_one_image(inputs.shape))


def _is_one_image(shape: tuple[int, ...]) -> bool:
    """Whether pixels of this shape are `[height, width]`, or that with one, three or four channels."""
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4))  # noqa: PLR2004


def _is_open_file(value: Any) -> bool:
    return callable(getattr(value, "read", None)) and not isinstance(value, type | os.PathLike)


def _names(kind: RowKind) -> set[str]:
    return {name for names in COLUMNS[kind] for name in names}


def _columns_text(kind: RowKind) -> str:
    choices = [" and ".join(map(repr, names)) for names in COLUMNS[kind]]
    return f"the column{'s' if len(COLUMNS[kind][0]) > 1 else ''} {' or '.join(choices)}"


def _is_pandas(value: Any, name: str) -> bool:
    kind = type(value)
    return any(base.__name__ == name and base.__module__.partition(".")[0] == "pandas" for base in kind.__mro__)


def _require_once(present: list[Any], kind: RowKind) -> None:
    repeated = sorted(name for name in _names(kind) if present.count(name) > 1)
    if repeated:
        raise PredictError(f"the frame has the column {repeated[0]!r} {present.count(repeated[0])} times; expected it once")


def _of_columns(columns: Mapping[str, list[Any]], present: Iterable[Any], kind: RowKind) -> list[Any]:
    """The rows of a frame that has the columns `present`, from those of them that the kind of the rows is read from."""
    names = next((names for names in COLUMNS[kind] if all(name in columns for name in names)), None)
    if names is None:
        raise PredictError(
            f"expected a frame with {_columns_text(kind)}, found the columns {join_limited(map(repr, present))}; "
            "rename them, or give one column alone"
        )
    lists = [columns[name] for name in names]
    return lists[0] if len(lists) == 1 else list(zip(*lists, strict=True))


def _of_array(array: np.ndarray[Any, Any], kind: RowKind) -> list[Any]:
    if array.ndim == 0:
        raise PredictError("the inputs are an array of no dimensions; give a list of rows")
    if kind == "image" and array.ndim > 1:
        if array.dtype != object and array.ndim <= 3:  # noqa: PLR2004 - which is one image, or one of a stack without channels
            raise _fault(0, kind, array)
        return list(array)
    rows: list[Any] = array.tolist()
    return rows


def _of_arrow(inputs: Any, kind: RowKind) -> list[Any]:
    import pyarrow as arrow

    if not isinstance(inputs, arrow.Array | arrow.ChunkedArray | arrow.Table | arrow.RecordBatch):
        # A table and a column come by the same interface; the one of a table is a column of structs.
        inputs = arrow.chunked_array(inputs) if hasattr(inputs, "__arrow_c_stream__") else arrow.array(inputs)
        if arrow.types.is_struct(inputs.type):
            chunks = inputs.chunks if isinstance(inputs, arrow.ChunkedArray) else [inputs]
            batches = [arrow.RecordBatch.from_struct_array(chunk) for chunk in chunks]
            inputs = arrow.Table.from_batches(batches, arrow.schema(inputs.type))
    if isinstance(inputs, arrow.Table | arrow.RecordBatch):
        present = inputs.schema.names
        _require_once(present, kind)
        return _of_columns({name: inputs.column(name).to_pylist() for name in _names(kind) & {*present}}, present, kind)
    rows: list[Any] = inputs.to_pylist()
    return rows


def _fault(row: int, kind: RowKind, value: Any) -> PredictError:
    if _is_missing(value):
        return PredictError(f"input {row}: expected {EXPECTED[kind]}, found {value!r}, a missing value; drop or fill the row")
    hint = ""
    if kind == "tokens" and isinstance(value, str):
        hint = "; split the text into words, and give one list for each sentence"
    elif isinstance(value, Bytes) and kind != "image":
        hint = "; decode the bytes to text"
    elif kind == "image" and isinstance(value, np.ndarray):
        hint = _pixels_hint(value)
    return PredictError(f"input {row}: expected {EXPECTED[kind]}, found {_described(value)}{hint}")


def _pixels_hint(pixels: np.ndarray[Any, Any]) -> str:
    if pixels.dtype not in (np.uint8, object):
        return "; scale the values to 0 to 255, and convert them with .astype(numpy.uint8)"
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):  # noqa: PLR2004
        return "; of one image, move the channels last: .transpose(1, 2, 0); of several grey ones, give a list"
    return "; of several grey images, give a list" if pixels.ndim == 3 else ""  # noqa: PLR2004


def _described(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        strange = [one for one in value if not isinstance(one, str)]
        kinds = f" with {strange[0]!r:.40} ({type(strange[0]).__name__}) in it" if strange else f" of {len(value)} texts"
        return f"{type(value).__name__}{kinds}"
    if isinstance(value, np.ndarray):
        return f"array of {value.dtype} {list(value.shape)}"
    return type(value).__name__


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))


def _text(value: Any, row: int) -> str:
    if isinstance(value, str):
        return value
    raise _fault(row, "text", value)


def _texts(value: Any) -> list[str] | None:
    """A row of texts as a list; None when it is something else."""
    listed = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    return list(listed) if isinstance(listed, list | tuple) and all(isinstance(one, str) for one in listed) else None


def _pair(value: Any, row: int) -> tuple[str, str]:
    texts = _texts(value)
    if texts is None or len(texts) != PAIR:
        raise _fault(row, "text_pair", value)
    return texts[0], texts[1]


def _words(value: Any, row: int) -> list[str]:
    words = _texts(value)
    if words is None:
        raise _fault(row, "tokens", value)
    return words


def _image(value: Any, row: int) -> Any:
    if isinstance(value, str | bytes | Image.Image):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Bytes):
        return bytes(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and _is_one_image(value.shape) and value.size:
        return Image.fromarray(value[..., 0] if value.ndim == 3 and value.shape[-1] == 1 else value)  # noqa: PLR2004
    if isinstance(value, Mapping) and {*value} == {"bytes", "path"}:  # as the library datasets keeps images
        return _image(value["path"] if value["bytes"] is None else value["bytes"], row)
    if _is_open_file(value) and isinstance(content := value.read(), bytes):
        return content
    raise _fault(row, "image", value)


_CHECKED: dict[RowKind, Any] = {"text": _text, "text_pair": _pair, "tokens": _words, "image": _image}


def _require_characters(rows: list[Any], kind: RowKind) -> None:
    """Refuse lone surrogates, which are no characters and which no tokenizer takes."""
    if kind == "image":
        return
    try:
        for value in rows:
            (value if kind == "text" else "\0".join(value)).encode()
    except UnicodeEncodeError:
        pass
    else:
        return
    for row, value in enumerate(rows):
        for text in [value] if kind == "text" else value:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                code = f"U+{ord(text[error.start]):04X}"
                raise PredictError(
                    f"input {row}: the text has the lone surrogate {code} at position {error.start}, which is no character; "
                    "read the file in its own encoding, or replace it"
                ) from error


def pixels_of(value: Any, size: int, row: int, rules: ImageRules = ImageRules()) -> NDArray[np.uint8]:  # noqa: B008 - frozen
    """Pixels `[3, size, size]` of the image in row number `row`.

    Raises:
        ImageError: naming the row, when it does not decode.
    """
    shown = (
        f"input {row}: {value[:SHOWN_CHARS]}{'…' if value[SHOWN_CHARS:] else ''}" if isinstance(value, str) else f"input {row}"
    )
    return load_pixels(value, size, shown, rules)


def pad_text(ids: Sequence[NDArray[Any]], segments: Sequence[NDArray[Any]], pad_id: int) -> Feed:
    """Inputs of a text module for rows of token ids, padded to the longest."""
    lengths = np.array([len(row) for row in ids])
    shape = (len(ids), int(lengths.max()))
    input_ids = np.full(shape, pad_id, np.int64)
    segment_ids = np.zeros(shape, np.int64)
    for position, length in enumerate(lengths):
        input_ids[position, :length] = ids[position]
        segment_ids[position, :length] = segments[position]
    positions = np.tile(np.arange(shape[1]), (shape[0], 1))
    mask = (positions < lengths[:, None]).astype(np.float32)
    return {"input_ids": input_ids, "position_ids": positions, "segment_ids": segment_ids, "input_mask": mask}


def normalised(pixels: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels `[batch, 3, height, width]` 0..255 as float32, shifted by mean and scaled by std (both of values in 0..1)."""
    image = pixels.astype(np.float32)
    image *= (1 / (255 * std))[:, None, None]
    image -= (mean / std)[:, None, None]
    return image
