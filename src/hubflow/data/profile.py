"""Profile of a data set: rows, labels, lengths, kinds of characters, image sizes, in bounded memory. No Paddle, no Prefect."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import compute

from hubflow.schemas.findings import Finding
from hubflow.schemas.references import RowKind, Split

FORMAT_VERSION = 1
PIECE_BYTES = 4 << 20  # of text looked at in one go: what is made from it is a few times as large
CLASSES = ("letters", "digits", "punctuation", "white space", "CJK", "other")
SCALES: dict[str, NDArray[np.float64]] = {
    # Whole numbers up to 8, then four bins an octave, up to 64 M.
    "lengths": np.concatenate([np.arange(8.0), np.outer(2.0 ** np.arange(3, 26), [1, 1.25, 1.5, 1.75]).ravel()]),
    "unit": np.arange(32) / 32,
}
"""Lower edges of the bins of each scale; the last bin has no end."""
IMAGE_MEASURES = {"width": "lengths", "height": "lengths", "mean_r": "unit", "mean_g": "unit", "mean_b": "unit"}
"""Columns of an image frame that are profiled when they are there: pixels, and channel means in 0..1."""
_IMAGE_NAMES = {"width": "width", "height": "height", "mean_r": "mean red", "mean_g": "mean green", "mean_b": "mean blue"}
_CJK = ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3021, 0x302A), (0x3031, 0x3190), (0x31A0, 0x31C0), (0x31F0, 0x3200))
_CJK_BLOCKS = (*_CJK, (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0x20000, 0x32000))
_LAST_ASSIGNED = 0x32000  # beyond the ideographs of plane 3 there are tags and private characters only
_ASCII = bytes(range(128))


@dataclass
class Histogram:
    """Counts of values between the fixed lower edges of a scale; two of one scale are merged by adding."""

    scale: str
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.counts):
            self.counts = np.zeros(len(SCALES[self.scale]), np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count values."""
        places = np.searchsorted(SCALES[self.scale], values, side="right") - 1
        self.counts += np.bincount(np.maximum(places, 0), minlength=len(self.counts))

    def dump(self) -> dict[str, Any]:
        """The scale's name and the counts, without the empty ones at the end."""
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 0
        return {"scale": self.scale, "counts": self.counts[:used].tolist()}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> "Histogram":
        """What `dump` gave."""
        counts = np.zeros(len(SCALES[dumped["scale"]]), np.int64)
        counts[: len(dumped["counts"])] = dumped["counts"]
        return cls(dumped["scale"], counts)

    def quantile(self, share: float) -> float:
        """Lower edge of the bin below whose end `share` of the values lie; 0 without values."""
        total = self.counts.sum()
        place = int(np.searchsorted(np.cumsum(self.counts), share * total)) if total else 0
        return float(SCALES[self.scale][min(place, len(self.counts) - 1)])


