"""A split that was evaluated, and its slices: by a column of the data, by length, by label."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute

from hubflow.data.columns import in_plain_layout, texts, to_series
from hubflow.errors import SettingsError, join_limited
from hubflow.metrics import StreamingMetrics
from hubflow.schemas.evaluation import Slice
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind
from hubflow.schemas.settings import SliceSettings


@dataclass(frozen=True)
class EvaluatedSplit:
    """What was evaluated of a split.

    Attributes:
        metrics: the sums, and what is kept of each row.
        label_map: of the model.
        data: Parquet file of the split in the data set.
        kind: of its rows.
        places: where each row of `metrics` is in `data`, from 0 `[rows]`.
        numbers: its row number in its source file `[rows]`.
    """

    metrics: StreamingMetrics
    label_map: LabelMap
    data: Path
    kind: RowKind
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Of the split."""
        return self.data.stem

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of `metrics` that were evaluated `[evaluated]`."""
        return self.metrics.rows

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each row that was evaluated is in `data` `[evaluated]`."""
        return self.places[self.rows]


MISSING, OTHER = "(missing)", "(other)"
RANGES = 4
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """Which rows of a split are in a slice `[rows]`."""

    by: Literal["column", "length", "label"]
    value: str
    rows: Mask
    column: str | None = None


def require_columns(data: Path, settings: SliceSettings) -> None:
    """Refuse columns to slice by that a split of the data set does not have.

    Raises:
        SettingsError: naming them, and those that there are.
    """
    there = pq.read_schema(data).names
    absent = [name for name in settings.columns if name not in there]
    if absent:
        raise SettingsError(
            f"evaluate.slices.columns: {data.stem} has no column {join_limited(map(repr, absent))}; it has "
            f"{join_limited(there, 30)}"
        )


def slices_of(evaluated: EvaluatedSplit, settings: SliceSettings, confidence: float) -> list[Slice]:
    """Each slice with its metrics, and the interval of its accuracy at `confidence`.

    Raises:
        SettingsError: when the data has no column of the settings' name.
    """
    require_columns(evaluated.data, settings)
    cuts = [*_by_columns(evaluated, settings), *(_by_length(evaluated, settings) if settings.length else ())]
    cuts += _by_label(evaluated, settings) if settings.labels else []
    return [_evaluated(evaluated.metrics, cut, confidence) for cut in cuts if cut.rows.any()]


def _by_columns(evaluated: EvaluatedSplit, settings: SliceSettings) -> Iterator[Cut]:
    for column in settings.columns:
        values = pq.read_table(evaluated.data, columns=[column]).take(evaluated.positions).column(0)
        names, order = _binned(in_plain_layout(values), settings.max_values)
        for name in order:
            yield Cut("column", name, (names == name).to_numpy(), column)


def _binned(values: Any, most: int) -> tuple["pd.Series[str]", list[str]]:
    """The slice that each value belongs to, and the slices: ranges in their order, or values, the most frequent first."""
    if arrow.types.is_floating(values.type):
        values = compute.if_else(compute.is_nan(values), arrow.scalar(None, values.type), values)
    ordered = _ordered(values)
    if ordered is not None and ordered.nunique() > most:
        bins = pd.qcut(ordered, RANGES, duplicates="drop")
        names = bins.astype(object).where(bins.notna(), MISSING).map(str)
        return names, [*map(str, bins.cat.categories), MISSING]
    is_truth = arrow.types.is_boolean(values.type)
    named = compute.if_else(values, "True", "False") if is_truth else texts(values)
    names = compute.fill_null(named, MISSING).to_pandas()
    counts = names.value_counts()
    kept = [str(name) for name in (counts.index if len(counts) <= most else counts.index[: most - 1])]
    return names.where(names.isin(kept), OTHER), list(dict.fromkeys([*kept, OTHER]))


def _ordered(values: Any) -> "pd.Series[Any] | None":
    """Numbers as floats, and days and times, which ranges are made of; None for other values."""
    kind = values.type
    if arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_decimal(kind):
        found: pd.Series[Any] = compute.cast(values, arrow.float64(), safe=False).to_pandas()
        return found
    if arrow.types.is_date(kind):
        return compute.cast(compute.cast(values, arrow.date32()), arrow.timestamp("s")).to_pandas()  # type: ignore[no-any-return]
    return to_series(values) if arrow.types.is_timestamp(kind) else None


def _by_length(evaluated: EvaluatedSplit, settings: SliceSettings) -> Iterator[Cut]:
    columns = {"text": ["text"], "text_pair": ["text", "text_pair"], "tokens": ["tokens"]}.get(evaluated.kind)
    if columns is None:
        return
    table = pq.read_table(evaluated.data, columns=columns).take(evaluated.positions)
    lengths = np.sum([[len(value) for value in table.column(name).to_pylist()] for name in columns], axis=0)
    edges = settings.length_edges or tuple(sorted({int(edge) for edge in np.quantile(lengths, [0.25, 0.5, 0.75])}))
    position: NDArray[np.int64] = np.atleast_1d(np.searchsorted(np.array(edges), lengths))
    lows, highs = [0, *(edge + 1 for edge in edges)], [*map(str, edges), ""]
    for index, (low, high) in enumerate(zip(lows, highs, strict=True)):
        yield Cut("length", f"{low}–{high}", position == index)


def _by_label(evaluated: EvaluatedSplit, settings: SliceSettings) -> Iterator[Cut]:
    for name, rows in evaluated.metrics.label_slices(evaluated.label_map.labels, settings.max_values):
        yield Cut("label", name, rows)


def _evaluated(metrics: StreamingMetrics, cut: Cut, confidence: float) -> Slice:
    return Slice(
        by=cut.by,
        column=cut.column,
        value=cut.value,
        rows=int(cut.rows.sum()),
        metrics=metrics.slice_metrics(cut.rows, cut.by == "label"),
        accuracy_interval=metrics.accuracy_interval(cut.rows, confidence),
    )
