"""Killed at any moment, started again, and in the end every byte is as if nothing had happened."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLING = Path(__file__).parents[1] / "killing.py"


@pytest.mark.soak
def test_runs_that_are_killed_anywhere_end_with_the_bytes_of_the_uninterrupted_one(tmp_path: Path) -> None:
    command = [sys.executable, str(KILLING), "--runs", "4", "--kinds", "2", "--most-kills", "2", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = {place: int(count) for place, count in re.findall(r"^\| ([a-z -]+) \| (\d+) \|$", done.stdout, re.MULTILINE)}
    assert kills["after a rename"] > 0, done.stdout
    assert sum(kills.values()) >= 4, done.stdout
    assert "every byte: 4 of 4" in done.stdout
