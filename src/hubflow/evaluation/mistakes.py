"""The wrong rows of a split with the largest loss, with what is in them. Must not import Paddle."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from hubflow.evaluation.evaluated_split import EvaluatedSplit
from hubflow.schemas.evaluation import Mistake
from hubflow.schemas.labels import LabelMap

if TYPE_CHECKING:
    from hubflow.metrics.classification import ClassificationMetrics
    from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics

MAX_TEXT = 400
CONTENT = ("text", "text_pair", "tokens", "path")


def worst_mistakes(evaluated: EvaluatedSplit, count: int) -> list[Mistake]:
    """The `count` wrong rows of the largest loss, largest first; of sentences those with a wrong word."""
    from hubflow.metrics.classification import ClassificationMetrics

    judge, rows, positions = evaluated.judge, evaluated.rows, evaluated.positions
    if isinstance(judge, ClassificationMetrics):
        is_wrong = judge.labels[rows] != judge.predicted[rows]
    else:
        is_wrong = judge.row_sums[rows, 0] < judge.row_sums[rows, 1]
    wrong = np.flatnonzero(is_wrong)
    worst = wrong[np.argsort(-judge.losses[rows[wrong]], kind="stable")][:count]
    present = pq.read_schema(evaluated.data).names
    columns = ["row", *(name for name in CONTENT if name in present)]
    content = pq.read_table(evaluated.data, columns=columns).take(positions[worst]).to_pylist()
    return [
        _mistake(judge, int(rows[place]), int(positions[place]), row, evaluated.label_map)
        for place, row in zip(worst.tolist(), content, strict=True)
    ]


def _mistake(
    judge: "ClassificationMetrics | SequenceLabellingMetrics",
    row: int,
    position: int,
    content: dict[str, Any],
    label_map: LabelMap,
) -> Mistake:
    from hubflow.metrics.classification import ClassificationMetrics

    number = content.pop("row")
    texts = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in content.items()}
    return Mistake(
        row=number,
        position=position,
        label=_named(judge.labels[row], label_map),
        predicted=_named(judge.predicted[row], label_map),
        loss=float(judge.losses[row]),
        probability=float(judge.confidence[row]) if isinstance(judge, ClassificationMetrics) else None,
        content=texts,
    )


def _named(ids: Any, label_map: LabelMap) -> str | list[str]:
    return [label_map.labels[one] for one in ids] if np.ndim(ids) else label_map.labels[int(ids)]
