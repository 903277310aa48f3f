"""Write `losses.json`, what the first steps of small runs give: `uv run python tests/golden/make_losses.py`."""

import json
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]

from learning import GOLDEN_ROWS, GOLDEN_STEPS, TASKS, learn
from small_modules import GOLDEN, write_tiny_bert

from hubflow.modules.download import resolve_module


def main() -> None:
    """Train each task for a few steps and keep what its history says."""
    losses = {}
    for task in TASKS:
        with tempfile.TemporaryDirectory() as folder:
            bert = write_tiny_bert(Path(folder) / "bert")
            state = learn(task, GOLDEN_ROWS, Path(folder), bert, resolve_module("digits"), max_steps=GOLDEN_STEPS)
        losses[task] = {name: [entry[name] for entry in state.steps] for name in ("loss", "grad_norm", "learning_rate")}
    (GOLDEN / "losses.json").write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
