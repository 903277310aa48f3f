"""Loading needs no more memory for a larger file, rows that are quarantined included."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hubflow.data.splits import sample_mask, split_masks

pytestmark = pytest.mark.slow

LOAD = """
import resource, sys
from hubflow.schemas.settings import DatasetSpec
from hubflow.stages.load_dataset import load_dataset
spec = DatasetSpec(format="csv", train=sys.argv[1], max_invalid_fraction=0.1)
print(sum(load_dataset.fn(spec, "text_classification", sys.argv[2]).rows.values()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, megabytes: int) -> tuple[int, int]:
    """Rows that are kept of a CSV of so many megabytes, and the peak memory of loading it."""
    source, text = folder / f"{megabytes}.csv", "a long review of a small thing; " * 60
    with source.open("w", encoding="utf-8") as stream:
        stream.write("text,label\n")
        for start in range(0, megabytes * 500, 1_000):
            stream.writelines(f"{text}{row},{'' if row % 50 == 0 else row % 3}\n" for row in range(start, start + 1_000))
    command = [sys.executable, "-c", LOAD, str(source), str(folder / f"store-{megabytes}")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    source.unlink()
    rows, memory = map(int, done.stdout.split())
    return rows, memory


@pytest.mark.soak
def test_ten_times_the_file_takes_about_the_same_memory(tmp_path: Path) -> None:
    small, large = peak(tmp_path, 20), peak(tmp_path, 200)
    assert (small[0], large[0]) == (9_800, 98_000)
    assert large[1] / small[1] <= 1.3, f"{small[1]} and {large[1]} kB"


@pytest.mark.soak
def test_splits_of_25_million_rows_need_little_more_than_their_masks() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    classes = np.zeros(25_000_000, dtype=np.uint8)
    classes[::7] = 1
    tracemalloc.start()
    parts = split_masks(classes, {"dev": 0.1}, seed=0)
    sample = sample_mask(classes, parts["train"], 1_000_000, seed=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (parts["dev"].sum(), sample.sum()) == (2_500_000, 1_000_000)
    assert most < 200e6
