"""Keep rows at hand as load_dataset keeps those of files: pandas and Arrow frames, records."""

import hashlib
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as arrow

from hubflow.data.columns import MAX_DIGITS, in_plain_layout, to_frame, to_series
from hubflow.data.ingestion import FORMAT_VERSION, Plan, dataset_summary, ingest_dataset, label_map_of
from hubflow.data.preview import named_column, names_by_column
from hubflow.data.readers.chunks import CHUNK_ROWS, sliced
from hubflow.data.readers.parquet import in_text, typed_column
from hubflow.data.readers.reading import rows_kind
from hubflow.data.readers.source import Request, require_file, wanted_columns
from hubflow.errors import DataError, join_limited
from hubflow.orchestration.artifacts import publish_data_report
from hubflow.orchestration.events import dataset_event
from hubflow.orchestration.run_context import run_name
from hubflow.orchestration.tasks import stage
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.frames import SEQUENCES
from hubflow.schemas.labels import LabelMap, TagScheme, clean_label, label_text
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.references import DatasetRef, RowKind, Split
from hubflow.schemas.rows import contract_identity, contract_of
from hubflow.schemas.settings import Column, DatasetSpec
from hubflow.schemas.tasks import TaskName, find_task_type
from hubflow.store.store import Store, content_key, file_sha256

Frame = Any
"""A pandas frame, an Arrow table, record batch or reader, whatever has `__arrow_c_stream__` or `__arrow_c_array__` (a Polars
frame, a DuckDB relation), a lazy frame of Polars, a mapping of columns, or records: mappings of names to values."""
MAX_ROW_NUMBER = 2**63 - 1
ClassNames = Mapping[str, tuple[str, ...]]
"""Names of classes that a table's `huggingface` metadata gives for their numbers, by column."""
EXPECTED = (
    "a pandas frame, an Arrow table, an object with the Arrow PyCapsule interface (a frame of Polars, a relation of DuckDB), a "
    "mapping of columns, or a list of dicts"
)
WITHOUT_ARROW = ("Object", "Int128", "UInt128")
"""Types of Polars that Arrow lacks: of objects, Polars would hand over their addresses as bytes."""


