"""Encoded rows: memory-mapped Arrow files of model inputs, and the padded batches made from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hubflow.errors import StoreError
from hubflow.modules.inputs import Feed, normalised, pad_text
from hubflow.runtime.memory import raise_lack_of_memory
from hubflow.schemas.labels import IGNORED_LABEL

ROWS_PER_CHUNK = 4096
IntArray = NDArray[np.int64]


class EncodedSplit(Protocol):
    """Rows of one split, ready to be batched."""

    @property
    def lengths(self) -> IntArray:
        """Cost of each row `[rows]`: tokens, or 1 for an image."""

    @property
    def rows(self) -> IntArray:
        """Row number of each row in its source file `[rows]`."""

    def feed(self, indices: IntArray, generator: np.random.Generator | None = None) -> Feed:
        """Inputs and labels of the rows `indices`, padded to the longest; `generator` augments (training only)."""

    def class_counts(self, num_classes: int) -> IntArray:
        """How many examples (words, for sequences) have each class `[classes]`."""

    def example_weights(self, class_weights: NDArray[np.float32] | None) -> NDArray[np.float64]:
        """By how much each row counts in the loss `[rows]`: the sum of its examples' class weights, or their number."""

    def __len__(self) -> int:
        """Number of rows."""


class ListColumn:
    """A list column of an Arrow table whose chunks all have ROWS_PER_CHUNK rows but the last: rows without a copy."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._values = [chunk.values.to_numpy() for chunk in column.chunks]
        self._offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]

    def __getitem__(self, index: int) -> NDArray[Any]:
        chunk, row = divmod(index, ROWS_PER_CHUNK)
        offsets = self._offsets[chunk]
        return self._values[chunk][offsets[row] : offsets[row + 1]]  # type: ignore[no-any-return]

    def values(self) -> NDArray[Any]:
        """All lists, one after the other."""
        parts = [values[offsets[0] : offsets[-1]] for values, offsets in zip(self._values, self._offsets, strict=True)]
        return np.concatenate(parts or [np.zeros(0, np.int64)])

    def lengths(self) -> IntArray:
        """Length of each row's list."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets] or [np.zeros(0)]).astype(np.int64)


@dataclass(frozen=True)
class TextSplit:
    """Token ids by row; `label` `[rows]` for classification, word labels and each word's first piece for sequences."""

    rows: IntArray
    lengths: IntArray
    pad_id: int
    input_ids: ListColumn
    segment_ids: ListColumn
    label: IntArray | None
    word_labels: ListColumn | None
    first_piece: ListColumn | None

    def __len__(self) -> int:
        return len(self.rows)

    def feed(self, indices: IntArray, generator: np.random.Generator | None = None) -> Feed:
        """Padded ids, mask and labels of the rows `indices`."""
        ids = [self.input_ids[index] for index in indices]
        feed = pad_text(ids, [self.segment_ids[index] for index in indices], self.pad_id)
        if self.label is not None:
            feed["label"] = self.label[indices]
        elif self.word_labels is not None:
            feed["label"] = self._token_labels(indices, feed["input_ids"].shape)
            feed["seq_len"] = self.lengths[indices]
        return feed

    def class_counts(self, num_classes: int) -> IntArray:
        """How many rows, or words that have a piece, have each class `[classes]`."""
        return np.bincount(self._examples()[1], minlength=num_classes)

    def example_weights(self, class_weights: NDArray[np.float32] | None) -> NDArray[np.float64]:
        """Sum over each row's examples `[rows]`: of their class weights, or 1 each."""
        rows, labels = self._examples()
        weights = None if class_weights is None else class_weights[labels].astype(np.float64)
        return np.bincount(rows, weights, len(self)).astype(np.float64)

    def _examples(self) -> tuple[IntArray, IntArray]:
        """Row and class of every example: of rows, or of words that have a piece."""
        if self.word_labels is None or self.first_piece is None:
            assert self.label is not None
            return np.arange(len(self)), self.label
        kept = self.first_piece.values() >= 0
        return np.repeat(np.arange(len(self)), self.first_piece.lengths())[kept], self.word_labels.values()[kept]

    def _token_labels(self, indices: IntArray, shape: tuple[int, ...]) -> IntArray:
        assert self.word_labels is not None
        assert self.first_piece is not None
        labels = np.full(shape, IGNORED_LABEL, np.int64)
        for position, index in enumerate(indices):
            pieces, words = self.first_piece[index], self.word_labels[index]
            kept = pieces >= 0
            labels[position, pieces[kept]] = words[kept]
        return labels


