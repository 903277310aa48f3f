"""Splits evaluated from made-up scores, for the tests of what is told of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from hubflow.evaluation.slices import EvaluatedSplit
from hubflow.metrics.classification import ClassificationMetrics
from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics
from hubflow.metrics.streaming import MetricOptions
from hubflow.schemas.labels import LabelMap

TAGS = LabelMap(labels=("I-LOC", "B-PER", "O", "B-LOC", "I-PER"))


def classes(folder: Path, rows: int, num_classes: int = 4, seed: int = 0, **columns: Any) -> EvaluatedSplit:
    """A classification of texts of 1 to 9 characters, right more often than not; scored up to 200 classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, rows)
    scores = generator.normal(size=(rows, num_classes)).astype(np.float32)
    scores[np.arange(rows), labels] += 1.5
    metrics = ClassificationMetrics(labels, num_classes, MetricOptions(scored_classes=200))
    for start in range(0, rows, 64):
        places = np.arange(start, min(start + 64, rows))
        metrics.update(places, log_softmax(scores[places].astype(np.float64), axis=-1))
    names = LabelMap(labels=tuple(f"label {place}" for place in range(num_classes)))
    texts = ["x" * (1 + place % 9) for place in range(rows)]
    frame = pd.DataFrame({"row": np.arange(1, rows + 1), "text": texts, "label": [names.labels[label] for label in labels]})
    frame.assign(**columns).to_parquet(folder / "test.parquet")
    return EvaluatedSplit(metrics, names, folder / "test.parquet", "text", np.arange(rows), frame["row"].to_numpy())


def sentences(folder: Path, rows: int, seed: int = 0) -> EvaluatedSplit:
    """Sentences of 1 to 7 words; the model did not see the last word of every fifth."""
    generator = np.random.default_rng(seed)
    truth = [generator.integers(0, 5, generator.integers(1, 8)) for _ in range(rows)]
    metrics = SequenceLabellingMetrics(truth, TAGS, MetricOptions(scheme="IOB2"))
    for start in range(0, rows, 8):
        places = np.arange(start, min(start + 8, rows))
        seen = [np.arange(len(truth[row])) < len(truth[row]) - (row % 5 == 0) for row in places]
        labels = np.concatenate([truth[row][kept] for row, kept in zip(places, seen, strict=True)])
        scores = generator.normal(size=(len(labels), 5)).astype(np.float32)
        scores[np.arange(len(labels)), labels] += 1.5
        metrics.update(places, log_softmax(scores.astype(np.float64), axis=-1), seen)
    tags = [[TAGS.labels[tag] for tag in row] for row in truth]
    frame = pd.DataFrame({"row": np.arange(1, rows + 1), "tokens": [["w"] * len(row) for row in truth], "labels": tags})
    frame.to_parquet(folder / "test.parquet")
    return EvaluatedSplit(metrics, TAGS, folder / "test.parquet", "tokens", np.arange(rows), frame["row"].to_numpy())


def tags_of(evaluated: EvaluatedSplit) -> tuple[list[list[str]], list[list[str]]]:
    """True and predicted tags of each row."""
    metrics: Any = evaluated.metrics
    return tuple([[TAGS.labels[tag] for tag in row] for row in rows] for rows in (metrics.labels, metrics.predicted))  # type: ignore
