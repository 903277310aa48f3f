"""Contracts of rows: what every accepted text, pair, token or image row holds, and every encoded row."""

import copy
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from numpy.typing import NDArray
from pandera.typing import Series

from hubflow.errors import ContractError, SettingsError, join_limited
from hubflow.schemas.frames import (
    SEQUENCES,
    are_string_lists,
    equal_lengths,
    first_unknown,
    has_text,
    is_sha256,
    known_labels,
    validate_frame,
)
from hubflow.schemas.importing import import_object
from hubflow.schemas.labels import LabelMap, distinct_texts, similar_labels
from hubflow.schemas.references import RowKind

MAX_EXAMPLES = 5
MAX_VALUE_CHARS = 60
MAX_KEPT_CHARS = 1_000
WHOLE_ROW = "whole row"  # stands for the column in faults of a check that sees all columns
DTYPE_CHECK = re.compile(r"(?:coerce_)?dtype\('([^']*)'\)")
FAILURE_COLUMNS = ["row", "column", "check", "value"]


class _Rows(pa.DataFrameModel):
    row: Series[np.int64] = pa.Field(ge=1, description="Number of the line or record in the source file, from 1")

    class Config:
        strict = False  # further columns are kept as extra columns


class TextRows(_Rows):
    """One labelled text a row.

    Example:
        >>> rows = pd.DataFrame({"row": [1, 2], "text": ["a fine film", " "], "label": ["positive", "negative"]})
        >>> len(validate_rows(rows[:1], TextRows, "train.csv"))
        1
        >>> try:
        ...     validate_rows(rows, TextRows, "train.csv")
        ... except RowsError as error:
        ...     print(error.failures.to_dict("records"))
        [{'row': 2, 'column': 'text', 'check': 'has_text', 'value': ' '}]
    """

    text: Series[str] = pa.Field(description="The text, with at least one visible character")
    label: Series[str] = pa.Field(description="Its label")

    @pa.check("text", name="has_text")
    def _has_text(cls, values: Any) -> Any:
        return has_text(values)

    @pa.check("label", name="has_label")
    def _has_label(cls, values: Any) -> Any:
        return has_text(values)


class TextPairRows(TextRows):
    """One labelled pair of texts a row."""

    text_pair: Series[str] = pa.Field(description="The second text of the pair")

    @pa.check("text_pair", name="has_text")
    def _has_text_pair(cls, values: Any) -> Any:
        return has_text(values)


class TokenRows(_Rows):
    """One sentence a row: `tokens` and `labels` are lists of str of one length, at least 1.

    Example:
        >>> rows = pd.DataFrame({"row": [1], "tokens": [["New", "York"]], "labels": [["B-LOC", "I-LOC"]]})
        >>> validate_rows(rows, TokenRows, "train.conll")["labels"].tolist()
        [['B-LOC', 'I-LOC']]
    """

    tokens: Series[object] = pa.Field(description="List of the sentence's tokens")
    labels: Series[object] = pa.Field(description="List with the label of each token")

    @pa.check("tokens", name="string_list")
    def _token_lists(cls, values: Any) -> Any:
        return are_string_lists(values)

    @pa.check("labels", name="string_list")
    def _label_lists(cls, values: Any) -> Any:
        return are_string_lists(values)

    @pa.dataframe_check(name="equal_lengths")
    def _equal_lengths(cls, rows: Any) -> Any:
        return "labels" not in rows or equal_lengths(rows["tokens"], rows["labels"])


class ImageRows(_Rows):
    """One labelled image file a row, identified by the SHA-256 of its content."""

    path: Series[str] = pa.Field(description="Path of the image file")
    label: Series[str] = pa.Field(description="Its label")
    sha256: Series[str] = pa.Field(description="SHA-256 of the file's content, 64 lower-case hexadecimal digits")

    @pa.check("label", name="has_label")
    def _has_label(cls, values: Any) -> Any:
        return has_text(values)

    @pa.check("sha256", name="sha256")
    def _sha256(cls, values: Any) -> Any:
        return is_sha256(values)


RowModel = type[TextRows] | type[TextPairRows] | type[TokenRows] | type[ImageRows]
ROW_MODELS: dict[RowKind, RowModel] = {"text": TextRows, "text_pair": TextPairRows, "tokens": TokenRows, "image": ImageRows}

