"""Columns of the data beyond its contract, ids and timestamps for example, carried through to predictions. No Paddle here."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as pq

from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS

PREFIX = "source_"
FILE = "file"
"""Column that names the file of a row, where there may be several."""


def free_names(columns: Iterable[str], ours: Iterable[str]) -> dict[str, str]:
    """New names of those `columns` that have one of `ours`: `source_<name>`, and again until no column is called so."""
    names = list(columns)
    taken = {*names, *ours}
    renamed: dict[str, str] = {}
    for name in (name for name in names if name in set(ours)):
        free = f"{PREFIX}{name}"
        while free in taken:
            free = f"{PREFIX}{free}"
        taken.add(free)
        renamed[name] = free
    return renamed


def with_file(frame: pd.DataFrame, paths: "pd.Series[str] | str") -> pd.DataFrame:
    """Rows with the file that they are from; a column of theirs with that name is called `source_file`."""
    frame = frame.rename(columns=free_names(frame.columns, (FILE,)))
    same = pd.Series([paths] * len(frame), index=frame.index, dtype="str") if isinstance(paths, str) else paths
    frame.insert(0, FILE, same)
    return frame


def with_extra_columns(frame: pd.DataFrame, data: Path, kind: RowKind) -> arrow.Table:
    """`frame` and, of the same rows, the columns of a data set's split beyond the contract of its rows, types unchanged.

    Args:
        frame: one line for each row; its column `position` says which row of the file it is, from 0.
        data: Parquet file of the split.
        kind: of its rows.
    """
    inputs = {*ROW_MODELS[kind].to_schema().columns, *(("image",) if kind == "image" else ())}
    further = pq.read_table(data, columns=[name for name in pq.read_schema(data).names if name not in inputs])
    further = further.take(frame["position"].to_numpy())
    renamed = free_names(further.column_names, frame.columns)
    table = arrow.Table.from_pandas(frame, preserve_index=False)
    for name in further.column_names:
        table = table.append_column(renamed.get(name, name), further.column(name))
    return table
