"""A million text rows held to their contract, against the same checks written directly in numpy and pandas."""

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera
import pyarrow as arrow

from hubflow.data.quarantine import partition_rows
from hubflow.data.readers.chunks import CHUNK_ROWS
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.rows import TextRows, row_schema, validate_rows

LABELS = LabelMap(labels=tuple(f"class {number}" for number in range(10)))
GOAL = 2.0


def main() -> None:
    """Time each way in turn, so that a busy machine slows both, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = text_rows(options.rows)
    chunks = in_chunks(rows)
    schema = row_schema(TextRows, LABELS)
    ways: dict[str, Callable[[], int]] = {
        "direct, whole": lambda: int(direct(rows).sum()),
        "validate_rows, whole": lambda: len(validate_rows(rows, TextRows, "rows", LABELS)),
        f"direct, chunks of {CHUNK_ROWS}": lambda: sum(int(direct(chunk).sum()) for chunk in chunks),
        f"load_dataset's, chunks of {CHUNK_ROWS}": lambda: sum(
            len(partition_rows(chunk, schema, TextRows, LABELS, "rows").accepted) for chunk in chunks
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            assert way() == options.rows, name
            seconds[name].append(time.perf_counter() - began)
    print(versions())
    print(f"{options.rows:,} rows, {options.rounds} rounds in turn; median seconds (least, most)")
    for name, taken in seconds.items():
        print(f"  {name:38} {statistics.median(taken):7.3f} ({min(taken):.3f}, {max(taken):.3f})")
    names = list(ways)
    for ours, theirs in ((names[1], names[0]), (names[3], names[2])):
        ratios = [mine / other for mine, other in zip(seconds[ours], seconds[theirs], strict=True)]
        median = statistics.median(seconds[ours]) / statistics.median(seconds[theirs])
        print(f"  {ours} / {theirs}: {median:.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}; goal {GOAL})")


def text_rows(size: int) -> pd.DataFrame:
    """Rows that keep `TextRows`, of about 60 characters each, as a reader gives them."""
    draw = random.Random(0)  # noqa: S311
    texts = ["".join(draw.choices("abcdefghij klmnopqrst uvwxyzé", k=draw.randint(20, 100))) for _ in range(10_000)]
    return pd.DataFrame(
        {
            "row": np.arange(1, size + 1, dtype=np.int64),
            "text": pd.Series([f"{texts[place % len(texts)]} {place}" for place in range(size)], dtype="str"),
            "label": pd.Series([LABELS.labels[place % len(LABELS.labels)] for place in range(size)], dtype="str"),
        }
    )


def in_chunks(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows in the chunks that load_dataset reads."""
    return [rows.iloc[start : start + CHUNK_ROWS].reset_index(drop=True) for start in range(0, len(rows), CHUNK_ROWS)]


def direct(rows: pd.DataFrame) -> "np.ndarray[Any, Any]":
    """Whether each row keeps what `TextRows` and the label map ask for: types, no missing value, and each check."""
    assert rows["row"].dtype == np.int64
    assert rows["text"].dtype == "str"
    assert rows["label"].dtype == "str"
    good = rows["row"].to_numpy() >= 1
    good &= rows["text"].notna().to_numpy() & rows["label"].notna().to_numpy()
    good &= (rows["text"].str.strip() != "").to_numpy()
    good &= (rows["label"].str.strip() != "").to_numpy()
    good &= rows["label"].isin(list(LABELS.labels)).to_numpy()
    return good


def versions() -> str:
    """What the figures hold for."""
    model = next((line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")), platform.machine())
    libraries = f"pandas {pd.__version__}, pandera {pandera.__version__}, numpy {np.__version__}, pyarrow {arrow.__version__}"
    return f"Python {platform.python_version()}, {libraries}; {model}, {os.cpu_count()} cores"


def cpu_lines() -> list[str]:
    """What Linux says of the processor."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


if __name__ == "__main__":
    main()
