"""Evaluation: the names of metrics, and the details of a split beyond them, as `details.json` holds them."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CUSTOM_METRIC = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""A user's own metric: `package.module:function`."""


def is_custom_metric(name: str) -> bool:
    """Whether `name` is that of a user's own metric."""
    return re.match(CUSTOM_METRIC, name) is not None


SCORED_WHILE_TRAINING = 20
"""Up to so many labels `roc_auc` is measured while training; the stages that judge do so up to more."""

DETAILS = "details.json"


class Detail(BaseModel):
    """Base of all parts of the details."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassScore(Detail):
    """Precision, recall and F1 of one label, or type of entity; 0 where they are not defined."""

    precision: float
    recall: float
    f1: float
    support: int = Field(description="Rows (words, entities) that truly have it")
    predicted: int = Field(description="Rows (words, entities) of which it was predicted")
    roc_auc: float | None = Field(None, description="Of this label against all others; None where it is not defined")


class Scores(Detail):
    """Scores of several labels, or types of entities, and their means."""

    per_class: dict[str, ClassScore]
    averages: dict[str, dict[str, float]] = Field(description="precision, recall and f1 by kind: micro, macro, weighted")


class ConfusedPair(Detail):
    """How often one label was predicted in place of another."""

    label: str
    predicted: str
    count: int


class Confusion(Detail):
    """Which labels were taken for which, of rows, or of words."""

    labels: list[str] | None = Field(
        description="Of rows and columns of `counts`; None of more labels than a matrix is kept of"
    )
    counts: list[list[int]] | None = Field(description="`[true][predicted]`; None of more labels than a matrix is kept of")
    pairs: list[ConfusedPair] = Field(description="The most frequent mistakes, most frequent first")
    left_out: int = Field(description="How many more pairs of labels were confused than `pairs` has")


class CalibrationBin(Detail):
    """Rows (words) whose probability of what was predicted is above `low` and at most `high`."""

    low: float
    high: float
    count: int
    confidence: float = Field(description="Mean probability of what was predicted; 0 of none")
    accuracy: float = Field(description="Fraction that is right; 0 of none")


class Calibration(Detail):
    """How well the probability of what was predicted tells how often it is right."""

    ece: float = Field(description="Expected calibration error: mean difference of confidence and accuracy, weighted by count")
    bins: list[CalibrationBin]


class Slice(Detail):
    """Some rows of the split, evaluated by themselves."""

    by: Literal["column", "length", "label"]
    column: str | None = Field(None, description="Of the data, where the slice is by a column")
    value: str = Field(description="Value, range of lengths or values, label, or type of entity")
    rows: int
    metrics: dict[str, float]
    accuracy_interval: tuple[float, float] | None = Field(
        None, description="Wilson's; None of sentences, whose words are not drawn one by one"
    )


class Interval(Detail):
    """Confidence interval of a metric."""

    low: float
    high: float


class Mistake(Detail):
    """A row that the model got wrong."""

    row: int = Field(description="Number in its source file")
    position: int = Field(description="In the data set's file, from 0")
    label: str | list[str]
    predicted: str | list[str]
    loss: float
    probability: float | None = Field(None, description="Of what was predicted; None of sentences")
    content: dict[str, Any] = Field(description="The row's text, pair, tokens or path; texts cut after 400 characters")


class SplitDetails(Scores):
    """What is known of one split beyond its flat metrics.

    `per_class` and `averages` are by label; of sequences by type of entity, as seqeval's default mode has them.
    """

    rows: int = Field(description="Rows that were evaluated")
    strict: Scores | None = Field(None, description="Of sequences: by type of entity, as seqeval's strict mode has them")
    per_tag: dict[str, ClassScore] | None = Field(None, description="Of sequences: by tag, over words")
    scheme: str | None = Field(None, description="Of sequences: that tags were read by in strict mode")
    confusion: Confusion
    calibration: Calibration | None = None
    top_k: dict[int, float] = Field(
        {}, description="Of classification: share of rows whose true label is among the k most probable"
    )
    slices: list[Slice] = []
    intervals: dict[str, Interval] = Field({}, description="By metric; percentiles of a bootstrap over the split's rows")
    confidence: float | None = Field(None, description="Of the intervals")
    resamples: int = Field(0, description="That the intervals are from")
    worst: list[Mistake] = Field([], description="The wrong rows with the largest loss, largest first")
    notes: list[str] = Field([], description="What was left out, and why")
