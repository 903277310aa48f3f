"""Encoding: rows to the Arrow files that training reads, chunk by chunk in bounded memory. Must not import Paddle."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hubflow.data.encoded import ROWS_PER_CHUNK
from hubflow.data.encoding_images import BadImage, encode_images
from hubflow.data.truncation import SplitLengths
from hubflow.metrics.entities import TagReader
from hubflow.modules.images import ImageRules
from hubflow.modules.tokenizer import encode_texts, encode_words, full_lengths, load_tokenizer, pad_token_id
from hubflow.schemas.encoded import check_encoded_text
from hubflow.schemas.labels import LabelMap

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
        whole = full_lengths(context.tokenizer, [rows[place] for place in full.tolist()], words=context.rows_kind == "tokens")
        lengths[full] = whole
    counted = context.lengths.setdefault(split, SplitLengths())
    counted.add(lengths, np.array(numbers, np.int64), context.max_seq_len)
    return np.flatnonzero(lengths > context.max_seq_len)


def _lists(rows: list[NDArray[Any]], kind: pa.DataType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(rows)).cast(kind))
