"""Files to a predictions file with onnxruntime, as a user would write it: plainly, or with the care that pays."""

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as arrow
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer

BATCH = 64


def main() -> None:
    """Predict, and print what it took as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("onnx")
    parser.add_argument("export", help="hubflow's export: its tokenizer, labels and image size are used")
    parser.add_argument("data")
    parser.add_argument("output")
    parser.add_argument("--careful", action="store_true", help="batches of like length; images drafted, and decoded by threads")
    options = parser.parse_args()
    began = time.perf_counter()
    folder = Path(options.export)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(options.onnx, settings, providers=["CPUExecutionProvider"])
    signature = json.loads((folder / "signature.json").read_text())
    labels = json.loads((folder / "label_map.json").read_text())
    work = texts if "text" in signature else images
    columns, scores = work(session, folder, signature, Path(options.data), options.careful)
    names = labels["labels"] if isinstance(labels, dict) else labels
    table = arrow.table(
        {
            **columns,
            "predicted": [names[best] for best in scores.argmax(1)],
            "probability": scores.max(1),
            **{f"probability_{name}": scores[:, place] for place, name in enumerate(names)},
        }
    )
    parquet.write_table(table, options.output)
    figures = {"seconds": time.perf_counter() - began, "rows": len(scores), "version": onnxruntime.__version__}
    print(json.dumps(figures))


def texts(session: Any, folder: Path, signature: dict[str, Any], data: Path, careful: bool) -> tuple[dict[str, Any], Any]:
    """Columns of the data, and probabilities `[rows, classes]`."""
    with data.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(signature["text"]["max_seq_len"])
    ids = [one.ids for one in tokenizer.encode_batch([row["text"] for row in rows])]
    order = np.argsort([-len(one) for one in ids], kind="stable") if careful else np.arange(len(ids))
    scores: Any = None
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        length = max(len(ids[row]) for row in batch)
        tokens = np.full((len(batch), length), signature["text"]["pad_token_id"], np.int64)
        mask = np.zeros_like(tokens)
        for place, row in enumerate(batch):
            tokens[place, : len(ids[row])] = ids[row]
            mask[place, : len(ids[row])] = 1
        feed = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        (found,) = session.run(None, feed)
        scores = np.zeros((len(ids), found.shape[1]), np.float32) if scores is None else scores
        scores[batch] = found
    return {name: [row[name] for row in rows] for name in rows[0]}, scores


def images(session: Any, folder: Path, signature: dict[str, Any], data: Path, careful: bool) -> tuple[dict[str, Any], Any]:
    """Paths, and probabilities `[rows, classes]`; preprocessing as the export's."""
    spec = signature["image"]
    mean, std = (np.array(spec[name], np.float32)[:, None, None] for name in ("mean", "std"))
    paths = sorted(path for path in data.rglob("*") if path.is_file())

    def decode(path: Path) -> Any:
        size = spec["image_size"]
        with Image.open(path) as image:
            if careful:
                image.draft("RGB", (size, size))
            scale = size / min(image.size)
            sides = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
            resized = image.convert("RGB").resize(sides, Image.Resampling.BILINEAR)
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        pixels = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32).transpose(2, 0, 1)
        return (pixels / 255 - mean) / std

    def decoded() -> Iterator[list[Any]]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for start in range(0, len(paths), BATCH):
                part = paths[start : start + BATCH]
                yield list(pool.map(decode, part) if careful else map(decode, part))

    scores = [session.run(None, {"image": np.stack(batch)})[0] for batch in decoded()]
    return {"path": [str(path) for path in paths]}, np.concatenate(scores)


if __name__ == "__main__":
    main()