@dataclass
class _SplitProfile:
    """What is counted of one split."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    characters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CLASSES), np.int64))

    def measure(self, name: str, scale: str, values: NDArray[Any]) -> None:
        self.histograms.setdefault(name, Histogram(scale)).add(values)

    def dump(self) -> dict[str, Any]:
        has_text = bool(self.characters.any())
        return {
            "rows": self.rows,
            "labels": dict(sorted(self.labels.items())),
            "histograms": {name: histogram.dump() for name, histogram in self.histograms.items()},
            "characters": dict(zip(CLASSES, self.characters.tolist(), strict=True)) if has_text else {},
        }


class Profiler:
    """An `Observer` that finds nothing, and counts what the next run is compared with.

    Args:
        kind: of the rows.
    """

    def __init__(self, kind: RowKind) -> None:
        self.kind = kind
        self._splits: dict[Split, _SplitProfile] = {}

    def add(self, split: Split, rows: pd.DataFrame) -> None:
        """Count a chunk of the rows of `split`; their order does not matter."""
        counted = self._splits.setdefault(split, _SplitProfile())
        counted.rows += len(rows)
        if self.kind == "tokens":
            self._add_tokens(counted, rows)
        else:
            for column in ("text", "text_pair") if self.kind == "text_pair" else ("text",) if self.kind == "text" else ():
                _add_texts(counted, rows[column], column)
            if "label" in rows:
                _count_labels(counted, _strings(rows["label"]))
        if self.kind == "image":
            _add_images(counted, rows)

    def findings(self) -> list[Finding]:
        """None: whether a profile is as it should be shows beside another one, in `hubflow.data.drift`."""
        return []

    def profile(self) -> dict[str, Any]:
        """What was counted, as JSON has it: by split `rows`, `labels`, `histograms` by name, and `characters` by kind."""
        splits = {split: counted.dump() for split, counted in self._splits.items()}
        return {"format_version": FORMAT_VERSION, "kind": self.kind, "splits": splits}

    def _add_tokens(self, counted: _SplitProfile, rows: pd.DataFrame) -> None:
        tokens = arrow.array(rows["tokens"], type=arrow.large_list(arrow.large_string()))
        counted.measure("tokens", "lengths", compute.list_value_length(tokens).to_numpy(zero_copy_only=False))
        for data, _ in _pieces(tokens.flatten()):
            counted.characters += _classes(data)
        if "labels" in rows:
            _count_labels(counted, arrow.array(rows["labels"], type=arrow.large_list(arrow.large_string())).flatten())


def image_profile(frames: Mapping[Split, pd.DataFrame]) -> dict[str, Any]:
    """Profile of images from a frame by split with `IMAGE_MEASURES`, a line for each image, and `label` where there is one."""
    profiler = Profiler("image")
    for split, frame in frames.items():
        profiler.add(split, frame)
    return profiler.profile()


def _add_images(counted: _SplitProfile, rows: pd.DataFrame) -> None:
    for name, scale in IMAGE_MEASURES.items():
        if name in rows:
            counted.measure(_IMAGE_NAMES[name], scale, rows[name].to_numpy(float))


def _add_texts(counted: _SplitProfile, values: "pd.Series[str]", name: str) -> None:
    texts = _strings(values)
    counted.measure(f"{name}, characters", "lengths", compute.utf8_length(texts).to_numpy(zero_copy_only=False))
    for data, offsets in _pieces(texts):
        counted.measure(f"{name}, words", "lengths", _words(data, offsets))
        counted.characters += _classes(data)


def _count_labels(counted: _SplitProfile, labels: arrow.Array) -> None:
    for pair in compute.value_counts(labels.drop_null()).to_pylist():
        counted.labels[pair["values"]] += pair["counts"]


def _strings(values: "pd.Series[Any]") -> arrow.Array:
    strings = arrow.array(values, type=arrow.large_string())
    whole = strings.combine_chunks() if isinstance(strings, arrow.ChunkedArray) else strings
    return compute.fill_null(whole, "")


def _pieces(texts: arrow.Array) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Texts as UTF-8 bytes, and where each begins and the last ends, at most about PIECE_BYTES at a time."""
    if not len(texts):
        return
    _, places, content = texts.buffers()
    offsets = np.frombuffer(places, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    start = 0
    while start < len(texts):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + PIECE_BYTES, side="right")) - 1)
        yield data[offsets[start] : offsets[end]], offsets[start : end + 1] - offsets[start]
        start = end


def _words(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of bytes between blanks, of each text; scripts without blanks have one word a text, or a sentence."""
    blank = data <= ord(" ")
    starts = ~blank
    starts[1:] &= blank[:-1]
    begins = offsets[:-1][offsets[:-1] < len(data)]
    starts[begins] = ~blank[begins]
    words: NDArray[np.int64] = np.diff(np.searchsorted(np.flatnonzero(starts), offsets))
    return words


def _classes(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many characters of UTF-8 `data` are of each of CLASSES."""
    table, content = _class_table(), data.tobytes()
    counts = _counts(np.frombuffer(content.translate(table[:256].tobytes()), np.uint8))
    further = content.translate(None, _ASCII)  # what is left of UTF-8 without its ASCII is UTF-8 again
    if further:
        # The table of bytes took each of these for the character of its number.
        counts -= _counts(np.frombuffer(further.translate(table[:256].tobytes()), np.uint8))
        counts += _counts(table[np.frombuffer(further.decode("utf-8").encode("utf-32-le"), np.uint32)])
    return counts


def _counts(classes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(classes == one) for one in range(len(CLASSES))], np.int64)


@functools.cache
def _class_table() -> NDArray[np.uint8]:
    """Index into CLASSES of every code point, by its Unicode category and the blocks of Chinese, Japanese and Korean."""
    kinds = {"L": 0, "M": 0, "N": 1, "P": 2, "Z": 3}
    table = np.full(0x110000, CLASSES.index("other"), np.uint8)
    categories = (unicodedata.category(chr(point))[0] for point in range(_LAST_ASSIGNED))
    table[:_LAST_ASSIGNED] = np.fromiter((kinds.get(category, 5) for category in categories), np.uint8, _LAST_ASSIGNED)
    table[[9, 10, 11, 12, 13]] = CLASSES.index("white space")
    for start, end in _CJK_BLOCKS:
        block = table[start:end]
        block[block != CLASSES.index("punctuation")] = CLASSES.index("CJK")
    return table
