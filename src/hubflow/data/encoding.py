"""Encoding: rows to the Arrow files that training reads, chunk by chunk in bounded memory."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hubflow.data.duplicates import MAX_EXAMPLES, SPLITS, nearest
from hubflow.data.encoded import ROWS_PER_CHUNK
from hubflow.errors import ImageError
from hubflow.metrics.sequence_labelling import TagReader
from hubflow.modules.images import CHANGES, DecodedImage, ImageRules, decode_image
from hubflow.modules.tokenizer import encode_texts, encode_words, full_lengths, load_tokenizer, pad_token_id
from hubflow.runtime.threads import SMALL, thread_map, usable_cores
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import Finding, Split
from hubflow.schemas.rows import check_encoded_text

IMAGES_FILE = "{split}.images.parquet"
"""Facts of the encoded images of a split: see `IMAGE_FACTS`."""
IMAGE_FACTS = pa.schema(
    {
        "position": pa.int64(),  # in the data set's Parquet file, from 0
        "row": pa.int64(),  # in the source
        "sha256": pa.string(),
        "width": pa.int32(),  # of the file, before resizing
        "height": pa.int32(),
        "phash": pa.uint64(),
        "mean_r": pa.float32(),  # of the pixels that the model sees, 0..1
        "mean_g": pa.float32(),
        "mean_b": pa.float32(),
        "changes": pa.list_(pa.string()),  # of `hubflow.modules.images.CHANGES`
    }
)
_COLUMNS = ("row", "path", "image", "label", "sha256")


@dataclass(frozen=True)
class BadImage:
    """An image that does not decode."""

    position: int
    row: int
    path: str
    label: str
    error: str


def encode_images(
    source: pq.ParquetFile,
    target: Path,
    class_ids: Mapping[str, int],
    size: int,
    rules: ImageRules,
    on_rows: Callable[[int], None],
) -> tuple[list[BadImage], dict[str, int]]:
    """Write images as `row, position, pixels [3 * size * size] uint8, label`, and their facts beside them.

    `position` counts the rows of `source` from 0: rows whose image does not decode are left out. A chunk of pixels is in
    memory at a time.

    Returns:
        The images that do not decode, and how many of the others each of `CHANGES` was made to.
    """
    bad: list[BadImage] = []
    changes: Counter[str] = Counter()
    writer = _Writer(target, size, class_ids, min(ROWS_PER_CHUNK, source.metadata.num_rows))
    for row in _rows(source, size, rules):
        decoded = row.pop("decoded")
        if isinstance(decoded, ImageError):
            bad.append(BadImage(row["position"], row["row"], row["path"], row["label"], str(decoded)))
        else:
            writer.add(row, decoded)
            changes.update(decoded.changes)
        on_rows(1)
    writer.close()
    return bad, {name: changes[name] for name in CHANGES if changes[name]}


def _rows(source: pq.ParquetFile, size: int, rules: ImageRules) -> Iterator[dict[str, Any]]:
    """Every row, in order, with its `position` and its image `decoded`, or the error of it."""

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        image = row.pop("image", None)
        try:
            decoded: DecodedImage | ImageError = decode_image(image or row["path"], size, row["path"], rules)
        except ImageError as error:
            decoded = error
        return {**row, "decoded": decoded}

    position = 0
    for batch in source.iter_batches(ROWS_PER_CHUNK, columns=[name for name in _COLUMNS if name in source.schema_arrow.names]):
        rows = [{"position": number, **row} for number, row in enumerate(batch.to_pylist(), start=position)]
        position += len(rows)
        yield from thread_map(decode, rows, usable_cores(), ahead=2 * SMALL * usable_cores(), at_once=SMALL)


class _Writer:
    """Fills one chunk of pixels at a time; every chunk but the last has ROWS_PER_CHUNK rows."""

    def __init__(self, target: Path, size: int, class_ids: Mapping[str, int], capacity: int) -> None:
        self._size, self._class_ids = size, class_ids
        self._pixels: NDArray[np.uint8] = np.empty((capacity, 3, size, size), np.uint8)
        self._rows: list[dict[str, Any]] = []
        kinds = {
            "row": pa.int64(),
            "position": pa.int64(),
            "pixels": pa.list_(pa.uint8(), 3 * size * size),
            "label": pa.int64(),
        }
        self._writer = pa.ipc.new_file(str(target), pa.schema(kinds))
        self._facts = pq.ParquetWriter(target.with_name(IMAGES_FILE.format(split=target.stem)), IMAGE_FACTS)

    def add(self, row: dict[str, Any], decoded: DecodedImage) -> None:
        """Take the next row."""
        self._pixels[len(self._rows)] = decoded.pixels
        means = decoded.pixels.reshape(3, -1).mean(1) / 255
        known = {"width": decoded.width, "height": decoded.height, "phash": decoded.phash, "changes": decoded.changes}
        self._rows.append({**row, **known, **dict(zip(("mean_r", "mean_g", "mean_b"), means.tolist(), strict=True))})
        if len(self._rows) == len(self._pixels):
            self._flush()

    def close(self) -> None:
        """Write what waits, and the ends of the files."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._facts.close()

    def _flush(self) -> None:
        flat = pa.array(self._pixels[: len(self._rows)].reshape(-1))
        pixels = pa.FixedSizeListArray.from_arrays(flat, 3 * self._size * self._size)
        columns = {name: pa.array([row[name] for row in self._rows], pa.int64()) for name in ("row", "position")}
        labels = pa.array([self._class_ids[row["label"]] for row in self._rows], pa.int64())
        self._writer.write_batch(pa.record_batch({**columns, "pixels": pixels, "label": labels}))
        self._facts.write_table(pa.Table.from_pylist(self._rows, IMAGE_FACTS))
        self._rows = []


