"""One split in the report: scores by label, slices, confusions, and the worst mistakes."""

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubflow.errors import ImageError
from hubflow.modules.images import read_image
from hubflow.reporting.charts import LineChart, calibration_chart, cut_label
from hubflow.schemas import evaluation
from hubflow.schemas.evaluation import ClassScore, ConfusedPair, Interval, Slice, SplitDetails
from hubflow.schemas.frames import PROBABILITY
from hubflow.schemas.tasks import ScoreSection, TaskType
from hubflow.workers.processes import run

if TYPE_CHECKING:
    from hubflow.inference.predictor import Predictor

MAX_LABELS = 60


@dataclass(frozen=True)
class ScoreLine:
    """Scores of one label, type of entity or tag."""

    label: str
    score: ClassScore


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several labels, types of entities or tags.

    Attributes:
        title: what they are by.
        what: one of them.
        unit: what is counted.
        lines: the worst by F1 first, at most MAX_LABELS.
        more: how many further ones there are.
        averages: precision, recall and F1 by kind: micro, macro, weighted.
    """

    title: str
    what: str
    unit: str
    lines: list[ScoreLine]
    more: int
    averages: Mapping[str, Mapping[str, float]]

    @property
    def has_areas(self) -> bool:
        """Whether any has its ROC-AUC."""
        return any(line.score.roc_auc is not None for line in self.lines)


def score_table(section: ScoreSection) -> ScoreTable:
    """A section of the task type as a table, the worst label first."""
    worst_first = sorted(section.scores.items(), key=lambda one: one[1].f1)
    lines = [ScoreLine(cut_label(label), score) for label, score in worst_first[:MAX_LABELS]]
    return ScoreTable(section.title, section.what, section.unit, lines, len(section.scores) - len(lines), section.averages)


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


def slice_tables(details: SplitDetails, metrics: Mapping[str, float], best: str, task: TaskType) -> list[SliceTable]:
    """A table for each thing that the split is sliced by, in the order that evaluate has them.

    Args:
        details: of the split, whose slices by one thing come after each other.
        metrics: of the whole split.
        best: the metric that picked the weights, shown where slices have it.
        task: the task type, which names what lengths count.
    """
    tables = []
    for (by, column), found in groupby(details.slices, key=lambda one: (one.by, one.column)):
        group = list(found)
        names = tuple(
            name for name in dict.fromkeys((ACCURACY, best, "f1", "loss")) if any(name in one.metrics for one in group)
        )
        lines = tuple(_line(one, names, metrics) for one in group[:MAX_LINES])
        whole = SliceLine("the whole split", details.rows, _values(metrics, names), details.intervals.get(ACCURACY), False)
        tables.append(SliceTable(_title(by, column, task), names, lines, len(group) - len(lines), whole))
    return tables


def _line(one: Slice, names: Sequence[str], metrics: Mapping[str, float]) -> SliceLine:
    interval = None
    if one.accuracy_interval is not None:
        interval = Interval(low=one.accuracy_interval[0], high=one.accuracy_interval[1])
    is_worse = interval is not None and ACCURACY in metrics and interval.high < metrics[ACCURACY]
    return SliceLine(cut_label(one.value), one.rows, _values(one.metrics, names), interval, is_worse)


def _values(metrics: Mapping[str, float], names: Sequence[str]) -> tuple[float | None, ...]:
    return tuple(metrics.get(name) for name in names)


def _title(by: str, column: str | None, task: TaskType) -> str:
    if by == "column":
        return f"By {cut_label(column or '')}"
    return f"By length in {task.length_unit}" if by == "length" else task.label_slices


MAX_SPANS = 32
"""Of a text: of a longer one several words are left out together."""
TINY = 1e-6  # of float32 probabilities that are as good as certain
_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of one text.

    Attributes:
        start: from 0.
        end: the first one that is no longer part of it.
        weight: logarithm of the odds of the predicted label with the whole text, less that without the span. Probabilities
            themselves hardly move where a model is sure.
    """

    start: int
    end: int
    weight: float


