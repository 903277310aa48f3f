"""What the report shows of one split: scores by label, what was confused, the worst mistakes. Must not import Prefect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from hubflow.reporting.calibration import calibration_chart
from hubflow.reporting.charts import LineChart
from hubflow.reporting.labels import cut_label
from hubflow.reporting.mistakes import Mistake, cut_texts, explained, is_wrong, shown_mistakes
from hubflow.reporting.scores import ScoreTable, score_tables
from hubflow.reporting.slices import SliceTable, slice_tables
from hubflow.schemas.evaluation import ConfusedPair, Interval, SplitDetails

MAX_MATRIX_LABELS = 30
MAX_PAIRS = 15


@dataclass(frozen=True)
class Cell:
    """How many examples of a label were predicted as another, or itself; `share` of those of the label, 0 to 1."""

    count: int
    share: float
    is_right: bool
    title: str


@dataclass(frozen=True)
class Top:
    """Fraction of rows whose true label is among the `count` most probable; its interval is None where evaluate found none."""

    count: int
    share: float
    interval: Interval | None


@dataclass(frozen=True)
class SplitView:
    """What the page shows of one split.

    Attributes:
        name: train, dev or test.
        rows: how many were evaluated.
        wrong: of how many any label was predicted wrong.
        is_sequence: whether its rows are sentences.
        scores: by label, or by type of entity and by tag.
        top: of each k that evaluate was asked for; empty of sentences.
        labels: of the matrix; empty when there are too many.
        matrix: true label by predicted label.
        pairs: the most frequent confusions.
        more_pairs: how many further ones there are.
        calibration: how often it is right where it is so sure; None where that was not found.
        ece: expected calibration error; None likewise.
        ece_interval: of it; None where evaluate found none.
        slices: of its rows, a table for each thing that it is sliced by.
        notes: what evaluate left out, and why.
        mistakes: with the largest loss first.
    """

    name: str
    rows: int
    wrong: int
    is_sequence: bool
    scores: list[ScoreTable]
    top: list[Top]
    labels: list[str]
    matrix: list[list[Cell]]
    pairs: list[ConfusedPair]
    more_pairs: int
    calibration: LineChart | None
    ece: float | None
    ece_interval: Interval | None
    slices: list[SliceTable]
    notes: list[str]
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def is_explained(self) -> bool:
        """Whether any mistake has its words marked."""
        return any(mistake.is_explained for mistake in self.mistakes)

    @property
    def is_images(self) -> bool:
        """Whether its rows are images."""
        return any(mistake.name for mistake in self.mistakes)


def split_view(
    evaluated: pd.DataFrame, details: SplitDetails, metrics: Mapping[str, float], best: str, source: Path
) -> SplitView:
    """What the page shows of a split.

    Args:
        evaluated: what evaluate kept of it (`EvaluatedRows` or `EvaluatedTokens`).
        details: what evaluate found of it.
        metrics: of the split.
        best: the metric that picked the weights.
        source: Parquet file of the split in the data set, whose name is the split's.
    """
    calibration, confusion = details.calibration, details.confusion
    is_sequence = len(evaluated) > 0 and not isinstance(evaluated["label"].iloc[0], str)
    labels, counts = confusion.labels or [], confusion.counts or []
    few = len(labels) <= MAX_MATRIX_LABELS
    return SplitView(
        name=source.stem,
        rows=len(evaluated),
        wrong=int(is_wrong(evaluated).sum()),
        is_sequence=is_sequence,
        scores=score_tables(details, is_sequence),
        top=[Top(k, share, details.intervals.get(f"top_{k}_accuracy")) for k, share in details.top_k.items()],
        labels=[cut_label(label) for label in labels] if few else [],
        matrix=_matrix(counts, labels) if few else [],
        pairs=confusion.pairs[:MAX_PAIRS],
        more_pairs=max(0, len(confusion.pairs) - MAX_PAIRS) + confusion.left_out,
        calibration=calibration_chart(calibration, "words" if is_sequence else "rows"),
        ece=None if calibration is None else calibration.ece,
        ece_interval=details.intervals.get("ece"),
        slices=slice_tables(details, metrics, best, is_sequence),
        notes=details.notes,
        mistakes=shown_mistakes(evaluated, details.worst, source),
    )


def with_explanations(view: SplitView, exported: Path | None, most: int) -> SplitView:
    """The view with the words of its first `most` mistakes marked by what they did to the prediction; all texts cut."""
    first = explained(view.mistakes[:most], exported) if exported is not None and most else view.mistakes[:most]
    mistakes = [cut_texts(mistake) for mistake in (*first, *view.mistakes[most:])]
    return SplitView(**{**vars(view), "mistakes": mistakes})


def _matrix(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[list[Cell]]:
    totals = [sum(line) or 1 for line in counts]
    names = [cut_label(label) for label in labels]
    return [
        [
            Cell(count, count / totals[row], row == column, f"true {names[row]}, predicted {names[column]}")
            for column, count in enumerate(line)
        ]
        for row, line in enumerate(counts)
    ]
