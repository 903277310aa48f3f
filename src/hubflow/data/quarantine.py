"""Rows that break their contract: sorted out, and quarantined with what each failed."""

import contextlib
import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from pandera.errors import SchemaErrorReason
from pyarrow import parquet

from hubflow.data.columns import free_names
from hubflow.data.frame_contracts import PLACED_COLUMNS, frame_model_warnings, validate_frame_model
from hubflow.data.readers.chunks import escaped, is_damaged
from hubflow.data.staging import Staging
from hubflow.errors import DataError, HubflowError, SettingsError, StoreError
from hubflow.files import held_open
from hubflow.schemas.importing import their_error, their_printed_error
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.rows import FAILURE_COLUMNS, RowModel, RowsError, row_failures, row_schema, rows_message, warning_schema
from hubflow.store.manifest import atomic_file, draft_folder
from hubflow.store.outputs import Output

TYPED = "typed_values"
OWN_COLUMNS = ("row", "checks", "content", TYPED)
SURROGATE = "surrogate"
MAX_ROW_NUMBER = 2**63
LOSSY = "coerced_value"
MAX_EXACT = 2**53  # whole numbers up to it are floats without loss
MALFORMED = "line"  # stands for the column in checks of lines that could not be read


@dataclass(frozen=True)
class Sorted:
    """Rows sorted by whether they keep their contract.

    Attributes:
        accepted: over a fresh index, as the contract gives them back.
        rejected: the others, with the further column `checks`: a list of "column: check" for each row.
        failures: row, column, check and value of each fault.
        coerced: how many values the contract itself converted, by column.
        warned: as `failures`, of checks that only warn (`raise_warning=True`), in rows that are accepted.
    """

    accepted: pd.DataFrame
    rejected: pd.DataFrame
    failures: pd.DataFrame
    coerced: dict[str, int] = field(default_factory=dict)
    warned: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FAILURE_COLUMNS, dtype=object))


