"""Contracts that pandera has for Polars and Arrow: rows are held to them by pandera's own backend for the library."""

import contextlib
import copy
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
from numpy.typing import NDArray
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from hubflow.data.columns import to_series
from hubflow.errors import DataError, join_limited
from hubflow.schemas.importing import their_error, their_printed_error
from hubflow.schemas.rows import FAILURE_COLUMNS, WHOLE_ROW, RowModel, RowsError, frame_library, frame_model_of

CHECK_OUTPUT = "check_output"
PLACED_COLUMNS = [*FAILURE_COLUMNS, "place"]
_OF_COLUMNS = {
    SchemaErrorReason.WRONG_DATATYPE,
    SchemaErrorReason.DATATYPE_COERCION,
    SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME,
}
FLOATS = {"Float32": arrow.float32(), "Float64": arrow.float64()}
"""Floats by their names in Polars and narwhals, through which pandera validates Arrow tables."""
Fault = tuple[Any, str, str, Any, int | None]
"""Number of a row, column, check, value and place in the rows; number and place are None for the fault of a whole column."""


def validate_frame_model(rows: pd.DataFrame, model: RowModel, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold rows to the contract for Polars or Arrow that `model` carries, where it carries one.

    Args:
        rows: over a fresh index.
        model: contract of the rows, from `contract_of`.
        source: what an error names as the origin of the rows.

    Returns:
        The rows, with the types that the contract coerces to, and their faults as `row_failures` has them.

    Raises:
        DataError: a column has values of several types, which no column of Arrow holds.
        RowsError: the contract, or a check of it, raised an error.
    """
    own = frame_model_of(model)
    if own is None:
        return rows, _no_faults()
    schema = _schema(own, only_warns=False)
    validated, faults = _validated(schema, rows, own, source)
    return (rows if validated is None else _taken_back(rows, validated, schema)), faults


def frame_model_warnings(rows: pd.DataFrame, model: RowModel, source: str) -> pd.DataFrame:
    """What the checks of a contract for Polars or Arrow that only warn (`raise_warning=True`) find in accepted rows.

    Args:
        rows: over a fresh index.
        model: contract of the rows, from `contract_of`.
        source: what an error names as the origin of the rows.

    Returns:
        The faults as `row_failures` has them.

    Raises:
        RowsError: a check raised an error.
    """
    own = frame_model_of(model)
    schema = None if own is None else _schema(own, only_warns=True)
    if own is None or schema is None or not any(part.checks for part in (schema, *schema.columns.values())):
        return _no_faults()
    return _validated(schema, rows, own, source)[1]


def _no_faults() -> pd.DataFrame:
    return pd.DataFrame(columns=PLACED_COLUMNS, dtype=object)


def _schema(own: Any, only_warns: bool) -> Any:
    """The contract's schema with either the checks that only warn, made to report as others do, or the others alone."""
    schema = copy.deepcopy(own.to_schema())
    for part in (schema, *schema.columns.values()):
        part.checks = [copy.copy(check) for check in part.checks if bool(check.raise_warning) == only_warns]
        for check in part.checks:
            check.raise_warning, check.n_failure_cases = False, None  # a row that is not reported would count as good
    return schema


def _validated(schema: Any, rows: pd.DataFrame, own: Any, source: str) -> tuple[Any, pd.DataFrame]:
    """The rows as the schema gives them back, None where some are at fault; and the faults."""
    frame = _in_library(rows, schema, own, source)
    try:
        return schema.validate(frame, lazy=True), _no_faults()
    except SchemaErrors as error:
        faults = pd.DataFrame(_faults(error, rows, own, source), columns=PLACED_COLUMNS, dtype=object)
        return None, faults.drop_duplicates(["column", "check", "place"], ignore_index=True)
    except Exception as error:  # a user's own code may raise anything
        said = their_error(error, own)
        raise RowsError(f"{source}: the contract {own.__name__} raised {said}; correct the contract") from error


def _in_library(rows: pd.DataFrame, schema: Any, own: Any, source: str) -> Any:
    """Rows as a frame of the library that the contract is for.

    Categories are values, whatever library they came from. Of JSON lines, the type of a column depends on a chunk's values: one
    without any value, and whole numbers where the contract has floats, get the type of the contract.
    """
    import narwhals.stable.v1 as nw

    wanted = {name: part.dtype.type for name, part in schema.columns.items() if part.dtype is not None}
    columns = {}
    for name in rows:
        try:
            column = arrow.array(rows[name], from_pandas=True)
        except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{source}: column {name!r} has values of several types ({error}); the contract {own.__name__} is one for "
                f"{frame_library(own)}, whose columns have one type: write the column in one type, or remove it"
            ) from error
        if arrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if arrow.types.is_integer(column.type) and str(wanted.get(name)) in FLOATS:
            with contextlib.suppress(arrow.ArrowInvalid):  # an integer that is no float, of which the contract's check tells
                column = column.cast(FLOATS[str(wanted[name])])
        columns[str(name)] = column
    table = arrow.table(columns)
    without_values = [one.name for one in table.schema if arrow.types.is_null(one.type) and one.name in wanted]
    if frame_library(own) == "pyarrow":
        typed = [nw.col(name).cast(wanted[name]) for name in without_values]
        return nw.from_native(table, eager_only=True).with_columns(typed).to_native() if typed else table
    import polars

    frame: Any = polars.from_arrow(table)
    return frame.with_columns(polars.col(name).cast(wanted[name]) for name in without_values)