# What each check expects, and what to do about a row that fails it.
EXPECTED = {
    "not_nullable": ("a value in every row", "fill it in or remove the row"),
    "has_text": ("text with at least one character that is neither white space nor invisible", "fill it in or remove the row"),
    "has_label": ("a label in every row", "fill it in or remove the row"),
    "string_list": ("a list of at least one string, none of them empty", "correct or remove the row"),
    "equal_lengths": ("as many labels as tokens", "give each token one label"),
    "coerced_value": ("a value that keeps its meaning in the contract's type", "correct it, or choose another type"),
    "surrogate": ("whole characters", "write both halves of each surrogate pair, or remove the row"),
    "sha256": ("64 hexadecimal digits", "hash the file's content again"),
}
ROW_NUMBERS = {"greater_than_or_equal_to(1)": ("row numbers from 1", "number the rows of the source from 1")}
"""The same for the column `row`: a check of this name may be a user's own of another column."""
TYPES = {"string[pyarrow]": "text", "str": "text", "int64": "whole numbers", "float64": "numbers", "bool": "true or false"}
"""What the types of the contracts are called in messages."""
CHECK_NAMES = {
    "_has_text": "has_text",
    "_has_text_pair": "has_text",
    "_has_label": "has_label",
    "_token_lists": "string_list",
    "_label_lists": "string_list",
    "_equal_lengths": "equal_lengths",
    "_sha256": "sha256",
}
"""What the checks of the contracts are called, by method."""


class RowsError(ContractError):
    """Rows break their contract; `failures` has one line per fault: row, column, check, value."""

    def __init__(self, message: str, failures: pd.DataFrame | None = None) -> None:
        super().__init__(message)
        self.failures = pd.DataFrame(columns=FAILURE_COLUMNS) if failures is None else failures


def label_column(model: RowModel) -> str:
    """Name of the column that holds the label, or the list of labels, of a row."""
    return "labels" if issubclass(model, TokenRows) else "label"


def validate_rows(
    frame: pd.DataFrame, model: RowModel, source: str, label_map: LabelMap | None = None, labelled: bool = True
) -> pd.DataFrame:
    """Rows of `source` over a fresh index, once all of them keep the contract `model`.

    Args:
        frame: rows as a reader gives them; further columns are kept as extra columns.
        source: the file that the row numbers belong to, named in the error.
        label_map: when given, every label must be in it.
        labelled: False accepts rows without the label column, as for prediction.

    Raises:
        RowsError: a ContractError naming the source, the count and first rows of each fault, and what to do;
            pandera's own report is its `__cause__`.
    """
    if frame.empty:
        raise RowsError(f"{source}: holds no rows; expected at least one")
    rows = frame.reset_index(drop=True)  # pandera's failures are located by index label, so labels must be unique
    column = label_column(model)
    schema = row_schema(model, label_map, labelled or column in rows)
    try:
        return schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        failures = row_failures(error.failure_cases, rows, label_map).drop(columns="place")
        message = rows_message(failures, failures["row"].dropna().nunique(), model, source, label_map)
        raise RowsError(message, failures) from error


def row_schema(model: RowModel, label_map: LabelMap | None = None, labelled: bool = True) -> pa.DataFrameSchema:
    """The contract `model` as a schema, with labels held to `label_map`."""
    schema: pa.DataFrameSchema = copy.copy(model.to_schema())  # which pandera keeps
    column = label_column(model)
    if not labelled:
        schema = schema.remove_columns([column])
    elif label_map is not None:
        known = pa.Check(known_labels(label_map.labels), name="known_label", ignore_na=False)
        schema = schema.update_column(column, checks=[*schema.columns[column].checks, known])
    for name, part in schema.columns.items():
        schema = schema.update_column(name, checks=[_complete(check) for check in part.checks if not check.raise_warning])
    schema.checks = [_complete(check) for check in schema.checks if not check.raise_warning]
    return schema


def warning_schema(model: RowModel) -> pa.DataFrameSchema | None:
    """The checks of the contract that only warn (`raise_warning=True`), as a schema of their own; None when there are none."""
    schema = model.to_schema()
    columns = {
        name: pa.Column(checks=found, required=False, nullable=True, regex=part.regex)
        for name, part in schema.columns.items()
        if (found := [_refusing(check) for check in part.checks if check.raise_warning])
    }
    whole = [_refusing(check) for check in schema.checks if check.raise_warning]
    return pa.DataFrameSchema(columns, checks=whole) if columns or whole else None


def _refusing(check: pa.Check) -> pa.Check:
    check = _complete(check)
    check.raise_warning = False
    return check


