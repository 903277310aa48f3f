"""Predicting needs no more memory for more rows."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import Run

pytestmark = pytest.mark.slow

PREDICT = """
import resource, sys
from hubflow.schemas.settings import PredictSettings
from hubflow.stages.predict import predict
print(predict.fn(PredictSettings(export=sys.argv[1], data=sys.argv[2], rows_per_shard=1_000)).rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
MOST_MORE_KB = 40_000
"""The larger file is 60 MB of text: held in memory, as rows and as predictions, it would take several times this."""


def peak(run: Run, folder: Path, rows: int) -> int:
    data, word = folder / f"{rows}.tsv", "x" * 1_000
    with data.open("w", encoding="utf-8") as stream:
        stream.write("text\n")
        stream.writelines(f"a film {row} {word}\n" for row in range(rows))
    command = [sys.executable, "-c", PREDICT, str(run.export_folder), str(data)]
    predicted, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    assert int(predicted) == rows
    return int(memory)


@pytest.mark.soak
def test_fifteen_times_the_rows_take_the_same_memory(text_run: Run, tmp_path: Path) -> None:
    small, large = peak(text_run, tmp_path, 4_000), peak(text_run, tmp_path, 60_000)
    assert large - small <= MOST_MORE_KB, f"{small} and {large} kB"
