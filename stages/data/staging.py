"""Rows on their way, as Parquet files whose columns may come and go between chunks. Must not import Paddle or Prefect."""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
from filelock import FileLock, Timeout
from pyarrow import parquet

from hubflow.schemas.errors import ContractError


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A folder for rows on their way, gone at the end; what killed processes left of theirs is removed too.

    A lock file beside each folder says that its process is alive.
    """
    for path in root.glob(".staging.*.lock"):
        try:
            with FileLock(path, timeout=0):
                _remove(path)
        except Timeout:
            continue
    path = root / f".staging.{uuid.uuid4().hex}.lock"
    with FileLock(path):
        path.with_suffix("").mkdir()
        try:
            yield path.with_suffix("")
        finally:
            _remove(path)


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


class Staging:
    """Chunks of rows in a folder, a file for each set of columns; read back with the columns of them all."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._files: list[Path] = []
        self._schemas: list[Any] = []
        self._writer: parquet.ParquetWriter | None = None
        self.rows = 0

    def add(self, rows: pd.DataFrame) -> None:
        """Write one chunk.

        Raises:
            ContractError: when a column holds values that are not of one type.
        """
        table = as_table(rows, self._name)
        if self._writer is None or not table.schema.equals(self._schemas[-1]):
            self._begin(table.schema)
        assert self._writer is not None
        self._writer.write_table(table)
        self.rows += len(table)

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def schema(self) -> Any:
        """The columns of every chunk.

        Raises:
            ContractError: when a column is of one type here and of another there.
        """
        return unified(self._schemas, self._name)

    def tables(self) -> Iterator[Any]:
        """The chunks, each with the columns of `schema`."""
        schema = self.schema
        for path in self._files:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                for group in range(file.num_row_groups):
                    yield with_columns(file.read_row_group(group, use_threads=False), schema)

    def _begin(self, schema: Any) -> None:
        self.close()
        path = self._folder / f"{self._name}-{len(self._files)}.parquet"
        self._files.append(path)
        self._schemas.append(schema)
        self._writer = parquet.ParquetWriter(path, schema)


def as_table(rows: pd.DataFrame, name: str) -> Any:
    """Rows as an Arrow table.

    Raises:
        ContractError: when a column holds values that are not of one type.
    """
    try:
        return arrow.Table.from_pandas(rows, preserve_index=False)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, UnicodeEncodeError, OverflowError) as error:
        reason = "; ".join(map(str, error.args))
        raise ContractError(
            f"{name}: rows cannot be kept ({reason}){_first_of_another_type(rows)}; give each column values of one type"
        ) from error


def unified(schemas: Sequence[Any], name: str) -> Any:
    """The columns of all tables with these schemas.

    Raises:
        ContractError: when a column is of one type here and of another there.
    """
    if len(schemas) == 1:
        return schemas[0]
    try:
        return arrow.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
    except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
        raise ContractError(f"{name}: {error}; give each column values of one type") from error


def with_columns(table: Any, schema: Any) -> Any:
    """A table with the columns of `schema`; one that it lacks is empty."""
    if table.schema.equals(schema):
        return table.cast(schema)  # with its metadata
    nothing = {field.name: arrow.nulls(len(table), field.type) for field in schema if field.name not in table.column_names}
    columns = [nothing[field.name] if field.name in nothing else table.column(field.name) for field in schema]
    return arrow.table([column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _first_of_another_type(rows: pd.DataFrame) -> str:
    """For each column of several types, the first row whose value is not of the type of those before it."""
    found = ""
    for name in filter(lambda name: rows[name].dtype == object, rows):
        kinds = rows[name].dropna().map(type)
        others = kinds[kinds != kinds.iloc[0]] if len(kinds) else kinds
        if len(others):
            number = rows["row"].loc[others.index[0]] if "row" in rows else others.index[0] + 1
            found += f"; {name}: row {number} is {others.iloc[0].__name__}, those before it {kinds.iloc[0].__name__}"
    return found