def row_failures(cases: pd.DataFrame, rows: pd.DataFrame, label_map: LabelMap | None = None) -> pd.DataFrame:
    """Pandera's failure cases as one line per fault, in the order of the file.

    Returns:
        Columns row (number in the source, missing for a fault of a whole column), column, check, value, and place
        (position in `rows`, missing where row is).
    """
    kept = _one_case_a_fault(cases)
    known = frozenset(label_map.labels if label_map else ())
    numbers = rows["row"].to_numpy() if "row" in rows else rows.index.to_numpy() + 1
    faults = []
    for index, column, check, value in zip(kept["index"], kept["column"], kept["check"], kept["failure_case"], strict=True):
        number, position = (None, None) if pd.isna(index) else (numbers[int(index)], int(index))
        name = value if check == "column_in_dataframe" else column
        faults.append((number, name, str(check), _found(str(check), value, index, rows, known), position))
    return pd.DataFrame(faults, columns=[*FAILURE_COLUMNS, "place"], dtype=object)


def _complete(check: pa.Check) -> pa.Check:
    """A check that reports every row, since one that is not reported would count as good, under its own name."""
    check = copy.copy(check)
    check.n_failure_cases = None
    # Pandera forgets the name once a schema was made of another class with the same check: CheckInfo.to_check pops it.
    check.name = CHECK_NAMES.get(str(check.name), check.name)
    return check


def _one_case_a_fault(cases: pd.DataFrame) -> pd.DataFrame:
    cases = cases.assign(check=cases["check"].astype(str))
    is_type, is_row = cases["check"].str.startswith(("dtype", "coerce_dtype")), cases["index"].notna()
    follow_on = cases["column"].isin(cases["column"][is_type]) & ~is_row & ~is_type  # the check itself failed on that dtype
    kept = cases[~follow_on].sort_values("index", kind="stable")
    whole_row = kept["schema_context"].eq("DataFrameSchema") & kept["index"].notna()  # reported for each column of the row
    lengths = kept["check"].eq("equal_lengths")
    kept = kept.assign(column=kept["column"].mask(whole_row, WHOLE_ROW).mask(whole_row & lengths, "tokens"))
    # A value that cannot be converted is reported twice, for the conversion and for the type.
    group = kept["check"].str.removeprefix("coerce_")
    repeated = pd.DataFrame({"index": kept["index"], "column": kept["column"], "check": group}).duplicated()
    return kept[~(repeated & kept["index"].notna())]


def _found(check: str, value: object, index: Any, rows: pd.DataFrame, known: frozenset[str]) -> object:
    """What a failed check saw: for lists, the item or the lengths that are at fault."""
    if check == "column_in_dataframe":
        return f"columns {join_limited(rows.columns)}"
    if check == "equal_lengths":
        tokens, labels = rows[["tokens", "labels"]].iloc[int(index)].map(len)
        return f"{tokens} tokens, {labels} labels"
    if check != "column_in_dataframe" and isinstance(value, str) and len(value) > MAX_KEPT_CHARS:
        return value[:MAX_KEPT_CHARS]
    if check == "known_label" and isinstance(value, SEQUENCES):
        unknown = first_unknown(value, known)
        return unknown and unknown[1]
    return value


def rows_message(
    failures: pd.DataFrame,
    rows_at_fault: int,
    model: RowModel,
    source: str,
    label_map: LabelMap | None = None,
    counts: Mapping[tuple[str, str], int] | None = None,
) -> str:
    """What to say of rows that break their contract.

    Args:
        failures: as `row_failures` has them, or the first few for each column and check.
        rows_at_fault: how many rows there are.
        model: the contract.
        source: where they are from.
        label_map: what labels were held to.
        counts: number of faults by column and check, when `failures` has only the first few.
    """
    at_fault = f"{rows_at_fault} row(s) break" if rows_at_fault else "as a whole it breaks"
    title = f"{source}: {at_fault} the contract {model.__name__}"
    return "\n".join([title, *_fault_lines(failures, label_map, counts or {})])


def _fault_lines(failures: pd.DataFrame, label_map: LabelMap | None, counts: Mapping[tuple[str, str], int]) -> Iterator[str]:
    for (column, check), faults in failures.groupby(["column", "check"], sort=False):
        expected, remedy = _expected(str(column), str(check), label_map)
        if faults["row"].isna().all():
            yield f"  - {column}: expected {expected}; found {join_limited(map(_shortened, faults['value']))}; {remedy}"
        else:
            count = counts.get((str(column), str(check)), len(faults))
            alike = _known_alike(faults["value"], label_map) if check == "known_label" else ""
            yield f"  - {column}: expected {expected}; {count} row(s) differ: {_examples(faults, count)}{alike}; {remedy}"