@dataclass(frozen=True)
class ImageSplit:
    """Pixels `[3, size, size]` uint8 by row, normalised batch by batch; `positions` are those in the data set's file."""

    rows: IntArray
    label: IntArray | None
    chunks: Sequence[NDArray[np.uint8]]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    random_flip: bool = False
    positions: IntArray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> IntArray:
        """1 for every image: all cost the same."""
        return np.ones(len(self.rows), np.int64)

    def class_counts(self, num_classes: int) -> IntArray:
        """How many images have each class `[classes]`."""
        assert self.label is not None
        return np.bincount(self.label, minlength=num_classes)

    def example_weights(self, class_weights: NDArray[np.float32] | None) -> NDArray[np.float64]:
        """Class weight of each row `[rows]`, or 1."""
        assert self.label is not None
        return np.ones(len(self)) if class_weights is None else class_weights[self.label].astype(np.float64)

    def feed(self, indices: IntArray, generator: np.random.Generator | None = None) -> Feed:
        """Normalised images `[batch, 3, size, size]` float32 and labels."""
        pixels = np.stack([self.chunks[index // ROWS_PER_CHUNK][index % ROWS_PER_CHUNK] for index in indices])
        if generator is not None and self.random_flip:
            mirrored = generator.random(len(indices)) < 0.5  # noqa: PLR2004
            pixels[mirrored] = pixels[mirrored][..., ::-1]
        feed: Feed = {"image": normalised(pixels, self.mean, self.std)}
        if self.label is not None:
            feed["label"] = self.label[indices]
        return feed


def open_text(path: Path, pad_id: int) -> TextSplit:
    """Map the Arrow file of a text split into memory."""
    table = _open(path)
    names = table.column_names
    input_ids = ListColumn(table["input_ids"])
    return TextSplit(
        rows=table["row"].to_numpy(),
        lengths=input_ids.lengths(),
        pad_id=pad_id,
        input_ids=input_ids,
        segment_ids=ListColumn(table["segment_ids"]),
        label=table["label"].to_numpy() if "label" in names else None,
        word_labels=ListColumn(table["word_labels"]) if "word_labels" in names else None,
        first_piece=ListColumn(table["first_piece"]) if "first_piece" in names else None,
    )


def open_images(path: Path, mean: Sequence[float], std: Sequence[float], random_flip: bool = False) -> ImageSplit:
    """Map the Arrow file of an image split into memory."""
    table = _open(path)
    column = table["pixels"]
    side = round((column.type.list_size / 3) ** 0.5)
    chunks = [chunk.values.to_numpy().reshape(len(chunk), 3, side, side) for chunk in column.chunks]
    label = table["label"].to_numpy() if "label" in table.column_names else None
    positions = table["position"].to_numpy() if "position" in table.column_names else None
    scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return ImageSplit(table["row"].to_numpy(), label, chunks, *scale, random_flip, positions)


def epoch_batches(
    lengths: IntArray, batch_size: int, seed: int, epoch: int, by_tokens: bool = False, window: int = 50
) -> list[IntArray]:
    """Row indices of every batch of one epoch: each row once, shuffled; rows of like length share a batch.

    Rows are shuffled, then sorted by length inside windows of `window` batches, and the batches shuffled again. A pure
    function of its arguments, so that any position of an epoch can be found again.

    Args:
        lengths: cost of each row `[rows]`.
        batch_size: rows of a batch.
        seed: of the run.
        epoch: counted from 0.
        by_tokens: cut windows into batches of about as many tokens, `batch_size` rows on average: a loss that is a mean over
            tokens would otherwise weigh those of short rows many times as much as those of long ones.
        window: batches that are sorted together.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    span = window * batch_size
    batches: list[IntArray] = []
    for start in range(0, len(order), span):
        part = order[start : start + span]
        part = part[np.argsort(lengths[part], kind="stable")]
        count = -(-len(part) // batch_size)
        cuts = _even_cuts(lengths[part], count) if by_tokens else np.arange(1, count) * batch_size
        batches += np.split(part, cuts)
    return [batches[position] for position in generator.permutation(len(batches))]


def _even_cuts(lengths: IntArray, count: int) -> IntArray:
    """Where to cut rows into `count` runs of about the same sum of lengths, none of them empty."""
    sums = np.cumsum(lengths)
    cuts = np.searchsorted(sums, sums[-1] * np.arange(1, count) / count) + 1
    places = np.arange(1, count)
    cuts = np.maximum.accumulate(np.maximum(cuts, places) - places) + places
    bounded: IntArray = np.minimum(cuts, len(lengths) - count + places)
    return bounded


def sorted_batches(lengths: IntArray, batch_size: int) -> Iterator[IntArray]:
    """Row indices of batches for evaluation: every row once, longest first."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _open(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise_lack_of_memory(error)
        raise StoreError(f"{path}: no encoded rows that can be read ({error}); encode them again") from error