@stage(dataset_summary, label="load data", event=dataset_event)
def dataset_from_frames(
    frames: Mapping[Split, Frame] | Frame,
    task: TaskName,
    store: str,
    labels: Sequence[Any] | None = None,
    dev_fraction: float = 0.1,
    test_fraction: float = 0.0,
    split_seed: int = 0,
    source: str = "DataFrame",
    reuse: bool = True,
    contract: type | None = None,
    max_invalid_fraction: float = 0.0,
    group_column: str | None = None,
    split_by: str | None = None,
    checks: DataChecks = DataChecks(),  # noqa: B008  # frozen
    text_column: Column = "text",
    text_pair_column: Column | None = None,
    label_column: Column = "label",
    tokens_column: Column = "tokens",
    path_column: Column = "path",
    max_rows: int | None = None,
    tag_scheme: TagScheme = "auto",
) -> DatasetRef:
    """Ingest rows that are at hand, from a query for example, as `load_dataset` ingests those of files.

    The rows keep `TextRows`, `TextPairRows`, `TokenRows` or `ImageRows`. Labels follow the rule of all formats: a number or a
    Boolean becomes its text (`1` and `1.0` are `1`, `True` is `true`), and outer white space is taken off.

    Args:
        frames: rows by split, `train` at least, or those of train alone. A frame is a pandas frame of any dtype backend, an
            Arrow table, record batch or reader, an object with the Arrow PyCapsule interface, a lazy frame of Polars, a mapping
            of columns, or a list of dicts. A column `row` holds numbers from 1 that errors name the rows by; they are counted
            when it is not there. Further columns are kept as extra columns. Images may be bytes in a column `image`.
        task: what the rows are for.
        store: folder, or URL, of the store.
        labels: every label in order; from train when not given.
        dev_fraction: fraction of train that becomes `dev` when there is none.
        test_fraction: fraction of train that becomes `test` when there is none.
        split_seed: seed that draws the rows of both.
        source: what errors and facts name as the origin of the rows; with their columns, it says which data sets are compared
            with each other.
        reuse: take what the store already holds for the same rows.
        contract: your own contract, a subclass of that of the rows' kind, or a model of pandera for Polars or Arrow.
        max_invalid_fraction: fraction of a split's rows that may break their contract and be quarantined.
        group_column: column whose values should not be in two splits; those made here keep the rows of a value together.
        split_by: column of a key whose hash decides which split a row goes to, the same one every time.
        checks: what is done about faults that no single row shows.
        text_column: name, or 0-based position, of the column of texts.
        text_pair_column: of second texts; `text_pair` when train has such a column.
        label_column: of labels, or of lists of labels: `labels` when it is not given and there is no `label`.
        tokens_column: of lists of words.
        path_column: of the places of image files.
        max_rows: use at most so many rows of each split, drawn by seed.
        tag_scheme: how labels of sentences are read as tags; recognized from the labels when `auto`.

    Returns:
        Reference to `train.parquet`, `dev.parquet`, `test.parquet` (those that exist) and `label_map.json`.

    Raises:
        SettingsError: an argument is not of its type, or out of its range.
        DataError: no `train`, something that is no frame, a column that is missing or of another type, fewer than two classes,
            a split without rows, a query whose rows cannot be computed, or an image file that is missing.
        ContractError: rows break their contract.
        StoreError: the store cannot be written.
    """
    by_split = _by_split(frames, source, {text_column, label_column, tokens_column, path_column})
    classes: dict[str, ClassNames] = {}
    tables = {}
    for split, frame in by_split.items():
        tables[split], classes[split] = _frame(frame, f"{source}, {split}")
    known = find_task_type(task)
    is_image = known.module_kind == "image"
    if text_pair_column is None and "text_pair" in tables["train"] and not is_image:
        paired = DatasetSpec(format="parquet", train=source, text_pair_column="text_pair")
        text_pair_column = "text_pair" if known.rows_kind(paired) == "text_pair" else None
    given = {
        "format": "image_list" if is_image else "parquet",
        "train": source,
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "tokens_column": tokens_column,
        "dev_fraction": dev_fraction,
        "test_fraction": test_fraction,
        "max_rows": max_rows,
        "split_seed": split_seed,
        "max_invalid_fraction": max_invalid_fraction,
        "group_column": group_column,
        "split_by": split_by,
        "checks": checks,
        "tag_scheme": tag_scheme,
    }
    spec = parse_settings(DatasetSpec, given, "dataset_from_frames")
    kind = rows_kind(spec, task)
    sources = {split: Path(f"{source}, {split}") for split in tables}
    series = content_key(source, sorted(map(str, tables["train"].columns)))
    plan = Plan(spec, task, kind, sources, contract_of(kind, contract), series)
    requests = {split: Request(spec, sources[split], split, kind) for split in tables}
    read = {split: _rows(requests[split], table, path_column, classes[split]) for split, table in tables.items()}
    digests: dict[str, str] = {split: _content_sha256(rows) for split, (rows, _) in read.items()}
    identity = contract_identity(plan.model)
    names = None if labels is None else [clean_label(str(label_text(label))) for label in labels]
    opened, key = Store(store), content_key("dataset_from_frames", FORMAT_VERSION, spec, task, identity, names, digests)
    chunks = {split: partial(sliced, rows, CHUNK_ROWS, converted) for split, (rows, converted) in read.items()}
    return ingest_dataset(
        opened, key, plan, chunks, partial(_listed, names, source, spec, kind), digests, reuse, publish_data_report, run_name()
    )


def _listed(labels: Sequence[str] | None, source: str, spec: DatasetSpec, kind: RowKind) -> LabelMap | None:
    return None if labels is None else label_map_of(labels, source, spec.tag_scheme if kind == "tokens" else "auto")