def _known_alike(values: "pd.Series[Any]", label_map: LabelMap | None) -> str:
    """Which unknown labels look like a known one."""
    known = label_map.labels if label_map else ()
    unknown = [value for value in values.unique() if isinstance(value, str)][:MAX_EXAMPLES]
    pairs = [(label, group) for group in similar_labels([*known, *unknown]) for label in group if label in unknown]
    meant = [(label, one) for label, group in pairs for one in group if one in known]
    texts = [distinct_texts(pair) for pair in dict(meant).items()]
    return "".join(f"; {label} looks like the known label {other}" for label, other in texts)


def _expected(column: str, check: str, label_map: LabelMap | None) -> tuple[str, str]:
    if check == "known_label" and label_map is not None:
        known = f"one of the known labels {join_limited(map(repr, label_map.labels))}"
        return known, "correct the label, or add it to the label list or to train"
    if check == "column_in_dataframe":
        return "a column of this name", "name it in the settings of the data"
    named = DTYPE_CHECK.fullmatch(check)
    expected = TYPES.get(named[1], check) if named else check
    said = ROW_NUMBERS if column == "row" else {}
    return (EXPECTED | said).get(check, (expected, "correct or remove it"))


def _examples(faults: pd.DataFrame, count: int) -> str:
    first = faults.head(MAX_EXAMPLES)
    text = ", ".join(f"row {row} ({_shortened(value)})" for row, value in zip(first["row"], first["value"], strict=True))
    return text if count <= MAX_EXAMPLES else f"{text}, … ({count - MAX_EXAMPLES} more)"


def _shortened(value: object) -> str:
    text = "missing" if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


FRAME_LIBRARIES = ("polars", "pyarrow")
"""Libraries beside pandas whose models of pandera may be contracts of rows."""
FRAME_MODEL = "__frame_model__"
NOT_THEIRS = ("hubflow", "pandera", "builtins", "typing")  # typing's source differs between releases of Python, and is long


def contract_of(kind: RowKind, given: str | type | None) -> RowModel:
    """The contract of rows of `kind`: hubflow's own, or one that a user gives.

    A user's own contract is a subclass of hubflow's, or a `DataFrameModel` of `pandera.polars` or `pandera.pyarrow`: then rows
    keep hubflow's contract and the user's. Both see the same columns, with the names of hubflow's contract.

    Args:
        kind: what the rows are.
        given: the class, or where to import it from: `package.module:ClassName`.

    Raises:
        SettingsError: when it cannot be imported, is no contract of such rows, would leave out or add anything
            without a word, or asks for values that are unique, which cannot be said of rows that are seen a chunk at a time.
    """
    base = ROW_MODELS[kind]
    if given is None:
        return base
    expected = f"package.module:ClassName, a subclass of hubflow.schemas.rows.{base.__name__}"
    model: Any = import_object(given, "contract", expected) if isinstance(given, str) else given
    library = frame_library(model) if isinstance(model, type) else None
    if library is not None:
        about = {"__module__": model.__module__, "__qualname__": model.__qualname__, "__doc__": model.__doc__}
        schema, model = model.to_schema(), type(model.__name__, (base,), {**about, FRAME_MODEL: model})
    elif isinstance(model, type) and issubclass(model, base):
        schema = model.to_schema()
    else:
        raise SettingsError(
            f"contract: {given!r} is no subclass of hubflow.schemas.rows.{base.__name__}, the contract of {kind} rows, and no "
            "DataFrameModel of pandera.polars or pandera.pyarrow; derive your class from one of them"
        )
    unique = [name for name, column in schema.columns.items() if column.unique] + list(schema.unique or ())
    if unique:
        raise SettingsError(
            f"contract: {model.__name__} asks for unique values of {', '.join(map(repr, unique))}; rows are checked a chunk at "
            "a time, so that repeats far apart would pass; leave `unique` out"
        )
    _require_no_silence(model.__name__, schema)
    coerced = [name for name, column in schema.columns.items() if column.coerce or schema.coerce]
    if library == "pyarrow" and coerced:
        raise SettingsError(
            f"contract: {model.__name__} has `coerce` for {join_limited(map(repr, coerced))}, which pandera does not apply to "
            "Arrow tables; cast the columns before, or write the contract for Polars or pandas"
        )
    accepted: RowModel = model
    return accepted


def frame_library(model: type) -> str | None:
    """The library whose frames a pandera model is for, beside pandas; None of another class."""
    for name in FRAME_LIBRARIES:
        module = sys.modules.get(f"pandera.{name}")  # whose class `model` derives from has imported it
        if module is not None and issubclass(model, module.DataFrameModel):
            return name
    return None


