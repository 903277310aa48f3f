"""What the log says of each epoch."""

import logging
import re

import pytest

from hubflow.orchestration.progress import Watcher
from hubflow.training.callbacks import Step, TrainState


def test_an_epoch_is_one_line_with_its_rows_and_how_long_the_rest_takes(caplog: pytest.LogCaptureFixture) -> None:
    watcher, state = Watcher(best_metric="accuracy", batch_size=8, rows=20), TrainState()
    with caplog.at_level(logging.INFO, "hubflow.orchestration.progress"):
        watcher.on_train_begin(state, 6)
        for step in range(1, 7):
            watcher.on_step_end(state, Step(step, (step + 2) // 3, 1.0 / step, 0.1, 1.0))
            state.step = step
            if step % 3 == 0:
                state.epoch, state.best_step, state.best_value = step // 3, 3, 0.75
                watcher.on_evaluate(state, {"accuracy": 0.75 if step == 3 else 0.5})
        watcher.on_train_end(state)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1: loss 0.6111, dev accuracy 0.7500 (the best so far), 20 rows in ")
    assert re.search(r"\([\d.]+ rows/s\), step 3 of 6, about \d+ s to go$", lines[0])
    assert "dev accuracy 0.5000 (best 0.7500), 20 rows" in lines[1]
