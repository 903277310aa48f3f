"""slice_tables: a table for each thing that a split is sliced by, and which slices are surely worse than the split."""

from typing import Any

from hubflow.reporting.splits import MAX_LINES, slice_tables
from hubflow.schemas.evaluation import Confusion, Interval, Slice, SplitDetails
from hubflow.tasks.sequence_labelling import SequenceLabelling
from hubflow.tasks.text_classification import TextClassification

WHOLE = {"accuracy": 0.8, "f1_macro": 0.7, "loss": 0.5}


def details_of(*slices: Slice) -> SplitDetails:
    confusion = Confusion(labels=["a"], counts=[[100]], pairs=[], left_out=0)
    intervals = {"accuracy": Interval(low=0.7, high=0.9)}
    return SplitDetails(rows=100, per_class={}, averages={}, confusion=confusion, slices=list(slices), intervals=intervals)


def by_shop(value: str, interval: tuple[float, float] | None, **metrics: float) -> Slice:
    return Slice(by="column", column="shop", value=value, rows=10, metrics=metrics, accuracy_interval=interval)


def test_a_slice_is_worse_where_its_whole_interval_is_below_the_split() -> None:
    slices = [
        by_shop("below", (0.1, 0.79), accuracy=0.5, f1_macro=0.4, loss=1.0),
        by_shop("about", (0.1, 0.81), accuracy=0.5, f1_macro=0.4, loss=1.0),
    ]
    (table,) = slice_tables(details_of(*slices), WHOLE, "f1_macro", TextClassification())
    assert table.title == "By shop"
    assert table.names == ("accuracy", "f1_macro", "loss")
    assert table.has_intervals
    assert [(line.value, line.is_worse) for line in table.lines] == [("below", True), ("about", False)]
    assert table.whole.rows == 100
    assert table.whole.metrics == (0.8, 0.7, 0.5)
    assert table.whole.interval == Interval(low=0.7, high=0.9)


def test_each_thing_has_a_table_of_its_own_with_the_metrics_that_it_has() -> None:
    any_of: dict[str, Any] = {"rows": 3, "metrics": {"accuracy": 0.5, "f1": 0.25}}
    slices = [Slice(by="length", value="0–4", **any_of), Slice(by="label", value="PER", **any_of)]
    tables = slice_tables(details_of(*slices), {"accuracy": 0.8, "f1": 0.6}, "loss", SequenceLabelling())
    assert [table.title for table in tables] == ["By length in words", "By entities in the sentence"]
    assert [table.names for table in tables] == [("accuracy", "f1")] * 2
    assert not any(table.has_intervals for table in tables)
    assert slice_tables(details_of(), WHOLE, "loss", SequenceLabelling()) == []


def test_many_slices_and_long_values_are_cut() -> None:
    slices = [by_shop("x" * 300, None, accuracy=0.5) for _ in range(MAX_LINES + 7)]
    (table,) = slice_tables(details_of(*slices), WHOLE, "accuracy", TextClassification())
    assert len(table.lines) == MAX_LINES
    assert table.more == 7
    assert len(table.lines[0].value) < 50
