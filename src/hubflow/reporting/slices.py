"""Parts of a split that were evaluated by themselves, as tables. Must not import Paddle or Prefect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from hubflow.reporting.labels import cut_label
from hubflow.schemas.evaluation import Interval, Slice, SplitDetails

MAX_LINES = 40
ACCURACY = "accuracy"


@dataclass(frozen=True)
class SliceLine:
    """One slice.

    Attributes:
        value: what its rows have in common.
        rows: how many they are.
        metrics: in the order of the table's columns; None of one that was not found of it.
        interval: of its accuracy; None of sentences.
        is_worse: whether the whole interval lies below the accuracy of the split.
    """

    value: str
    rows: int
    metrics: tuple[float | None, ...]
    interval: Interval | None
    is_worse: bool


@dataclass(frozen=True)
class SliceTable:
    """Slices by one column, by length, or by label.

    Attributes:
        title: what they are by.
        names: of the metrics, that of the intervals first.
        lines: at most MAX_LINES.
        more: how many further slices there are.
        whole: the split itself.
    """

    title: str
    names: tuple[str, ...]
    lines: tuple[SliceLine, ...]
    more: int
    whole: SliceLine

    @property
    def has_intervals(self) -> bool:
        """Whether any slice has an interval."""
        return any(line.interval is not None for line in self.lines)


def slice_tables(details: SplitDetails, metrics: Mapping[str, float], best: str, is_sequence: bool) -> list[SliceTable]:
    """A table for each thing that the split is sliced by, in the order that evaluate has them.

    Args:
        details: of the split, whose slices by one thing come after each other.
        metrics: of the whole split.
        best: the metric that picked the weights, shown where slices have it.
        is_sequence: whether rows are sentences.
    """
    tables = []
    for (by, column), found in groupby(details.slices, key=lambda one: (one.by, one.column)):
        group = list(found)
        names = tuple(
            name for name in dict.fromkeys((ACCURACY, best, "f1", "loss")) if any(name in one.metrics for one in group)
        )
        lines = tuple(_line(one, names, metrics) for one in group[:MAX_LINES])
        whole = SliceLine("the whole split", details.rows, _values(metrics, names), details.intervals.get(ACCURACY), False)
        tables.append(SliceTable(_title(by, column, is_sequence), names, lines, len(group) - len(lines), whole))
    return tables


def _line(one: Slice, names: Sequence[str], metrics: Mapping[str, float]) -> SliceLine:
    interval = None
    if one.accuracy_interval is not None:
        interval = Interval(low=one.accuracy_interval[0], high=one.accuracy_interval[1])
    is_worse = interval is not None and ACCURACY in metrics and interval.high < metrics[ACCURACY]
    return SliceLine(cut_label(one.value), one.rows, _values(one.metrics, names), interval, is_worse)


def _values(metrics: Mapping[str, float], names: Sequence[str]) -> tuple[float | None, ...]:
    return tuple(metrics.get(name) for name in names)


def _title(by: str, column: str | None, is_sequence: bool) -> str:
    if by == "column":
        return f"By {cut_label(column or '')}"
    if by == "length":
        return f"By length in {'words' if is_sequence else 'characters'}"
    return "By entities in the sentence" if is_sequence else "By true label"
