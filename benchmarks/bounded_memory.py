"""Peak memory of loading a large CSV, with quarantine, split checks and profile; `--gigabytes 5` says how large."""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BAD_ROWS = 0.001
WORDS = 5_000
VARIANTS = 20_000


def main() -> None:
    """Write the file, load it in a child process, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", help="where the file and the store go; a temporary folder when not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder, "reviews.csv")
        rows = write_csv(source, int(options.gigabytes * 1e9))
        figures = load_in_child(source, Path(folder, "store"))
        print(json.dumps({"gigabytes": options.gigabytes, "rows": rows, **figures}, indent=1))


def write_csv(path: Path, size: int) -> int:
    """Write a CSV of about `size` bytes, one row in a thousand without a label, and return its number of rows."""
    draw = random.Random(0)  # noqa: S311
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(WORDS)]
    variants = [" ".join(draw.choices(words, k=30)) for _ in range(VARIANTS)]
    rows = 0
    with path.open("w", encoding="utf-8") as stream:
        stream.write("text,label,author\n")
        while stream.tell() < size:
            lines = []
            for _ in range(10_000):
                rows += 1
                label = "" if draw.random() < BAD_ROWS else f"class {draw.randrange(10)}"
                lines.append(f'"{variants[draw.randrange(VARIANTS)]}, {rows}",{label},author {draw.randrange(1_000_000)}\n')
            stream.write("".join(lines))
    return rows


def load_in_child(source: Path, store: Path) -> dict[str, Any]:
    """Seconds, and peak memory in megabytes, of loading `source` in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--child", str(source), str(store)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": round(time.perf_counter() - began, 1), **figures}


def child(source: str, store: str) -> None:
    """Load, and print the figures as JSON."""
    from hubflow.schemas.settings import DatasetSpec
    from hubflow.stages.load_dataset import load_dataset

    spec = DatasetSpec(format="csv", train=source, test_fraction=0.05, max_invalid_fraction=0.01, group_column="author")
    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dataset = load_dataset.fn(spec, "text_classification", store)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (report,) = Path(store, "data-reports").glob("*/report.json")
    told = json.loads(report.read_text(encoding="utf-8"))
    figures = {
        "peak_megabytes": round(peak * 1024 / 1e6),
        "megabytes_after_imports": round(at_start * 1024 / 1e6),
        "splits": dataset.rows,
        "rejected": told["splits"]["train"]["rejected"],
        "findings": {finding["check"]: finding["count"] for finding in told["findings"]},
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*sys.argv[2:4])
    else:
        main()
