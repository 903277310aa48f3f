"""How many cores programs compute with, whoever imports Paddle first."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SHOW = "from hubflow.runtime import paddle_import; from hubflow.runtime.threads import compute_cores; import os; "
SHOW += "paddle_import.paddle.__version__; "
TELL = "print(compute_cores(), os.environ.get('OMP_NUM_THREADS'))"


@pytest.mark.parametrize("first", ["", "import paddle; "])
@pytest.mark.parametrize(("given", "expected"), [(None, f"{len(os.sched_getaffinity(0))} None"), ("1", "1 1"), ("3", "3 3")])
def test_the_users_word_counts_and_not_what_paddle_sets(first: str, given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if given is not None:
        environment["OMP_NUM_THREADS"] = given
    command = [sys.executable, "-c", first + SHOW + TELL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == expected