def _by_split(frames: Any, source: str, columns: Collection[Column]) -> dict[Split, Frame]:
    """Frames by split; one that is given alone is train, also where it is a mapping with some of `columns`."""
    if not isinstance(frames, Mapping) or ("train" not in frames and any(name in columns for name in frames)):
        return {"train": frames}
    if "train" not in frames:
        raise DataError(f"{source}: found the splits {join_limited(frames) or 'none'}; expected train at least")
    strange = [name for name in frames if name not in get_args(Split)]
    if strange:
        raise DataError(f"{source}: unknown split(s) {join_limited(map(repr, strange))}; expected train, dev and test")
    return dict(frames)


# From a frame of any kind to a pandas frame


def _frame(frame: Frame, source: str) -> tuple[pd.DataFrame, ClassNames]:
    """A frame of any kind as a pandas frame, with names of columns that are text and do not repeat; and its class names."""
    table = _arrow_table(_computed(frame, source), source)
    if table is not None:
        found = _from_table(table)
    else:
        found = frame.reset_index(drop=True) if isinstance(frame, pd.DataFrame) else _from_records(frame, source)
    found = found.set_axis([str(name) for name in found.columns], axis="columns")
    repeated = found.columns[found.columns.duplicated()].unique()
    if len(repeated):
        raise DataError(f"{source}: column name(s) {join_limited(map(repr, repeated))} repeat; name each column once")
    return found, {} if table is None else names_by_column(table.schema.metadata)


def _arrow_table(frame: Frame, source: str) -> Any:
    """A frame of Arrow's as a table; None of another frame."""
    if isinstance(frame, pd.DataFrame):
        return None
    if isinstance(frame, arrow.RecordBatchReader):
        table = frame.read_all()
        if not len(table):
            raise DataError(f"{source}: the reader gives no rows; a reader gives its rows once: make a new one for each use")
        return table
    if hasattr(frame, "__arrow_c_stream__") or hasattr(frame, "__arrow_c_array__"):
        try:
            return arrow.table(frame)
        except (arrow.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"{source}: cannot be read as an Arrow table ({error}); expected {EXPECTED}") from error
        except Exception as error:  # the library that the frame is of computes its rows only now, and has errors of its own
            raise _query_error(source, error) from error
    return None


def _computed(frame: Frame, source: str) -> Frame:
    """A frame of Polars, computed where it is lazy, whose columns Arrow can hold; any other frame as it is."""
    polars = sys.modules.get("polars")  # a frame of Polars exists only where it is imported
    if polars is not None and isinstance(frame, polars.LazyFrame):
        try:
            frame = frame.collect()
        except polars.exceptions.PolarsError as error:
            raise _query_error(source, error) from error
    if polars is not None and isinstance(frame, polars.DataFrame):
        strange = [f"{name!r} ({kind})" for name, kind in frame.schema.items() if str(kind) in WITHOUT_ARROW]
        if strange:
            raise DataError(f"{source}: Arrow has no such type: column(s) {join_limited(strange)}; cast or drop them")
    return frame


def _query_error(source: str, error: Exception) -> DataError:
    return DataError(f"{source}: its rows cannot be computed ({type(error).__name__}: {error}); correct the query")


def _from_records(frame: Frame, source: str) -> pd.DataFrame:
    if isinstance(frame, Mapping):
        return _from_columns({name: list(values) for name, values in frame.items()}, source)
    if not isinstance(frame, Iterable) or isinstance(frame, str | bytes | pd.Series):
        raise DataError(f"{source}: found {type(frame).__name__}; expected {EXPECTED}")
    records = list(frame)
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise DataError(f"{source}: record {number} is {type(record).__name__}; expected {EXPECTED}")
    names = dict.fromkeys(name for record in records for name in record)
    return _from_columns({name: [record.get(name) for record in records] for name in names}, source)


