"""Whole nights that are killed at drawn places, run again, and end as if nothing had happened; for more see the script."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "night_faults.py"


@pytest.mark.soak
@pytest.mark.parametrize(("store", "runs", "nights", "seed"), [("local", 2, 2, 5), ("s3", 1, 1, 3)])
def test_nights_that_are_killed_anywhere_end_as_the_undisturbed_ones(
    store: str, runs: int, nights: int, seed: int, tmp_path: Path
) -> None:
    options = {"--runs": runs, "--store": store, "--nights": nights, "--seed": seed, "--most": 1, "--folder": tmp_path}
    command = [sys.executable, str(SCRIPT), *(str(part) for option in options.items() for part in option)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"^(\d+) nights, disturbed (\d+) times, started (\d+) times; 0 faults: none$", done.stdout, re.MULTILINE)
    assert told, done.stdout
    assert int(told[2]) == runs
    assert int(told[3]) > nights + runs
    assert re.search(r"^\| (killed|ended with an error) \| \d+ \|$", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == [], "what such runs leave is removed"
