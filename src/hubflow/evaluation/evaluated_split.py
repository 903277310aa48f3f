"""A split that was evaluated: the sums, and where its rows come from. Must not import Paddle."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind

if TYPE_CHECKING:
    from hubflow.metrics.classification import ClassificationMetrics
    from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics


@dataclass(frozen=True)
class EvaluatedSplit:
    """What was evaluated of a split.

    Attributes:
        judge: the sums, and what is kept of each row.
        label_map: of the model.
        data: Parquet file of the split in the data set.
        kind: of its rows.
        places: where each row of the judge is in `data`, from 0 `[rows]`.
        numbers: its row number in its source file `[rows]`.
    """

    judge: "ClassificationMetrics | SequenceLabellingMetrics"
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
        """Rows of the judge that were evaluated `[evaluated]`."""
        return self.judge.rows

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each row that was evaluated is in `data` `[evaluated]`."""
        return self.places[self.rows]