Integers = NDArray[np.int64]
MAX_ROWS_NAMED = 10
_EXACT_BITS = 4  # lengths below 2**4 have a bin of their own, those above 8 bins for each doubling


@dataclass
class Lost:
    """How many of how many were lost, and the numbers of the first rows that it befell."""

    count: int = 0
    of: int = 0
    first_rows: list[int] = field(default_factory=list)

    def add(self, lost: Integers, of: int, rows: Integers) -> None:
        """Count what each of `rows` lost."""
        self.count, self.of = self.count + int(lost.sum()), self.of + of
        self.first_rows += rows[lost > 0][: MAX_ROWS_NAMED - len(self.first_rows)].tolist()

    def facts(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return {"count": self.count, "of": self.of, "first_rows": self.first_rows}


@dataclass
class SplitLengths:
    """Lengths of one split's rows in tokens before truncation, special ones included, and what truncation takes."""

    lengths: Counter[int] = field(default_factory=Counter)
    rows: Lost = field(default_factory=Lost)
    words: Lost = field(default_factory=Lost)
    entities: Lost = field(default_factory=Lost)

    def add(self, lengths: Integers, rows: Integers, max_seq_len: int) -> None:
        """Count rows by their full lengths."""
        values, counts = np.unique(lengths, return_counts=True)
        self.lengths.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self.rows.add((lengths > max_seq_len).astype(np.int64), len(rows), rows)

    def add_words(
        self,
        first_piece: Sequence[NDArray[Any]],
        labels: Sequence[Sequence[int]],
        reader: TagReader,
        cut: Integers,
        rows: Integers,
    ) -> None:
        """Count words and entities of all rows, and those that the rows at the positions `cut` lost."""
        sizes = np.array([len(row) for row in labels])
        starts = np.cumsum(sizes) - sizes
        found = reader.read(reader.flat(np.asarray(row, np.int64) for row in labels), "default")
        ends = np.zeros(int(sizes.sum()), bool)
        ends[found.last - np.searchsorted(starts + np.arange(len(sizes)), found.last, side="right") + 1] = True
        words, entities = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
        for row in cut:
            pieces = np.flatnonzero(first_piece[row] >= 0)
            kept = int(pieces[-1]) + 1 if len(pieces) else 0
            words[row] = sizes[row] - kept
            entities[row] = ends[starts[row] + kept : starts[row] + sizes[row]].sum()
        self.words.add(words, int(sizes.sum()), rows)
        self.entities.add(entities, int(ends.sum()), rows)

    def histogram(self) -> dict[str, list[int]]:
        """Rows by length: `rows[i]` have more than `up_to[i - 1]` and at most `up_to[i]` tokens."""
        bins: Counter[int] = Counter()
        for length, count in self.lengths.items():
            shift = max(0, length.bit_length() - _EXACT_BITS)
            bins[((length >> shift) + 1 << shift) - 1] += count
        return {"up_to": sorted(bins), "rows": [bins[end] for end in sorted(bins)]}

    def at(self, share: float) -> int:
        """The least length that so large a share of the rows does not exceed."""
        lengths = np.array(sorted(self.lengths))
        rows = np.cumsum([self.lengths[length] for length in lengths.tolist()])
        return int(lengths[np.searchsorted(rows, share * rows[-1])])


_STRUCTURE = 2  # a hash with fewer bits set is of an image of one colour, which looks like every other such image
_SMALLEST_SIDE = 32  # in pixels: of fewer there is too little to see, and hashes of different images are alike
_LOST = {
    "truncated_rows": ("truncated", "row(s)", "are cut by"),
    "lost_words": ("words_lost", "word(s)", "count as O, cut off by"),
    "lost_entities": ("entities_lost", "entities", "lose a word to"),
}


def encoding_findings(folder: Path, facts: Mapping[str, Any], checks: DataChecks) -> list[Finding]:
    """What is to be said of an encoded data set, from its folder and its manifest's facts alone."""
    splits = [split for split in SPLITS if (folder / f"{split}.arrow").is_file()]
    return [*_lost(facts, checks), *_left_out(facts), *_near_duplicates(folder, splits, checks)]


def _lost(facts: Mapping[str, Any], checks: DataChecks) -> Iterator[Finding]:
    for check, (fact, unit, verb) in _LOST.items():
        policy = getattr(checks, check)
        limit = checks.max_truncated_fraction if check == "truncated_rows" else checks.max_lost_fraction
        for split, lost in facts.get(fact, {}).items():
            if policy == "ignore" or lost["count"] <= limit * lost["of"]:
                continue
            lengths = facts["lengths"][split]
            share = lost["count"] / lost["of"]
            named = [str(row) for row in lost["first_rows"]]
            rows = ", ".join(named[:MAX_EXAMPLES]) + (", …" if len(named) > MAX_EXAMPLES else "")
            message = (
                f"{split}: {lost['count']} of {lost['of']} {unit} ({share:.2%}) {verb} max_seq_len {facts['max_seq_len']}, "
                f"expected at most {limit:.2%}; first rows {rows}; raise max_seq_len to {lengths['longest']} for every row, "
                f"or to {max(lengths['p99'], facts['max_seq_len'])} for 99% of them{_most(facts, lengths)}, or shorten the rows"
            )
            examples = tuple(f"row {row}" for row in lost["first_rows"][:MAX_EXAMPLES])
            yield Finding(check=check, policy=policy, splits=(split,), count=lost["count"], message=message, examples=examples)


def _most(facts: Mapping[str, Any], lengths: Mapping[str, int]) -> str:
    limit = facts["module"]["max_positions"]
    return f" (the module takes at most {limit})" if limit is not None and lengths["longest"] > limit else ""


def _left_out(facts: Mapping[str, Any]) -> Iterator[Finding]:
    for split, out in facts.get("left_out", {}).items():
        message = f"{split}: {out['count']} of {out['of']} image(s) do not decode and are left out; mend or remove them"
        yield Finding(
            check="max_invalid_fraction",
            policy="warn",
            splits=(split,),
            count=out["count"],
            message=message,
            examples=tuple(out["first"][:MAX_EXAMPLES]),
        )


def _near_duplicates(folder: Path, splits: Sequence[Split], checks: DataChecks) -> Iterator[Finding]:
    files = {split: folder / IMAGES_FILE.format(split=split) for split in splits}
    if checks.near_duplicate_images == "ignore" or not all(file.is_file() for file in files.values()):
        return
    images = {
        split: pd.read_parquet(file, columns=["row", "sha256", "phash", "width", "height"]) for split, file in files.items()
    }
    for one, other in combinations(splits, 2):
        found = _alike(images[one], images[other], checks.near_duplicate_distance)
        if found:
            message = (
                f"{len(found)} image(s) of {other} look like one of {one} though the files differ (perceptual hashes at most "
                f"{checks.near_duplicate_distance} of 64 bits apart); look at them, and remove them from one of the two"
            )
            examples = tuple(
                f"{one} row {row} ≈ {other} row {like} ({bits} bits apart)" for row, like, bits in found[:MAX_EXAMPLES]
            )
            policy, count = checks.near_duplicate_images, len(found)
            yield Finding(
                check="near_duplicate_images",
                policy=policy,
                splits=(one, other),
                count=count,
                message=message,
                examples=examples,
            )


def _has_detail(images: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether an image shows enough for its hash to tell it from others."""
    has_structure: NDArray[np.bool_] = np.bitwise_count(images["phash"].to_numpy(np.uint64)) >= _STRUCTURE
    large: NDArray[np.bool_] = images[["width", "height"]].min(axis=1).to_numpy() >= _SMALLEST_SIDE
    return large & has_structure


def _alike(known: pd.DataFrame, asked: pd.DataFrame, distance: int) -> list[tuple[int, int, int]]:
    """Rows of near-duplicates of `known` and `asked`, with their distance; files that are the same are reported elsewhere."""
    asked = asked[~asked["sha256"].isin(known["sha256"])]
    known, asked = known[_has_detail(known)], asked[_has_detail(asked)]
    if known.empty or asked.empty:
        return []
    position, bits = nearest(known["phash"].to_numpy(np.uint64), asked["phash"].to_numpy(np.uint64), distance)
    near = np.flatnonzero(position >= 0)
    ours, theirs = known["row"].to_numpy()[position[near]], asked["row"].to_numpy()[near]
    return list(zip(ours.tolist(), theirs.tolist(), bits[near].tolist(), strict=True))


OnRows = Callable[[int], None]


@dataclass
class EncodeContext:
    """What encoding needs beside the rows; keeps what it cut off, images that do not decode, and how many changed, by split."""

    rows_kind: str
    label_map: LabelMap
    module_folder: Path
    max_seq_len: int
    image_size: int
    image_rules: ImageRules = field(default_factory=ImageRules)
    lengths: dict[str, SplitLengths] = field(default_factory=dict)
    bad_images: dict[str, list[BadImage]] = field(default_factory=dict)
    image_changes: dict[str, dict[str, int]] = field(default_factory=dict)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The module's own tokenizer."""
        return load_tokenizer(self.module_folder)

    @cached_property
    def class_ids(self) -> dict[str, int]:
        """Class id by label."""
        return self.label_map.index()

    @cached_property
    def tag_reader(self) -> TagReader:
        """Finds entities, by the labels of the map."""
        return TagReader(self.label_map.labels, "IOB2", self.label_map.tagging)

    def facts(self) -> dict[str, Any]:
        """What the encoded folder's manifest keeps, by split: of images how many were changed; of texts the lengths and what
        max_seq_len cut off, with the padding id."""
        if self.rows_kind == "image":
            return {"image_changes": self.image_changes}
        facts: dict[str, Any] = {
            "pad_token_id": pad_token_id(self.tokenizer),
            "length_histogram": {split: one.histogram() for split, one in self.lengths.items()},
            "lengths": {split: {"p99": one.at(0.99), "longest": one.at(1.0)} for split, one in self.lengths.items()},
            "truncated": {split: one.rows.facts() for split, one in self.lengths.items()},
        }
        if self.rows_kind == "tokens":
            facts["words_lost"] = {split: one.words.facts() for split, one in self.lengths.items()}
            facts["entities_lost"] = {split: one.entities.facts() for split, one in self.lengths.items()}
        return facts


def encode_text_rows(source: pq.ParquetFile, target: Path, context: EncodeContext, on_rows: OnRows) -> None:
    """Write texts, or pairs, as `row, input_ids, segment_ids, label`."""

    def encode(columns: dict[str, list[Any]]) -> pa.RecordBatch:
        texts, pairs = columns["text"], columns.get("text_pair")
        ids, segments = encode_texts(context.tokenizer, texts, pairs, context.max_seq_len)
        _count_lengths(
            context, target.stem, columns["row"], ids, texts if pairs is None else list(zip(texts, pairs, strict=True))
        )
        labels = pa.array([context.class_ids[label] for label in columns["label"]], pa.int64())
        return _batch(columns, target, context, ids, {"segment_ids": _lists(segments, pa.int8()), "label": labels})

    _write(source, target, ["row", "text", "text_pair", "label"], encode, on_rows)


def encode_token_rows(source: pq.ParquetFile, target: Path, context: EncodeContext, on_rows: OnRows) -> None:
    """Write words as `row, input_ids, segment_ids, word_labels, first_piece` (-1: cut off by max_seq_len)."""

    def encode(columns: dict[str, list[Any]]) -> pa.RecordBatch:
        words = encode_words(context.tokenizer, columns["tokens"], context.max_seq_len)
        labels = [[context.class_ids[label] for label in row] for row in columns["labels"]]
        cut = _count_lengths(context, target.stem, columns["row"], words.input_ids, columns["tokens"])
        numbers = np.array(columns["row"], np.int64)
        context.lengths[target.stem].add_words(words.first_piece, labels, context.tag_reader, cut, numbers)
        extra = {
            "segment_ids": _lists([np.zeros_like(row) for row in words.input_ids], pa.int8()),
            "word_labels": pa.array(labels, pa.list_(pa.int64())),
            "first_piece": _lists(words.first_piece, pa.int32()),
        }
        return _batch(columns, target, context, words.input_ids, extra)

    _write(source, target, ["row", "tokens", "labels"], encode, on_rows)


def encode_image_rows(source: pq.ParquetFile, target: Path, context: EncodeContext, on_rows: OnRows) -> None:
    """Write images as `encode_images` does; those that do not decode are left out and kept in `context.bad_images`."""
    context.bad_images[target.stem], context.image_changes[target.stem] = encode_images(
        source, target, context.class_ids, context.image_size, context.image_rules, on_rows
    )


ENCODERS: dict[str, Callable[[pq.ParquetFile, Path, EncodeContext, OnRows], None]] = {
    "text": encode_text_rows,
    "text_pair": encode_text_rows,
    "tokens": encode_token_rows,
    "image": encode_image_rows,
}


def _write(
    source: pq.ParquetFile,
    target: Path,
    columns: list[str],
    encode: Callable[[dict[str, list[Any]]], pa.RecordBatch],
    on_rows: OnRows,
) -> None:
    """Encode `columns` (those that there are) chunk by chunk; every chunk but the last has ROWS_PER_CHUNK rows."""
    present = [name for name in columns if name in source.schema_arrow.names]
    writer = None
    for batch in _even_batches(source, present):
        encoded = encode(batch.to_pydict())
        writer = writer or pa.ipc.new_file(str(target), encoded.schema)
        writer.write_batch(encoded)
        on_rows(batch.num_rows)
    assert writer is not None, "a split has rows: load_dataset refuses empty ones"
    writer.close()


def _even_batches(source: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of exactly ROWS_PER_CHUNK rows, whatever the row groups, the last one smaller."""
    waiting = pa.table({})
    for batch in source.iter_batches(ROWS_PER_CHUNK, columns=columns):
        table = pa.Table.from_batches([batch])
        waiting = pa.concat_tables([waiting, table]) if waiting.num_columns else table
        while waiting.num_rows >= ROWS_PER_CHUNK:
            yield waiting.slice(0, ROWS_PER_CHUNK).combine_chunks().to_batches()[0]
            waiting = waiting.slice(ROWS_PER_CHUNK)
    if waiting.num_rows:
        yield waiting.combine_chunks().to_batches()[0]


def _batch(
    columns: dict[str, list[Any]], target: Path, context: EncodeContext, ids: list[NDArray[Any]], extra: dict[str, pa.Array]
) -> pa.RecordBatch:
    batch = pa.record_batch({"row": pa.array(columns["row"], pa.int64()), "input_ids": _lists(ids, pa.int32()), **extra})
    check_encoded_text(
        batch, context.tokenizer.get_vocab_size(), context.max_seq_len, context.label_map.num_classes, target.stem
    )
    return batch


def _count_lengths(
    context: EncodeContext, split: str, numbers: list[int], ids: list[NDArray[Any]], rows: Sequence[Any]
) -> NDArray[np.int64]:
    """Count the lengths that rows had before they were cut; gives the positions of those that were."""
    lengths = np.array([len(row) for row in ids], np.int64)
    full = np.flatnonzero(lengths >= context.max_seq_len)
    if len(full):  # only these can have been longer
        whole = full_lengths(
            context.tokenizer, [rows[position] for position in full.tolist()], words=context.rows_kind == "tokens"
        )
        lengths[full] = whole
    counted = context.lengths.setdefault(split, SplitLengths())
    counted.add(lengths, np.array(numbers, np.int64), context.max_seq_len)
    return np.flatnonzero(lengths > context.max_seq_len)


def _lists(rows: list[NDArray[Any]], kind: pa.DataType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(rows)).cast(kind))
