"""Encoding: rows to the Arrow files that training reads, chunk by chunk in bounded memory. Must not import Paddle."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hubflow.schemas.encoded import check_encoded_text
from hubflow.schemas.labels import LabelMap
from hubflow.stages.hub.encoded import ROWS_PER_CHUNK
from hubflow.stages.hub.images import load_all_pixels
from hubflow.stages.hub.tokenizer import encode_texts, encode_words, load_tokenizer, pad_token_id

OnRows = Callable[[int], None]


@dataclass
class EncodeContext:
    """What encoding needs beside the rows; counts what it cut off."""

    rows_kind: str
    label_map: LabelMap
    module_folder: Path
    max_seq_len: int
    image_size: int
    truncated: dict[str, int] = field(default_factory=dict)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The module's own tokenizer."""
        return load_tokenizer(self.module_folder)

    @cached_property
    def class_ids(self) -> dict[str, int]:
        """Class id by label."""
        return self.label_map.index()

    def facts(self) -> dict[str, Any]:
        """What the encoded folder's manifest keeps: the padding id, and rows at the length limit by split."""
        if self.rows_kind == "image":
            return {}
        return {"pad_token_id": pad_token_id(self.tokenizer), "rows_at_max_seq_len": self.truncated}


def encode_text_rows(source: pq.ParquetFile, target: Path, context: EncodeContext, on_rows: OnRows) -> None:
    """Write texts, or pairs, as `row, input_ids, segment_ids, label`."""

    def encode(columns: dict[str, list[Any]]) -> pa.RecordBatch:
        ids, segments = encode_texts(context.tokenizer, columns["text"], columns.get("text_pair"), context.max_seq_len)
        labels = pa.array([context.class_ids[label] for label in columns["label"]], pa.int64())
        return _batch(columns, target, context, ids, {"segment_ids": _lists(segments, pa.int8()), "label": labels})

    _write(source, target, ["row", "text", "text_pair", "label"], encode, on_rows)


def encode_token_rows(source: pq.ParquetFile, target: Path, context: EncodeContext, on_rows: OnRows) -> None:
    """Write words as `row, input_ids, segment_ids, word_labels, first_piece` (-1: cut off by max_seq_len)."""

    def encode(columns: dict[str, list[Any]]) -> pa.RecordBatch:
        words = encode_words(context.tokenizer, columns["tokens"], context.max_seq_len)
        labels = [[context.class_ids[label] for label in row] for row in columns["labels"]]
        extra = {
            "segment_ids": _lists([np.zeros_like(row) for row in words.input_ids], pa.int8()),
            "word_labels": pa.array(labels, pa.list_(pa.int64())),
            "first_piece": _lists(words.first_piece, pa.int32()),
        }
        return _batch(columns, target, context, words.input_ids, extra)

    _write(source, target, ["row", "tokens", "labels"], encode, on_rows)


def encode_image_rows(source: pq.ParquetFile, target: Path, context: EncodeContext, on_rows: OnRows) -> None:
    """Write images as `row, pixels [3 * size * size] uint8, label`, every image decoded once."""
    size = context.image_size

    def encode(columns: dict[str, list[Any]]) -> pa.RecordBatch:
        sources = columns.get("image") or columns["path"]
        items = list(zip(sources, columns["path"], strict=True))
        pixels = load_all_pixels(items, size)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 3 * size * size)
        labels = pa.array([context.class_ids[label] for label in columns["label"]], pa.int64())
        return pa.record_batch({"row": pa.array(columns["row"], pa.int64()), "pixels": flat, "label": labels})

    _write(source, target, ["row", "path", "image", "label"], encode, on_rows)


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
    full = sum(len(row) >= context.max_seq_len for row in ids)
    context.truncated[target.stem] = context.truncated.get(target.stem, 0) + full
    batch = pa.record_batch({"row": pa.array(columns["row"], pa.int64()), "input_ids": _lists(ids, pa.int32()), **extra})
    check_encoded_text(
        batch, context.tokenizer.get_vocab_size(), context.max_seq_len, context.label_map.num_classes, target.stem
    )
    return batch


def _lists(rows: list[NDArray[Any]], kind: pa.DataType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(rows)).cast(kind))