def _from_table(table: Any) -> pd.DataFrame:
    """A table as pandas without loss; of columns whose names repeat too, which are refused later."""
    names = [f"{position} {name}" for position, name in enumerate(table.column_names)]
    return to_frame(table.rename_columns(names)).set_axis(table.column_names, axis="columns")


def _from_columns(columns: Mapping[Any, list[Any]], source: str) -> pd.DataFrame:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{source}: columns are of different lengths: {lengths}; give each row a value in each column")
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


# From a pandas frame to rows of the contract


def _rows(
    request: Request, table: pd.DataFrame, path_column: Column, classes: ClassNames
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows with the contract's columns, their number, and extra columns; how many values were converted, by column."""
    if request.kind == "image":
        taken = _image_columns(request, table, path_column)
    else:
        taken = wanted_columns(request, list(map(str, table.columns)))
    columns: dict[str, Any] = {"row": _numbers(table, request.path)}
    converted: dict[str, int] = {}
    for name, key in taken.items():
        names = classes.get(key, ()) if name in ("label", "labels") else ()
        columns[name], count = _column(request.path, name, key, table[key], names)
        converted |= {name: count} if count else {}
    kept = {"row", *taken.values()}
    for key in map(str, table.columns):
        if key not in kept:
            columns[key if key not in columns else f"source_{key}"] = _carried(table[key])
    rows = pd.DataFrame(columns)
    return (_with_hashes(rows, str(request.path)) if request.kind == "image" else rows), converted


def _image_columns(request: Request, table: pd.DataFrame, path_column: Column) -> dict[str, str]:
    spec = request.spec.model_copy(update={"text_column": path_column})
    if path_column == "path" and "path" not in table and "image" in table:
        table["path"] = [f"row {number}" for number in range(1, len(table) + 1)]
    try:
        taken = wanted_columns(Request(spec, request.path, request.split, "text"), list(map(str, table.columns)))
    except DataError as error:
        raise DataError(str(error).replace("set text_column", "set path_column")) from None
    return {"path": taken["text"], "label": taken["label"]}


def _numbers(table: pd.DataFrame, path: Path) -> Any:
    """Numbers of the rows: the column `row` as it is given, when its values are none, for the contract to say so."""
    if "row" not in table:
        return np.arange(1, len(table) + 1, dtype=np.int64)
    numbers = _whole(table["row"])
    is_integer = pd.api.types.is_integer_dtype(numbers.dtype)
    whole = [one for one in numbers.tolist() if isinstance(one, int)] if numbers.dtype == object or is_integer else []
    if any(not -MAX_ROW_NUMBER - 1 <= one <= MAX_ROW_NUMBER for one in whole):  # what 64 bits do not hold
        raise DataError(
            f"{path}: column 'row' holds {max(whole, key=abs)}; expected numbers of rows, from 1 to {MAX_ROW_NUMBER}: number "
            "the rows, or give the column another name"
        )
    if is_integer and not numbers.isna().any():
        return numbers.astype(np.int64)
    return numbers if numbers.dtype in (object, np.float64) else numbers.astype(object)


def _whole(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Decimals without decimals as the integers that they are: DuckDB has them of its HUGEINT, such as a running sum."""
    kind = values.dtype.pyarrow_dtype if isinstance(values.dtype, pd.ArrowDtype) else None
    if kind is None or not arrow.types.is_decimal(kind):
        return values
    try:
        return to_series(arrow.array(values, from_pandas=True).cast(arrow.int64()))
    except arrow.ArrowInvalid:  # with decimals, or too large
        return values


def _column(path: Path, name: str, key: str, values: "pd.Series[Any]", names: Sequence[str] = ()) -> tuple[Any, int]:
    """A column as its contract has it, and how many of its values were converted; `names` are those of class numbers."""
    is_list, is_label = name in ("tokens", "labels"), name in ("label", "labels")
    if values.dtype == object:
        return _objects(values, is_list, is_label)
    given = in_text(in_plain_layout(arrow.chunked_array([arrow.Array.from_pandas(values)])))
    try:
        given.validate(full=True)
    except arrow.ArrowInvalid as error:
        raise DataError(f"{path}: column {key!r} holds bytes that are no text ({error}); write it as UTF-8") from error
    given, named = named_column(path, key, given, names, np.arange(1, len(given) + 1)) if names else (given, 0)
    column, converted = typed_column(path, name, key, given)
    converted = named or converted
    if is_list:
        return pd.Series([None if items is None else list(items) for items in column.to_pylist()], dtype=object), converted
    return pd.Series(column.to_pandas(), dtype="str"), converted


def _objects(values: "pd.Series[Any]", is_list: bool, is_label: bool) -> tuple[Any, int]:
    """A column of Python objects: text proper where all are text or missing; the contract refuses the others by row."""
    given, converted = values.tolist(), 0
    if is_list:
        given = [list(items) if isinstance(items, SEQUENCES) else items for items in given]
    if is_label and is_list:
        converted = sum(not isinstance(item, str) for items in given if isinstance(items, list) for item in items)
        given = [[label_text(item) for item in items] if isinstance(items, list) else items for items in given]
    elif is_label:
        texts = [label_text(value) for value in given]
        converted = sum(not isinstance(value, str) and isinstance(text, str) for value, text in zip(given, texts, strict=True))
        given = texts
    elif not is_list:
        given = [str(value) if isinstance(value, os.PathLike) else value for value in given]
    if not is_list and pd.api.types.infer_dtype(given, skipna=True) in ("string", "empty"):
        try:
            return pd.Series(given, dtype="str"), converted
        except UnicodeEncodeError:  # half a surrogate pair: its row is refused
            pass
    return pd.Series(given, dtype=object), converted


def _carried(values: "pd.Series[Any]") -> Any:
    """A further column, with the type that its values have."""
    if values.dtype != object:
        return values
    given = values.tolist()
    are_integers = pd.api.types.infer_dtype(given, skipna=True) == "integer"
    for kind in (None, arrow.uint64(), arrow.decimal128(MAX_DIGITS)) if are_integers else (None,):
        try:
            column = arrow.array(given, kind, from_pandas=True)
            break
        except (arrow.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
            continue
    else:
        return values  # of several types, or half a surrogate pair: where rows are kept, this is said
    if arrow.types.is_decimal(column.type) and are_integers:  # integers that 64 bits do not hold
        return to_series(column)
    is_whole = arrow.types.is_integer(column.type) or arrow.types.is_boolean(column.type)
    return to_series(column) if is_whole else values


def _with_hashes(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """Rows of images with the hash of their content, and an absolute place, where these are not given."""
    if "sha256" in rows:
        return rows
    if "image" in rows:
        return rows.assign(sha256=pd.Series([_bytes_sha256(image) for image in rows["image"]], dtype="str"))
    paths = rows["path"]
    files = [require_file(Path(path)) if isinstance(path, str) else None for path in paths]
    hashes = pd.Series([None if file is None else file_sha256(file) for file in files], dtype="str")
    places = [path if file is None else os.path.abspath(file) for path, file in zip(paths, files, strict=True)]
    return rows.assign(sha256=hashes, path=pd.Series(places, dtype=paths.dtype))


def _bytes_sha256(image: Any) -> str | None:
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else None


def _content_sha256(rows: pd.DataFrame) -> str:
    """Hash of the rows; of columns that Arrow cannot hold, whose rows their contract will name, the hash of how they look."""
    sink = arrow.BufferOutputStream()
    try:
        table = arrow.Table.from_pandas(rows, preserve_index=False)
    except (arrow.ArrowException, UnicodeEncodeError, OverflowError):
        strange = [name for name in rows if rows[name].dtype == object or rows[name].dtype.kind == "c"]
        with np.printoptions(threshold=sys.maxsize):
            looks = {str(name): rows[name].map(repr) for name in strange}
        table = arrow.Table.from_pandas(rows.assign(**looks), preserve_index=False)
    with arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()
