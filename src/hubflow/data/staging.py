"""Rows on their way, as Parquet files whose columns may come and go between chunks."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
from filelock import Timeout
from pyarrow import parquet

from hubflow.data.columns import Piece, in_plain_layout, unified, with_columns
from hubflow.errors import ContractError, StoreError, join_limited
from hubflow.store.manifest import full_disk_explained, locked


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A folder for rows on their way, gone at the end; what killed processes left of theirs is removed too.

    A lock file beside each folder says that its process is alive.
    """
    for path in root.glob(".staging.*.lock"):
        try:
            with locked(path, timeout=0):
                _remove(path)
        except (Timeout, StoreError):  # its process is alive, or is another user's
            continue
    path = root / f".staging.{uuid.uuid4().hex}.lock"
    with locked(path):
        try:
            with full_disk_explained(root):
                path.with_suffix("").mkdir(0o700)  # whatever the rows are from
                yield path.with_suffix("")
        finally:
            _remove(path)


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    with suppress(PermissionError):  # another user's, in a folder in which only owners remove
        lock.unlink(missing_ok=True)


class Staging:
    """Chunks of rows in a folder, a file for each set of columns; read back with the columns of them all.

    Args:
        folder: where the files are.
        name: of the rows, in file names and errors.
        mixed: a column of values without a common type is kept as JSON, as JSON lines have it; otherwise it is an error.
    """

    def __init__(self, folder: Path, name: str, mixed: bool = False) -> None:
        self._folder, self._name, self._mixed = folder, name, mixed
        self._pieces: list[Piece] = []
        self._writer: parquet.ParquetWriter | None = None
        self._schema: Any = None
        self.rows = 0

    def add(self, rows: pd.DataFrame, source: str | None = None) -> None:
        """Write one chunk.

        Args:
            rows: the chunk.
            source: the file that it is from, named when a column of its is of another type than in the files before.

        Raises:
            ContractError: when a column holds values that are not of one type.
        """
        source = source or self._name
        table = as_table(rows, source)
        if self._writer is None or source != self._pieces[-1].source or not table.schema.equals(self._pieces[-1].schema):
            self._begin(table.schema, source)
        assert self._writer is not None
        self._writer.write_table(table)
        self.rows += len(table)

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def names(self) -> list[str]:
        """Names of the columns of every chunk."""
        return list(dict.fromkeys(name for piece in self._pieces for name in piece.schema.names))

    @property
    def schema(self) -> Any:
        """The columns of every chunk, once all are written.

        Raises:
            ContractError: when a column is of one type here and of another there.
        """
        if self._schema is None:
            self.close()
            self._schema = unified(self._pieces, self._mixed)
        return self._schema

    def tables(self) -> Iterator[Any]:
        """The chunks, each with the columns of `schema`."""
        for piece in self._pieces:
            for table in piece.tables():
                yield with_columns(table, self.schema)

    def _begin(self, schema: Any, source: str) -> None:
        self.close()
        path = self._folder / f"{self._name}-{len(self._pieces)}.parquet"
        try:
            self._writer = parquet.ParquetWriter(path, schema)
        except arrow.ArrowNotImplementedError as error:
            columns = join_limited(f"{field.name!r} ({field.type})" for field in schema if not _is_kept(field))
            raise ContractError(
                f"{source}: column(s) {columns}: Parquet has no such type, so the rows cannot be kept; write the values in "
                "another type, for example as text, or remove the column"
            ) from error
        self._pieces.append(Piece(source, path, schema))


def _is_kept(field: Any) -> bool:
    """Whether Parquet can hold the values of a column."""
    try:
        parquet.ParquetWriter(arrow.BufferOutputStream(), arrow.schema([field])).close()
    except arrow.ArrowNotImplementedError:
        return False
    return True


def as_table(rows: pd.DataFrame, name: str) -> Any:
    """Rows as an Arrow table.

    Raises:
        ContractError: when a column holds values that are not of one type.
    """
    try:
        # Without pandas' notes on types: readers take those of Arrow, and pandas cannot read all of its own.
        table = arrow.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    except (arrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
        reason = "; ".join(map(str, error.args))
        raise ContractError(
            f"{name}: rows cannot be kept ({reason}){_first_of_another_type(rows)}; give each column values of one type"
        ) from error
    return arrow.table([in_plain_layout(column) for column in table.columns], names=table.column_names)


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