def frame_model_of(model: RowModel) -> Any:
    """The user's model for Polars or Arrow that a contract carries; None where it carries none."""
    return getattr(model, FRAME_MODEL, None)


def _require_no_silence(name: str, schema: Any) -> None:
    """Refuse what makes pandera drop rows or columns, or add some, without a word."""
    silent = {
        "drop_invalid_rows = True": schema.drop_invalid_rows,
        'strict = "filter"': schema.strict == "filter",
        "add_missing_columns = True": schema.add_missing_columns,
    }
    for setting, is_set in silent.items():
        if is_set:
            raise SettingsError(
                f"contract: {name} has {setting}, which would change the rows without a word; leave it out: rows that break "
                "the contract are quarantined, and further columns are kept as extra columns"
            )


def contract_identity(model: RowModel) -> dict[str, str]:
    """What tells one contract from another in the key of what was made under it: its name and its modules' source."""
    try:
        theirs = [cls for cls in (frame_model_of(model) or model).__mro__ if cls.__module__.split(".")[0] not in NOT_THEIRS]
        modules = dict.fromkeys(sys.modules[cls.__module__] for cls in theirs)  # for the constants and helpers beside them
        source = "".join([*map(inspect.getsource, modules), *(cls.__qualname__ for cls in theirs)])
    except (OSError, TypeError, KeyError):
        source = ""
    return {
        "name": f"{model.__module__}:{model.__qualname__}",
        "source_sha256": hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
    }


class EncodedRows(pa.DataFrameModel):
    """Encoded text rows: `row`, integers `input_ids` and `segment_ids` `[tokens]`, and labels.

    Classification rows carry the class id `label`; token rows carry `word_labels` and `first_piece` `[words]`: the class id of
    each word, and the position of its first piece in the row, or -1. `check_encoded_text` checks the lists against the limits
    of module and label map, as flat arrays.
    """

    row: int = pa.Field(ge=1, description="Number of the row in its source file, from 1")

    class Config:
        """Columns beyond `row` are checked together, as flat arrays."""

        strict = False


def check_encoded_text(batch: arrow.RecordBatch, vocab_size: int, max_seq_len: int, num_classes: int, source: str) -> None:
    """Hold one batch of encoded text rows to the contract.

    Raises:
        ContractError: naming split, rows and the check that failed.
    """
    columns = {name: batch.column(name) for name in batch.schema.names}
    lengths = _lengths(columns["input_ids"])
    frame = pd.DataFrame({"row": columns["row"].to_numpy()})
    validate_frame(frame, EncodedRows.to_schema(), source)
    faults: dict[str, NDArray[np.bool_]] = {
        f"1 to {max_seq_len} tokens": (lengths < 1) | (lengths > max_seq_len),
        "as many segment ids as token ids": lengths != _lengths(columns["segment_ids"]),
        f"token ids in 0..{vocab_size - 1}": _rows_with(columns["input_ids"], 0, vocab_size),
    }
    if "label" in columns:
        label = columns["label"].to_numpy()
        faults[f"label in 0..{num_classes - 1}"] = (label < 0) | (label >= num_classes)
    if "word_labels" in columns:
        words, pieces = columns["word_labels"], columns["first_piece"]
        faults["as many first pieces as words"] = _lengths(words) != _lengths(pieces)
        faults[f"word labels in 0..{num_classes - 1}"] = _rows_with(words, 0, num_classes)
        faults["first pieces inside the row, or -1"] = _rows_with(pieces, -1, lengths)
    for expected, is_bad in faults.items():
        if is_bad.any():
            rows = frame["row"].to_numpy()[is_bad][:10].tolist()
            raise ContractError(
                f"{source}: {int(is_bad.sum())} encoded row(s) break the contract; expected {expected}; rows {rows}"
            )


def _lengths(column: Any) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(column.offsets.to_numpy()).astype(np.int64)
    return lengths


def _rows_with(column: Any, low: int, high: int | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows of a list column that hold a value outside `low..high-1`; `high` is one for all, or one for each row."""
    offsets = column.offsets.to_numpy()
    values, starts = column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]
    limits = high if isinstance(high, int) else np.repeat(high, np.diff(offsets))
    bad = (values < low) | (values >= limits)
    counts = np.concatenate([[0], np.cumsum(bad)])
    result: NDArray[np.bool_] = counts[starts[1:]] > counts[starts[:-1]]
    return result