def _taken_back(rows: pd.DataFrame, validated: Any, schema: Any) -> pd.DataFrame:
    """Rows with the columns that the contract coerces, or fills with a default, as it gives them back."""
    table = validated if isinstance(validated, arrow.Table) else validated.to_arrow()
    if len(table) != len(rows):
        return rows.iloc[: len(table)]  # the caller reports that the contract dropped rows
    changing = {name for name, part in schema.columns.items() if schema.coerce or part.coerce or part.default is not None}
    return rows.assign(**{name: to_series(table.column(name)) for name in table.column_names if name in changing})


def _faults(error: SchemaErrors, rows: pd.DataFrame, own: Any, source: str) -> list[Fault]:
    """Every fault, a line for each row and check; of a whole column where no row can be named."""
    reasons = {one.reason_code for one in error.schema_errors}
    faults: list[Fault] = []
    for one in error.schema_errors:
        column, check = _column_of(one), _check_of(one, error.schema)
        if one.reason_code is SchemaErrorReason.CHECK_ERROR:
            if not reasons & _OF_COLUMNS:  # for which alone a check may raise
                said = their_printed_error(str(one.failure_cases), own)
                title = f"{source}: a check of the contract {own.__name__} raised an error; correct the check"
                raise RowsError(f"{title}\n  - {check}: {said}")
            continue
        places = _places(one, column, error.data, rows)
        if places is None:
            missing = one.reason_code is SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME
            value = f"columns {join_limited(rows.columns)}" if missing else one.failure_cases
            faults.append((None, str(one.failure_cases) if missing else column, check, value, None))
            continue
        found = (rows[column] if column in rows else rows.iloc[:, 0]).iloc[places].tolist()
        numbers = rows["row"].iloc[places].tolist()
        faults += zip(numbers, repeat(column), repeat(check), found, places.tolist(), strict=False)
    return faults


def _column_of(fault: SchemaError) -> str:
    if fault.reason_code is SchemaErrorReason.DATATYPE_COERCION and hasattr(fault.failure_cases, "columns"):
        return str(fault.failure_cases.columns[0])  # pandera says it of the whole schema
    return str(fault.column_name or fault.schema.name) if hasattr(fault.schema, "selector") else WHOLE_ROW


def _check_of(fault: SchemaError, schema: Any) -> str:
    """The name of a check as contracts for pandas have it."""
    if fault.reason_code is SchemaErrorReason.DATATYPE_COERCION:
        column = schema.columns.get(_column_of(fault))
        return f"coerce_dtype('{column.dtype if column else schema.dtype}')"
    check = fault.check
    return str(check if isinstance(check, str) or check is None else check.error or check.name or check)


def _places(fault: SchemaError, column: str, data: Any, rows: pd.DataFrame) -> NDArray[np.int64] | None:
    """Positions of the rows that fail a check; None where it is a whole column that does.

    pandera's own `failure_cases` names no rows of an Arrow table, or wrong ones for nulls: the output of the check is read.
    """
    import narwhals.stable.v1 as nw

    if fault.reason_code is SchemaErrorReason.SERIES_CONTAINS_NULLS:
        return np.flatnonzero(rows[column].isna())
    output = fault.check_output
    if output is None or isinstance(fault.failure_cases, bool | str):
        return None
    if isinstance(output, nw.Expr):
        output = nw.from_native(data, eager_only=True).select(output.alias(CHECK_OUTPUT))
    frame = nw.from_native(output, eager_or_interchange_only=False, pass_through=False)
    passed = (frame.collect() if isinstance(frame, nw.LazyFrame) else frame)[CHECK_OUTPUT].to_arrow()
    if len(passed) != len(rows):
        return None
    ignores_nulls = isinstance(fault.check, str) or fault.check.ignore_na
    return np.flatnonzero(~np.asarray(passed.fill_null(ignores_nulls)))
