"""Encoding of images: each decoded once, in parallel, to pixels and to what is known of it. Must not import Paddle."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubflow.data.encoded import ROWS_PER_CHUNK
from hubflow.errors import ImageError
from hubflow.modules.images import CHANGES, DecodedImage, ImageRules, decode_image
from hubflow.runtime.cores import usable_cores
from hubflow.runtime.threads import SMALL, thread_map

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
        rows = [{"position": place, **row} for place, row in enumerate(batch.to_pylist(), start=position)]
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
