"""A fine-tune that begins with a checkpoint's weights: where that ended, under a key of its own, for the same task alone."""

import numpy as np
import pandas as pd
import pytest
from runs import Run
from safetensors.numpy import load_file

from hubflow.deployment.pointer import find_checkpoint
from hubflow.errors import SettingsError
from hubflow.schemas.references import CheckpointRef
from hubflow.schemas.settings import HeadSettings
from hubflow.schemas.training import TrainSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.fine_tune import fine_tune

ONE_STEP = {"max_steps": 1, "batch_size": 16, "optimizer": "sgd", "learning_rate": 1e-12, "warmup_proportion": 0.0}


@pytest.fixture(scope="module")
def warm(digits_run: Run) -> CheckpointRef:
    """One step, too small to move a weight, from the weights of the run."""
    run = digits_run
    settings = TrainSettings.model_validate(ONE_STEP)
    return fine_tune.fn(run.task, run.encoded, settings, run.settings.store, device="cpu", warm_start=run.checkpoint)


def test_training_begins_with_the_weights_of_module_and_head(digits_run: Run, warm: CheckpointRef) -> None:
    began, now = (load_file(digits_run.store.open(one).folder / "model.safetensors") for one in (digits_run.checkpoint, warm))
    trained = [name for name in began if "running" not in name and "_mean" not in name and "_variance" not in name]
    assert any(name.startswith("head.") for name in trained)
    for name in trained:
        np.testing.assert_allclose(now[name], began[name], rtol=0, atol=1e-9, err_msg=name)


def test_its_first_loss_is_that_of_trained_weights(digits_run: Run, warm: CheckpointRef) -> None:
    run = digits_run
    cold = fine_tune.fn(run.task, run.encoded, TrainSettings.model_validate(ONE_STEP), run.settings.store, device="cpu")
    losses = [pd.read_parquet(run.store.open(one).folder / "steps.parquet")["loss"].iloc[0] for one in (cold, warm)]
    assert losses[1] < losses[0] - 0.2
    assert cold.path != warm.path


def test_the_checkpoint_remembers_what_it_began_with(digits_run: Run, warm: CheckpointRef) -> None:
    assert digits_run.store.open(warm).facts["warm_start"] == digits_run.checkpoint.sha256
    assert "warm_start" not in digits_run.store.open(digits_run.checkpoint).facts


def test_weights_of_another_head_are_refused_naming_what_differs(digits_run: Run) -> None:
    run, store = digits_run, digits_run.settings.store
    deeper = build_head.fn(
        run.settings.task, run.module, run.dataset, run.settings.module, HeadSettings(hidden_units=(5,), dropout=0.1), store
    )
    with pytest.raises(SettingsError, match=r"1 value\(s\) differ\n  - hidden_units: \[\] in the checkpoint, \[5\] now"):
        fine_tune.fn(deeper, run.encoded, run.settings.train, store, device="cpu", warm_start=run.checkpoint)


def test_a_checkpoint_is_found_by_what_an_export_remembers_of_it(digits_run: Run) -> None:
    remembered = digits_run.store.open(digits_run.export).facts["checkpoint"]
    assert find_checkpoint(digits_run.store, remembered) == digits_run.checkpoint
    assert find_checkpoint(digits_run.store, "0" * 64) is None