def sort_out(
    rows: pd.DataFrame, model: RowModel, label_map: LabelMap | None = None, source: str = "rows"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows that keep the contract `model`, and those that do not, with the list of checks that each of them failed.

    Pandera's own `drop_invalid_rows` lets rows pass that a check with `n_failure_cases` did not list, and drops good ones
    that share an index label with a bad one: these are found by every failure case over a fresh index.

    Args:
        rows: as a reader gives them.
        model: the contract.
        label_map: when given, every label must be in it.
        source: what an error names as the origin of the rows.

    Raises:
        RowsError: for the fault of a whole column: one that is missing or of another type.
    """
    found = partition_rows(rows, row_schema(model, label_map), model, label_map, source)
    return found.accepted, found.rejected


def partition_rows(
    rows: pd.DataFrame, schema: pa.DataFrameSchema, model: RowModel, label_map: LabelMap | None, source: str
) -> Sorted:
    """What `sort_out` does, for a schema that is at hand, with all that is known of the faults."""
    rows = _in_backend(rows.reset_index(drop=True), schema)
    checks: dict[int, list[str]] = {}
    failures = _halves(rows, checks)
    left = rows[~rows.index.isin(checks)] if checks else rows
    lighter = _without_types_that_hold(schema, rows)
    # One round, unless rows of a wrong type kept a check from seeing the others.
    while len(left):
        part = left.reset_index(drop=True) if checks else left
        typed, faults, unreadable = _held_to_frame_model(part, model, source)
        error: Exception | None = None
        try:
            accepted = _validated(lighter, typed, model, source)
        except pa.errors.SchemaErrors as found:
            error, own = found, row_failures(found.failure_cases, part, label_map)
            if not _names_rows(own):
                _require_no_raising_check(found, own, model, source)
            faults = _without_repeats(own, faults)
        if len(faults):
            if not _names_rows(faults):
                raise _column_error(faults, rows, model, source, label_map) from error
            faults = faults[faults["place"].notna()]  # wrong types make other checks fail as a whole: those see the rest again
            places = left.index.to_numpy()[faults["place"].to_numpy(dtype=np.int64)]
            for position, column, check in zip(places, faults["column"], faults["check"], strict=True):
                checks.setdefault(int(position), []).append(f"{column}: {check}")
            failures.append(faults[FAILURE_COLUMNS])
            left = left[~left.index.isin(places)]
            continue
        if unreadable is not None:
            raise unreadable
        _require_same_rows(left, accepted, model)
        lossy = _lossy(left, accepted)
        if not lossy:
            break
        for position, *_, column in lossy:
            checks.setdefault(position, []).append(f"{column}: {LOSSY}")
        failures.append(pd.DataFrame([(row, name, LOSSY, value) for _, row, value, name in lossy], columns=FAILURE_COLUMNS))
        left = left[~left.index.isin([position for position, *_ in lossy])]
    else:
        accepted = left
    places_at_fault = sorted(checks)
    rejected = rows.iloc[places_at_fault].reset_index(drop=True) if checks else rows.iloc[:0]  # which copies nothing
    if "checks" in rejected:
        rejected = rejected.rename(columns=free_names(rejected.columns, ("checks",)))
    rejected = rejected.assign(checks=pd.Series([checks[position] for position in places_at_fault], dtype=object))
    known = pd.concat(failures, ignore_index=True) if failures else pd.DataFrame(columns=FAILURE_COLUMNS, dtype=object)
    warned = _warned(accepted, model, source) if len(accepted) else known.iloc[:0]
    return Sorted(accepted, rejected, known, _converted(left, accepted, _has_parsers(schema)), warned)


def _held_to_frame_model(
    rows: pd.DataFrame, model: RowModel, source: str
) -> tuple[pd.DataFrame, pd.DataFrame, DataError | None]:
    """What `validate_frame_model` gives; and the error where rows are in no form to be held to a Polars or Arrow contract.

    It is an error only where the rows keep the rest of their contract: those of a wrong type are quarantined first.
    """
    try:
        return *validate_frame_model(rows, model, source), None
    except DataError as error:
        return rows, pd.DataFrame(columns=PLACED_COLUMNS, dtype=object), error


def _without_repeats(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The faults by hubflow's contract and by the user's, which may ask for the same."""
    if theirs.empty:
        return ours
    return pd.concat([ours, theirs], ignore_index=True).drop_duplicates(["column", "check", "place"], ignore_index=True)


def _names_rows(faults: pd.DataFrame) -> bool:
    """Whether the faults can be mended by taking rows out: all are of rows, or some are of rows of a wrong type."""
    is_row, is_type = faults["place"].notna(), faults["check"].str.startswith(("dtype", "coerce_dtype"))
    return bool(is_row.any() and (is_row.all() or (is_row & is_type).any()))


class Quarantine:
    """Writes rejected rows to one Parquet file, which takes its place when complete.

    Args:
        target: the file, in a place of the user's choice, or of a store.
        holds: files and folders that the rows are from: who may not read each of them may not read it.
    """

    def __init__(self, target: Output | Path, holds: Sequence[Path] = ()) -> None:
        self._output = target if isinstance(target, Output) else None
        self.path, self._holds = target.path if isinstance(target, Output) else target, holds
        self._staging: Staging | None = None
        self._draft = contextlib.ExitStack()

    def add(self, rejected: pd.DataFrame, malformed: pd.DataFrame) -> None:
        """Set aside rejected rows as `sort_out` gives them, and malformed lines as readers do."""
        if len(rejected) or len(malformed):
            self.add_kept(as_quarantined(rejected, malformed))

    def add_kept(self, rows: pd.DataFrame) -> None:
        """Set aside rows as `as_quarantined` gives them."""
        if self._staging is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._staging = Staging(self._draft.enter_context(draft_folder(self.path, self._holds)), "rejected")
        self._staging.add(rows)

    def finish(self) -> bool:
        """Put the file in its place, and take away an earlier run's; False when no row was quarantined.

        Raises:
            StoreError: when it cannot be written.
        """
        try:
            if self._staging is None:
                if self._output is None:
                    self.path.unlink(missing_ok=True)
                else:
                    self._output.remove()
                return False
            self._staging.close()
            file = atomic_file(self.path, self._holds) if self._output is None else self._output.write(self._holds)
            with file as stream, parquet.ParquetWriter(stream, self._staging.schema) as writer:
                for table in self._staging.tables():
                    writer.write_table(table)
            return True
        except OSError as error:
            raise StoreError(f"{self.path} could not be written ({error}); free space, or choose another `store`") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not complete."""
        if self._staging is not None:
            self._staging.close()
        self._draft.close()


def as_quarantined(rejected: pd.DataFrame, malformed: pd.DataFrame) -> pd.DataFrame:
    """Rejected rows and malformed lines in the order of their source: row, checks, content (of lines that could not be
    read), the rows' values with their types as JSON, and their columns as text."""
    content = [str(name) for name in rejected if name not in OWN_COLUMNS[:2]]
    names = {name: f"source_{name}" if name in OWN_COLUMNS else name for name in content}
    nothing = [None] * len(malformed)
    columns: dict[str, Any] = {
        "row": pd.Series([*rejected.get("row", ()), *malformed["row"]], dtype="int64"),
        "checks": [*rejected.get("checks", ()), *([f"{MALFORMED}: {check}"] for check in malformed["check"])],
        "content": pd.Series([None] * len(rejected) + malformed["content"].tolist(), dtype="str"),
        TYPED: pd.Series([*_typed(rejected.rename(columns=names), names.values()), *nothing], dtype="str"),
    }
    for name, target in names.items():
        columns[target] = pd.Series([*as_text(rejected[name]), *nothing], dtype="str")
    return pd.DataFrame(columns).sort_values("row", kind="stable", ignore_index=True)


def read_quarantine(source: Path | str | HubflowError) -> pd.DataFrame:
    """Rows that were quarantined, with the values and types that they had in their source; images are given by their size.

    Args:
        source: a file of quarantined rows, a folder with one for each split, or the error that names either.

    Returns:
        The columns `row`, `checks` (all that the row failed), `content` (of a line that could not be read) and those of the
        source; of a folder, `split` comes first.

    Raises:
        DataError: when the error names no quarantined rows, or they cannot be read.
    """
    folder = source.quarantine if isinstance(source, HubflowError) else Path(source)
    if folder is None:
        raise DataError(f"no rows were quarantined before this error: {source}")
    if folder.is_dir():
        frames = [read_quarantine(path) for path in sorted(folder.glob("*.parquet"), key=_order_of_split)]
        splits = [path.stem for path in sorted(folder.glob("*.parquet"), key=_order_of_split)]
        for split, rows_of in zip(splits, frames, strict=True):
            rows_of.insert(0, "split", pd.Series([split] * len(rows_of), dtype="str"))
        if not frames:
            raise DataError(f"{folder}: holds no file of quarantined rows")
        return pd.concat(frames, ignore_index=True)
    try:
        with held_open(folder) as name:
            table = parquet.read_table(name)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: the quarantined rows cannot be read ({error})") from error
    frame: pd.DataFrame = table.to_pandas()
    for name in [one.name for one in table.schema if arrow.types.is_list(one.type)]:
        frame[name] = pd.Series(table.column(name).to_pylist(), dtype=object)
    if TYPED not in frame:  # images, whose columns have types of their own
        return frame
    rows = [{} if text is None else json.loads(text, object_hook=_untagged) for text in table.column(TYPED).to_pylist()]
    for name in dict.fromkeys(name for row in rows for name in row):
        frame[_moved(name, frame, rows)] = _column([row.get(name) for row in rows])
    return frame.drop(columns=TYPED)


def _order_of_split(path: Path) -> tuple[int, str]:
    return {"train": 0, "dev": 1, "test": 2}.get(path.stem, 3), path.stem


def _moved(name: str, frame: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> str:
    """Where a column is, which a prediction from several files renames when its name is `file`."""
    other = f"source_{name}"
    return other if other in frame and not any(other in row for row in rows) else name


def _column(values: list[Any]) -> "pd.Series[Any]":
    """Values as a column of their type where they have one, else of Python objects."""
    kinds = {type(value) for value in values if value is not None}
    types = {str: "str", int: "Int64", float: "float64", bool: "boolean"}
    dtype = types.get(next(iter(kinds)), "object") if len(kinds) == 1 else "object"
    if dtype == "Int64" and any(value is not None and not -MAX_ROW_NUMBER <= value < MAX_ROW_NUMBER for value in values):
        dtype = "object"
    if dtype in ("Int64", "boolean") and None not in values:
        dtype = dtype.lower().removesuffix("ean")
    return pd.Series(values, dtype=dtype)


def _typed(rows: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """The values of each row as JSON, those that JSON lacks with the name of their type."""
    columns = {name: rows[name].tolist() for name in names}
    lines = zip(*columns.values(), strict=True) if columns else iter([()] * len(rows))
    return [json.dumps({name: _plain(value) for name, value in zip(columns, line, strict=True)}) for line in lines]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return None if isinstance(value, float) and np.isnan(value) else value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if value is pd.NA or value is pd.NaT:
        return None
    for kind, (name, write, _) in _TAGS.items():
        if isinstance(value, kind):
            return {f"${name}": write(value)}
    return _as_text(value)


_TAGS: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    Decimal: ("decimal", str, Decimal),
    datetime.datetime: ("datetime", lambda value: str(value.isoformat()), pd.Timestamp),
    datetime.date: ("date", lambda value: str(value.isoformat()), datetime.date.fromisoformat),
    datetime.time: ("time", lambda value: str(value.isoformat()), datetime.time.fromisoformat),
    datetime.timedelta: ("duration", lambda value: pd.Timedelta(value).isoformat(), pd.Timedelta),
}
"""Types that JSON lacks: the name that their values are marked with, and how they become text and are read again."""


def _untagged(value: dict[str, Any]) -> Any:
    for name, _, read in _TAGS.values():
        if value.keys() == {f"${name}"}:
            return read(value[f"${name}"])
    return value


def as_text(values: Iterable[Any]) -> list[str | None]:
    """Values as a person can read them, whatever their type."""
    return [_as_text(value) for value in values]


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple | np.ndarray | dict):
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        return escaped(json.dumps(plain, ensure_ascii=False, default=str))
    return None if value is None or bool(pd.isna(value)) else str(value)


def _without_types_that_hold(schema: pa.DataFrameSchema, rows: pd.DataFrame) -> pa.DataFrameSchema:
    """The schema without the type of columns that are text by their own type: pandera would look at each value."""
    names = [name for name, part in schema.columns.items() if not part.regex and not part.coerce and name in rows]
    held = tuple(name for name in names if str(schema.columns[name].dtype) == "string[pyarrow]" and rows[name].dtype == "str")
    if not held:
        return schema
    last = _LAST.get("lighter")
    if last is None or last[0] is not schema or last[1] != held:
        last = _LAST["lighter"] = (schema, held, schema.update_columns({name: {"dtype": None} for name in held}))
    return last[2]


_LAST: dict[str, tuple[pa.DataFrameSchema, tuple[str, ...], pa.DataFrameSchema]] = {}
"""The schema that was made lighter last: chunks of one source come one after the other, and pandera copies schemas deeply."""


def _in_backend(rows: pd.DataFrame, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Rows whose columns have the type of pandas that the contract names, where all that differs is how pandas holds them.

    Whether whole numbers or true/false are nullable depends on a chunk's nulls, and whether a number of JSON lines is whole on
    the numbers beside it: a contract without `coerce` is about neither.
    """
    columns = {}
    for name, part in schema.columns.items():
        wanted = getattr(part.dtype, "type", None)
        if name not in rows or part.coerce or wanted is None:
            continue
        values = rows[name]
        if values.dtype == wanted or not _is_same_kind(values, wanted):
            continue
        with contextlib.suppress(TypeError, ValueError):  # a null where the type has none, which the contract's check tells
            columns[name] = values.astype(wanted)
    return rows.assign(**columns) if columns else rows


def _is_same_kind(values: "pd.Series[Any]", wanted: Any) -> bool:
    """Whether both are whole numbers of one width, both true/false, or both numbers of which the wanted floats hold each."""
    kinds = pd.api.types
    if kinds.is_bool_dtype(values.dtype) or kinds.is_bool_dtype(wanted):
        return kinds.is_bool_dtype(values.dtype) and kinds.is_bool_dtype(wanted)
    if kinds.is_float_dtype(wanted):
        if not kinds.is_integer_dtype(values.dtype):
            return kinds.is_float_dtype(values.dtype)
        return bool(values.dropna().between(-MAX_EXACT, MAX_EXACT).all())
    is_whole = kinds.is_integer_dtype(values.dtype) and kinds.is_integer_dtype(wanted)
    return is_whole and str(values.dtype).lower().split("[")[0] == str(wanted).lower().split("[")[0]


def _halves(rows: pd.DataFrame, checks: dict[int, list[str]]) -> list[pd.DataFrame]:
    """Faults of text with half a surrogate pair, which no file can hold, noted in `checks` by place.

    Columns of text proper cannot hold it: only those of Python objects are looked at.
    """
    faults = []
    for name in filter(lambda name: rows[name].dtype == object, rows):
        for position, value in enumerate(rows[name]):
            if _is_damaged(value):
                checks.setdefault(position, []).append(f"{name}: {SURROGATE}")
                number = rows["row"].iloc[position] if "row" in rows else position + 1
                faults.append((number, str(name), SURROGATE, _as_text(value)))
    return [pd.DataFrame(faults, columns=FAILURE_COLUMNS, dtype=object)] if faults else []


def _is_damaged(value: Any) -> bool:
    if isinstance(value, str):
        return is_damaged(value)
    if isinstance(value, list | tuple | np.ndarray):
        return any(map(_is_damaged, value))
    return isinstance(value, dict) and any(map(_is_damaged, (*value, *value.values())))


def _validated(schema: pa.DataFrameSchema, rows: pd.DataFrame, model: RowModel, source: str) -> pd.DataFrame:
    try:
        return schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors:
        raise
    except Exception as error:  # a user's parser may raise anything; what a check raises, pandera gathers
        raise RowsError(
            f"{source}: the contract {model.__name__} raised {their_error(error, model)}; correct the contract"
        ) from error


def _warned(rows: pd.DataFrame, model: RowModel, source: str) -> pd.DataFrame:
    """The faults of accepted rows by the checks that only warn."""
    schema = warning_schema(model)
    try:
        if schema is not None:
            _validated(schema, rows, model, source)
    except pa.errors.SchemaErrors as error:
        faults = row_failures(error.failure_cases, rows)
        _require_no_raising_check(error, faults, model, source)
        return faults[FAILURE_COLUMNS]
    return frame_model_warnings(rows, model, source)[FAILURE_COLUMNS]


def _require_no_raising_check(error: pa.errors.SchemaErrors, faults: pd.DataFrame, model: RowModel, source: str) -> None:
    """Say that a check itself raised, and where, in place of what pandera makes of it: a column that breaks the contract.

    Raises:
        RowsError: naming each check that raised, with the user's line.
    """
    is_type = faults["check"].str.startswith(("dtype", "coerce_dtype"))
    of_wrong_type = set(faults["column"][is_type])  # whose checks may raise for that alone
    is_whole = not of_wrong_type and not (faults["check"] == "column_in_dataframe").any()
    messages = []
    for one in error.schema_errors:
        is_blamed = one.column_name not in of_wrong_type if one.column_name in model.to_schema().columns else is_whole
        if one.reason_code is SchemaErrorReason.CHECK_ERROR and is_blamed:
            text = str(one).removeprefix("Error while executing check function: ")
            messages.append(f"  - {one.check.name}: {their_printed_error(text, model)}")
    if messages:
        title = f"{source}: a check of the contract {model.__name__} raised an error; correct the check"
        raise RowsError("\n".join(dict.fromkeys([title, *messages]))) from error


def _column_error(
    faults: pd.DataFrame, rows: pd.DataFrame, model: RowModel, source: str, label_map: LabelMap | None
) -> RowsError:
    known = faults[FAILURE_COLUMNS]
    message = rows_message(known, known["row"].dropna().nunique(), model, source, label_map)
    return RowsError(
        message + (_first_without_number(rows["row"]) if "row" in set(faults["column"]) & set(rows) else ""), known
    )


def _first_without_number(numbers: "pd.Series[Any]") -> str:
    """The first row whose number is none, by its place: it has no number to name it by."""
    for position, number in enumerate(numbers, start=1):
        is_whole = isinstance(number, int | np.integer) or (isinstance(number, float) and number.is_integer())
        if not is_whole or abs(number) >= MAX_ROW_NUMBER:
            return f"\n  - row: that at position {position} of its chunk is {number!r}, which is no number of a row"
    return ""


def _require_same_rows(before: pd.DataFrame, after: pd.DataFrame, model: RowModel) -> None:
    """Refuse a contract whose parsers drop, add or reorder rows, which would be lost without a word."""
    if len(after) != len(before) or not np.array_equal(after["row"].to_numpy(), before["row"].to_numpy()):
        raise SettingsError(
            f"contract: a parser of {model.__name__} made {len(after)} rows of {len(before)}, or changed their order; "
            "let a check say which rows are wrong, and they are quarantined"
        )


_TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


def _lossy(before: pd.DataFrame, after: pd.DataFrame) -> list[tuple[int, Any, str | None, str]]:
    """Values that the contract's own conversion changes in meaning, 1.5 to 1 or the text "False" to True: place, row, value and
    column of each."""
    faults: list[tuple[int, Any, str | None, str]] = []
    types, others = before.dtypes, after.dtypes
    for name in [name for name in others.index if name in types.index and others[name] != types[name]]:
        was, is_now = before[name].reset_index(drop=True), after[name].reset_index(drop=True)
        is_known = was.notna()
        if pd.api.types.is_bool_dtype(is_now.dtype):
            meant = was.astype("str").str.strip().str.lower().map(_TRUTH)
            differs = meant != is_now.astype(float)
        elif pd.api.types.is_integer_dtype(is_now.dtype) and pd.api.types.is_numeric_dtype(was.dtype):
            differs = was.astype("Float64").fillna(0) != is_now.astype("Float64").fillna(0)
        elif pd.api.types.is_float_dtype(is_now.dtype) and pd.api.types.is_integer_dtype(was.dtype):
            differs = (was.fillna(0) > MAX_EXACT) | (was.fillna(0) < -MAX_EXACT)
        else:
            continue
        for position in np.flatnonzero(differs & is_known):
            faults.append(
                (int(before.index[int(position)]), before["row"].iloc[position], _as_text(was.iloc[position]), str(name))
            )
    return faults


def _has_parsers(schema: pa.DataFrameSchema) -> bool:
    return bool(schema.parsers) or any(column.parsers for column in schema.columns.values())


def _converted(before: pd.DataFrame, after: pd.DataFrame, has_parsers: bool) -> dict[str, int]:
    """Values of columns that the contract gave another type, or that its parsers changed."""
    counts = {}
    for name in after:
        if name not in before:
            counts[str(name)] = int(after[name].notna().sum())
        elif after[name].dtype != before[name].dtype:
            counts[str(name)] = int(before[name].notna().sum())
        elif has_parsers:
            was, is_now = before[name].reset_index(drop=True), after[name].reset_index(drop=True)
            if was.dtype == object:  # whose values may be arrays
                was, is_now = was.map(repr), is_now.map(repr)
            counts[str(name)] = int(((was != is_now) & ~(was.isna() & is_now.isna())).sum())
    return {name: count for name, count in counts.items() if count}