def word_importance(
    exported: Path, rows: Sequence[tuple[str, ...]], labels: Sequence[str], shown_chars: int
) -> list[tuple[list[Span], ...]]:
    """What `word_importances` gives with an export, computed by a worker process."""
    request = {"export": str(exported), "rows": rows, "labels": labels, "shown_chars": shown_chars}
    found = run("hubflow.reporting.splits:word_importances_in_worker", request)
    return [tuple([Span(*span) for span in spans] for spans in row) for row in found]


def word_importances_in_worker(request: dict[str, Any], connection: Any) -> list[Any]:
    """As a worker process: the spans of each text of each row, as lists."""
    from hubflow.inference.predictor import Predictor

    rows = [tuple(row) for row in request["rows"]]
    found = word_importances(Predictor.load(request["export"]), rows, request["labels"], request["shown_chars"])
    return [[[astuple(span) for span in spans] for spans in row] for row in found]


def word_importances(
    predictor: "Predictor", rows: Sequence[tuple[str, ...]], labels: Sequence[str], shown_chars: int
) -> list[tuple[list[Span], ...]]:
    """What leaving out each part of a text does to the odds of a label (occlusion, Zeiler & Fergus, arXiv:1311.2901).

    Args:
        predictor: of texts, or of pairs of texts.
        rows: one text, or two, by row.
        labels: of each row, the label that is explained.
        shown_chars: only the first so many characters of a text are split into spans.

    Returns:
        By row, the spans of each of its texts. At most MAX_SPANS + 1 predictions are made for each.
    """
    cuts = [[list(_spans(text[:shown_chars], MAX_SPANS // len(row))) for text in row] for row in rows]
    inputs = [variant for row, spans in zip(rows, cuts, strict=True) for variant in _variants(row, spans)]
    probabilities = iter(predictor.predict(inputs))
    index = predictor.label_map.index()
    found = []
    for spans, label in zip(cuts, labels, strict=True):
        values = [float(next(probabilities).probabilities[index[label]]) for _ in range(1 + sum(map(len, spans)))]
        odds = _log_odds(np.array(values))
        weights = iter((odds[0] - odds[1:]).tolist())
        found.append(tuple([Span(start, end, next(weights)) for start, end in one] for one in spans))
    return found


def _variants(row: tuple[str, ...], spans: list[list[tuple[int, int]]]) -> Iterator[Any]:
    """The row, and the row without each of its spans, as a predictor takes it."""
    yield _input(row)
    for number, one in enumerate(spans):
        for start, end in one:
            text = row[number]
            yield _input((*row[:number], f"{text[:start]} {text[end:]}", *row[number + 1 :]))


def _input(row: tuple[str, ...]) -> Any:
    return row[0] if len(row) == 1 else row


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(probabilities, TINY, 1 - TINY)
    odds: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds


def _spans(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Where the words (signs, of scripts without spaces) of a text are; of many, several together."""
    units = [match.span() for match in _UNIT.finditer(text)]
    each = max(1, -(-len(units) // most))
    for position in range(0, len(units), each):
        part = units[position : position + each]
        yield part[0][0], part[-1][1]


MAX_TEXT_CHARS = 400
MAX_WORD_CHARS = 60
MAX_VALUE_CHARS = 60
MAX_FURTHER = 4
NEAR_WORDS = 8
WHOLE_WORDS = 40
"""Of a sentence of up to so many words all are shown, of a longer one those near a wrong word."""
MAX_MARKS = 6
"""Words of a text that are marked: those with the most weight."""
LEAST_WEIGHT = 0.01
OURS = frozenset({"row", "position", "loss", "label", "predicted", "probability"})
THUMBNAIL = 112


@dataclass(frozen=True)
class Piece:
    """Part of a text, or a word: `mark` is a class of the page's style, `note` what is said of it, beside a word."""

    text: str
    mark: str = ""
    note: str = ""
    is_word: bool = False


@dataclass(frozen=True)
class Mistake:
    """One row that the model got wrong.

    Attributes:
        row: its number in its source.
        label: the true one; empty of a sentence, whose words have one each.
        predicted: likewise.
        loss: of the row.
        probability: of the predicted label; None of a sentence.
        true_probability: of the true label; None where it was not kept, and of a sentence.
        texts: of each text, its pieces in order.
        image: a small copy as a data URL; empty where there is none.
        name: of the image's file; empty of a text.
        further: name and value of further columns of the data.
        is_explained: whether marks say which words made the model predict so.
    """

    row: int
    label: str
    predicted: str
    loss: float
    probability: float | None
    true_probability: float | None
    texts: tuple[tuple[Piece, ...], ...]
    image: str
    name: str
    further: tuple[tuple[str, str], ...]
    is_explained: bool = False


def is_wrong(evaluated: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Whether any label of a row was predicted wrong `[rows]`."""
    pairs = zip(evaluated["label"], evaluated["predicted"], strict=True)
    return np.array([list(np.atleast_1d(a)) != list(np.atleast_1d(b)) for a, b in pairs], bool)


def shown_mistakes(evaluated: pd.DataFrame, worst: Sequence[evaluation.Mistake], source: Path) -> list[Mistake]:
    """The mistakes that evaluate picked, with whole texts, images, and what else was kept of their rows.

    Args:
        evaluated: what evaluate kept of the split (`EvaluatedRows` or `EvaluatedTokens`).
        worst: the wrong rows with the largest loss, largest first.
        source: Parquet file of the split in the data set.
    """
    positions = np.array([mistake.position for mistake in worst], np.int64)
    present = pq.read_schema(source).names
    columns = [name for name in ("text", "text_pair", "tokens", "path", "image") if name in present]
    rows = pq.read_table(source, columns=columns).take(positions).to_pylist()
    kept = evaluated.set_index("position", drop=False).loc[positions].to_dict("records")
    return [_mistake(*one) for one in zip(worst, kept, rows, strict=True)]


def explained(mistakes: Sequence[Mistake], exported: Path) -> list[Mistake]:
    """Mistakes in texts, with the words marked that made the exported model predict what it did, or nearly kept it from it."""
    rows = [tuple("".join(piece.text for piece in text) for text in mistake.texts) for mistake in mistakes]
    found = word_importance(exported, rows, [mistake.predicted for mistake in mistakes], MAX_TEXT_CHARS)
    return [
        replace(mistake, texts=tuple(map(marked, row, spans)), is_explained=True)
        for mistake, row, spans in zip(mistakes, rows, found, strict=True)
    ]


def _mistake(mistake: evaluation.Mistake, evaluated: dict[Any, Any], row: dict[str, Any]) -> Mistake:
    texts: tuple[tuple[Piece, ...], ...] = tuple((Piece(row[name]),) for name in ("text", "text_pair") if row.get(name))
    label, predicted = mistake.label, mistake.predicted
    true_probability = image = name = None
    if isinstance(label, str) and isinstance(predicted, str):
        true_probability = evaluated.get(f"{PROBABILITY}{label}")
    else:
        texts, label, predicted = (tuple(_words(row["tokens"], label, predicted)),), "", ""
    if "path" in row:
        image, name = thumbnail(row.get("image") or row["path"]), _cut(Path(row["path"]).name, MAX_VALUE_CHARS)
    return Mistake(
        mistake.row,
        label,
        predicted,
        mistake.loss,
        mistake.probability,
        true_probability,
        texts,
        image or "",
        name or "",
        tuple(_further(evaluated)),
    )


def _further(evaluated: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    names = [name for name in evaluated if name not in OURS and not name.startswith(PROBABILITY)]
    for name in names[:MAX_FURTHER]:
        yield _cut(name, MAX_VALUE_CHARS), _cut("" if evaluated[name] is pd.NA else str(evaluated[name]), MAX_VALUE_CHARS)


def _words(tokens: Sequence[str], label: Sequence[str], predicted: Sequence[str]) -> Iterator[Piece]:
    """A sentence: every word that is wrong with both labels, and the words about it."""
    wrong = np.array([true != guess for true, guess in zip(label, predicted, strict=True)])
    shown = np.ones(len(tokens), bool)
    if len(tokens) > WHOLE_WORDS:
        near = np.convolve(wrong, np.ones(2 * NEAR_WORDS + 1), "same") > 0
        shown = near & (np.cumsum(near) <= 2 * WHOLE_WORDS)
    for position, word in enumerate(tokens):
        if shown[position]:
            is_entity = label[position] != "O" or wrong[position]
            note = f"{label[position]} → {predicted[position]}" if wrong[position] else label[position] if is_entity else ""
            yield Piece(
                _cut(word, MAX_WORD_CHARS), "wrong" if wrong[position] else "right" if is_entity else "", note, is_word=True
            )
        elif position == 0 or shown[position - 1]:
            yield Piece("…", is_word=True)


def marked(text: str, spans: Sequence[Span]) -> tuple[Piece, ...]:
    """A text in pieces: the spans with the most weight are marked, more strongly the nearer they are to the heaviest."""
    heaviest = sorted(spans, key=lambda span: -abs(span.weight))[:MAX_MARKS]
    pieces, end = [], 0
    for span in sorted((span for span in heaviest if abs(span.weight) >= LEAST_WEIGHT), key=lambda span: span.start):
        pieces += [Piece(text[end : span.start])] if span.start > end else []
        strength = max(1, math.ceil(3 * abs(span.weight / heaviest[0].weight)))
        factor = f"odds of the predicted label times {math.exp(-span.weight):.2f} without it"
        pieces.append(Piece(text[span.start : span.end], f"{'for' if span.weight > 0 else 'against'} s{strength}", factor))
        end = span.end
    rest = text[end:MAX_TEXT_CHARS] + ("…" if len(text) > MAX_TEXT_CHARS else "")
    return (*pieces, Piece(rest)) if rest else tuple(pieces)


def cut_texts(mistake: Mistake) -> Mistake:
    """The mistake with texts short enough to be shown."""
    if mistake.is_explained:
        return mistake
    return replace(mistake, texts=tuple(tuple(replace(one, text=_cut(one.text)) for one in text) for text in mistake.texts))


def thumbnail(source: bytes | str) -> str:
    """A small PNG of an image as a data URL; nothing when the file is no longer there."""
    from PIL import Image

    try:
        small = read_image(source, THUMBNAIL).colours
    except ImageError:
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    times = THUMBNAIL // max(small.size)  # whole times, so that the pixels of a tiny image are seen as they are
    small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    small.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _cut(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


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
        row_unit: what a row is, in the plural.
        label_unit: what has a label, in the plural: a row, or a word of it.
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
    row_unit: str
    label_unit: str
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
    def has_labelled_parts(self) -> bool:
        """Whether parts of a row, its words, have a label each."""
        return self.label_unit != self.row_unit

    @property
    def is_images(self) -> bool:
        """Whether its rows are images."""
        return any(mistake.name for mistake in self.mistakes)


def split_view(
    evaluated: pd.DataFrame, details: SplitDetails, metrics: Mapping[str, float], best: str, source: Path, task: TaskType
) -> SplitView:
    """What the page shows of a split.

    Args:
        evaluated: what evaluate kept of it (`EvaluatedRows` or `EvaluatedTokens`).
        details: what evaluate found of it.
        metrics: of the split.
        best: the metric that picked the weights.
        source: Parquet file of the split in the data set, whose name is the split's.
        task: the task type.
    """
    calibration, confusion = details.calibration, details.confusion
    labels, counts = confusion.labels or [], confusion.counts or []
    few = len(labels) <= MAX_MATRIX_LABELS
    return SplitView(
        name=source.stem,
        rows=len(evaluated),
        wrong=int(is_wrong(evaluated).sum()),
        row_unit=task.row_unit,
        label_unit=task.label_unit,
        scores=[score_table(section) for section in task.score_sections(details)],
        top=[Top(k, share, details.intervals.get(f"top_{k}_accuracy")) for k, share in details.top_k.items()],
        labels=[cut_label(label) for label in labels] if few else [],
        matrix=_matrix(counts, labels) if few else [],
        pairs=confusion.pairs[:MAX_PAIRS],
        more_pairs=max(0, len(confusion.pairs) - MAX_PAIRS) + confusion.left_out,
        calibration=calibration_chart(calibration, task.label_unit),
        ece=None if calibration is None else calibration.ece,
        ece_interval=details.intervals.get("ece"),
        slices=slice_tables(details, metrics, best, task),
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
