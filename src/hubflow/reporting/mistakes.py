"""The rows that a model got most wrong, as a person looks at them: text marked, images small. Must not import Prefect."""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hubflow.errors import ImageError
from hubflow.modules.images import read_image
from hubflow.reporting.word_importance import Span, word_importance
from hubflow.schemas import evaluation
from hubflow.schemas.frames import PROBABILITY

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
    for place, word in enumerate(tokens):
        if shown[place]:
            is_entity = label[place] != "O" or wrong[place]
            note = f"{label[place]} → {predicted[place]}" if wrong[place] else label[place] if is_entity else ""
            yield Piece(
                _cut(word, MAX_WORD_CHARS), "wrong" if wrong[place] else "right" if is_entity else "", note, is_word=True
            )
        elif place == 0 or shown[place - 1]:
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
