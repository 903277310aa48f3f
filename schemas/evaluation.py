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
"""Up to so many labels `roc_auc` is measured while training; the stages that evaluate do so up to more."""

DETAILS = "details.json"


class Detail(BaseModel):
    """Base of all parts of the details."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassScore(Detail):
    """Precision, recall and F1 of one label, or type of entity; 0 where they are not defined."""

    precision: float = Field(description="Fraction of the predictions of this label that are right; 0 without predictions")
    recall: float = Field(description="Fraction of the rows (words, entities) of this label that are found; 0 without any")
    f1: float = Field(description="Harmonic mean of precision and recall")
    support: int = Field(description="Number of rows (words, entities) that truly have the label")
    predicted: int = Field(description="Number of rows (words, entities) that the label was predicted for")
    roc_auc: float | None = Field(
        None, description="Area under the ROC curve of this label against all others; None where it is not defined"
    )


class Scores(Detail):
    """Scores of several labels, or types of entities, and their means."""

    per_class: dict[str, ClassScore] = Field(description="Scores by label, or by type of entity")
    averages: dict[str, dict[str, float]] = Field(
        description="Mean precision, recall and f1 by kind of mean: micro, macro, weighted"
    )


class ConfusedPair(Detail):
    """How often one label was predicted in place of another."""

    label: str = Field(description="True label")
    predicted: str = Field(description="Label that was predicted")
    count: int = Field(description="Number of rows (words)")


class Confusion(Detail):
    """Which labels were taken for which, of rows, or of words."""

    labels: list[str] | None = Field(
        description="Labels of rows and columns of `counts`; None when there are too many labels for a matrix"
    )
    counts: list[list[int]] | None = Field(
        description="Confusion matrix `[true][predicted]`; None when there are too many labels for a matrix"
    )
    pairs: list[ConfusedPair] = Field(description="The most frequent mistakes, most frequent first")
    left_out: int = Field(description="How many more pairs of labels were confused than `pairs` has")


class CalibrationBin(Detail):
    """Rows (words) whose probability of what was predicted is above `low` and at most `high`."""

    low: float = Field(description="Lower end, not included")
    high: float = Field(description="Upper end, included")
    count: int = Field(description="Number of rows (words) in the bin")
    confidence: float = Field(description="Mean probability of what was predicted; 0 of an empty bin")
    accuracy: float = Field(description="Fraction that is right; 0 of an empty bin")


class Calibration(Detail):
    """How well the probability of what was predicted tells how often it is right."""

    ece: float = Field(description="Expected calibration error: mean difference of confidence and accuracy, weighted by count")
    bins: list[CalibrationBin] = Field(description="Bins of equal width, from 0 to 1")


class Slice(Detail):
    """Some rows of the split, evaluated by themselves."""

    by: Literal["column", "length", "label"] = Field(description="What the split is cut by")
    column: str | None = Field(None, description="Column of the data, where the slice is by a column")
    value: str = Field(description="Value, range of lengths or values, label, or type of entity")
    rows: int = Field(description="Number of rows in the slice")
    metrics: dict[str, float] = Field(description="Value by metric")
    accuracy_interval: tuple[float, float] | None = Field(
        None,
        description="Wilson's interval of the accuracy (Wilson 1927); None for sentences, whose words are not drawn one by one",
    )


class Interval(Detail):
    """Confidence interval of a metric."""

    low: float = Field(description="Lower end")
    high: float = Field(description="Upper end")


class Mistake(Detail):
    """A row that the model got wrong."""

    row: int = Field(description="Number of the row in its source file, from 1")
    position: int = Field(description="Position in the data set's file, from 0")
    label: str | list[str] = Field(description="True label, or labels of a sentence")
    predicted: str | list[str] = Field(description="Label, or labels of a sentence, that were predicted")
    loss: float = Field(description="Loss of the row")
    probability: float | None = Field(None, description="Probability of what was predicted; None for sentences")
    content: dict[str, Any] = Field(description="The row's text, pair, tokens or path; texts cut after 400 characters")


class SplitDetails(Scores):
    """What is known of one split beyond its flat metrics.

    `per_class` and `averages` are by label; of sequences by type of entity, as seqeval's default mode has them.
    """

    rows: int = Field(description="Rows that were evaluated")
    strict: Scores | None = Field(
        None, description="Sequences: scores by type of entity, as seqeval's strict mode computes them"
    )
    per_tag: dict[str, ClassScore] | None = Field(None, description="Sequences: scores by tag, over words")
    scheme: str | None = Field(None, description="Sequences: scheme that tags were read by in strict mode")
    confusion: Confusion = Field(description="Which labels were taken for which")
    calibration: Calibration | None = Field(None, description="How well probabilities tell how often a prediction is right")
    top_k: dict[int, float] = Field(
        {}, description="Classification: fraction of rows whose true label is among the k most probable, by k"
    )
    slices: list[Slice] = Field([], description="Parts of the split, evaluated by themselves")
    intervals: dict[str, Interval] = Field(
        {}, description="Confidence interval by metric: percentiles of a bootstrap over the split's rows"
    )
    confidence: float | None = Field(None, description="Confidence level of the intervals")
    resamples: int = Field(0, description="Number of draws that the intervals are computed from")
    worst: list[Mistake] = Field([], description="The wrong rows with the largest loss, largest first")
    notes: list[str] = Field([], description="What was left out, and why")
