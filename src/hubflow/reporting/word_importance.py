"""Which words of a text made the model say what it said: what the odds of that are without them. Must not import Prefect."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hubflow.workers.processes import run

if TYPE_CHECKING:
    from hubflow.inference.predictor import Predictor

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
    found = run("hubflow.reporting.word_importance:word_importances_in_worker", request)
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
    for field, one in enumerate(spans):
        for start, end in one:
            text = row[field]
            yield _input((*row[:field], f"{text[:start]} {text[end:]}", *row[field + 1 :]))


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
    for place in range(0, len(units), each):
        part = units[place : place + each]
        yield part[0][0], part[-1][1]
