"""fine_tune: the best weights with their history, the same from the same seed, and label maps that agree."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import WORDS, Run, text_settings
from small_modules import make_tiny_bert

from hubflow.errors import DeviceError, LabelMapError, SettingsError
from hubflow.hub import Predictor
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.training import TrainSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.store import Store


def test_the_checkpoint_keeps_the_best_epoch_and_its_history(digits_run: Run) -> None:
    checkpoint, folder = digits_run.checkpoint, digits_run.store.open(digits_run.checkpoint).folder
    evaluations = pd.read_parquet(folder / "evaluations.parquet")
    assert checkpoint.best_metric == "accuracy"
    assert checkpoint.best_value == evaluations["accuracy"].max()
    assert checkpoint.best_epoch == evaluations["epoch"][evaluations["accuracy"].idxmax()]
    assert checkpoint.steps == 2 * -(-digits_run.dataset.rows["train"] // 16)
    assert (folder / "steps.parquet").is_file()


def test_the_best_weights_are_those_that_evaluate_judges(digits_run: Run) -> None:
    assert digits_run.evaluation.metrics["dev"]["accuracy"] == digits_run.checkpoint.best_value


def test_the_same_seed_trains_the_same_weights(digits_run: Run) -> None:
    run, store = digits_run, digits_run.store
    weights = store.open(run.checkpoint).folder / "model.safetensors"
    files = {path.name: path.read_bytes() for path in weights.parent.glob("*.safetensors")}
    other = run.settings.train.model_copy(update={"log_every_steps": 11})  # another key: trained anew beside the first
    again = fine_tune.fn(run.task, run.encoded, other, run.settings.store, run.settings.seed, "cpu")
    assert again.path != run.checkpoint.path
    assert files
    assert {path.name: path.read_bytes() for path in store.open(again).folder.glob("*.safetensors")} == files


def test_rows_with_another_label_map_are_refused(text_run: Run) -> None:
    task = text_run.task.model_copy(update={"label_map_sha256": "0" * 64})
    with pytest.raises(LabelMapError, match="the label map of the encoded rows"):
        fine_tune.fn(task, text_run.encoded, text_run.settings.train, text_run.settings.store)


@pytest.mark.slow
def test_what_the_process_computed_before_changes_no_bit(digits_run: Run, tmp_path: Path) -> None:
    """Loading a predictor sets the number of threads of the whole process."""
    run = digits_run
    Predictor.load(run.export_folder)
    store = str(shutil.copytree(run.settings.store, tmp_path / "store", ignore=shutil.ignore_patterns("checkpoints")))
    assert fine_tune.fn(run.task, run.encoded, run.settings.train, store, run.settings.seed, "cpu") == run.checkpoint


def changed(run: Run, **train: Any) -> TrainSettings:
    return TrainSettings.model_validate({**run.settings.train.model_dump(), **train})


@pytest.mark.parametrize(
    ("train", "more", "message"),
    [
        ({"checkpoints": {"resume": "required"}}, {"reuse": False}, "reuse is false, which starts over"),
        ({}, {"device": "gpu", "num_processes": 2}, "num_processes is 2, which is for `device: cpu`, but the device is 'gpu'"),
        ({}, {"device": "auto", "num_processes": 2}, "name them, as in `device: gpu:0,1`"),
        ({}, {"device": "gpu:1,1"}, "names a GPU twice"),
        ({"best_metric": "nonsense"}, {}, "train.best_metric 'nonsense' is not measured; use one of loss, accuracy"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_touched(
    digits_run: Run, train: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    run = digits_run
    with pytest.raises(SettingsError, match=message):
        fine_tune.fn(run.task, run.encoded, changed(run, **train), run.settings.store, **more)


@pytest.mark.parametrize(
    ("train", "error"),
    [({"freeze_blocks": 99}, "train.freeze_blocks is 99"), ({"class_weights": {"eight": 1}}, "'?eight'? are not in the data")],
)
def test_a_mistake_is_found_before_several_processes_start(digits_run: Run, train: dict[str, Any], error: str) -> None:
    run = digits_run
    with pytest.raises(SettingsError, match=error):
        fine_tune.fn(run.task, run.encoded, changed(run, **train), run.settings.store, device="cpu", num_processes=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "error"),
    [
        ({"best_metric": "roc_auc"}, "train.best_metric 'roc_auc' is not defined on dev: all 8 rows of dev have the label '1'"),
        ({"best_metric": "mcc"}, "train.best_metric 'mcc' is not defined on dev"),
        ({"warmup_steps": 400}, "train.warmup_steps is 400, but the run has 4 steps"),
    ],
)
def test_what_would_spoil_the_run_is_refused_before_its_first_step(train: dict[str, Any], error: str, tmp_path: Path) -> None:
    given = text_settings(tmp_path, make_tiny_bert(tmp_path / "bert", WORDS))
    (tmp_path / "dev.tsv").write_text("text\tlabel\n" + "".join(f"fine film {row}\t1\n" for row in range(8)))
    settings = FineTuneSettings.model_validate({**given, "train": {**given["train"], **train}})
    store = settings.store
    dataset = load_dataset.fn(settings.data, settings.task, store)
    module = load_module.fn(settings.module, store)
    encoded = encode_dataset.fn(dataset, module, settings.module, store)
    task = build_head.fn(settings.task, module, dataset, settings.module, settings.head, store)
    with pytest.raises(SettingsError, match=error):
        fine_tune.fn(task, encoded, settings.train, store, settings.seed, "cpu")
    assert not list((tmp_path / "store" / "training").glob("*/*"))


@pytest.mark.slow
def test_gpus_that_are_not_there_are_told_before_several_processes_start(digits_run: Run) -> None:
    run = digits_run
    with pytest.raises(DeviceError, match="found 0 GPU"):
        fine_tune.fn(run.task, run.encoded, run.settings.train, run.settings.store, seed=99, device="gpu:0,1")


def test_what_a_killed_run_left_is_removed_once_its_result_is_there(digits_run: Run) -> None:
    run = digits_run
    left = run.store.root / "training" / Path(run.checkpoint.path).name
    left.mkdir(parents=True, exist_ok=True)
    (left / "run.json").write_text("{}")
    assert (
        fine_tune.fn(run.task, run.encoded, run.settings.train, run.settings.store, run.settings.seed, "cpu") == run.checkpoint
    )
    assert not left.exists()


FINE_TUNE = """
import sys
from hubflow.schemas.references import EncodedRef, TaskRef
from hubflow.schemas.training import TrainSettings
from hubflow.stages.fine_tune import fine_tune
store, task, encoded, settings = sys.argv[1:]
references = TaskRef.model_validate_json(task), EncodedRef.model_validate_json(encoded)
made = fine_tune.fn(*references, TrainSettings.model_validate_json(settings), store)
print(made.model_dump_json())
"""


@pytest.mark.slow
def test_of_two_runs_at_once_the_second_waits_and_finds_what_the_first_made(digits_run: Run, tmp_path: Path) -> None:
    store = shutil.copytree(digits_run.settings.store, tmp_path / "store", ignore=shutil.ignore_patterns("checkpoints"))
    references = [one.model_dump_json() for one in (digits_run.task, digits_run.encoded, digits_run.settings.train)]
    command = [sys.executable, "-c", FINE_TUNE, str(store), *references]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    assert len(list((store / "checkpoints").iterdir())) == 1
    assert {path.suffix for path in (store / "training").iterdir()} == {".lock"}


def copied_store(run: Run, folder: Path) -> str:
    """The run's store, without weights and without what it remembers of preflights."""
    left_out = shutil.ignore_patterns("checkpoints", "preflights")
    return str(shutil.copytree(run.settings.store, folder / "store", ignore=left_out))


@pytest.mark.slow
def test_a_preflight_that_passed_is_not_tried_again_with_another_seed(
    digits_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = digits_run
    store = copied_store(run, tmp_path)

    def told(train: TrainSettings, seed: int, **options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level("INFO", logger="hubflow"):
            fine_tune.fn(run.task, run.encoded, train, store, seed, "cpu", **options)
        return [message for message in caplog.messages if message.startswith("preflight: ")]

    short = changed(run, max_steps=1)
    (first,), (second,) = told(short, 1), told(short, 2)
    costs = first.removeprefix("preflight: ")
    assert costs.startswith("the costliest batch, 16 rows, takes ")
    assert second == f"preflight: passed before, on the same rows, settings, versions and machine: {costs}"
    assert told(changed(run, max_steps=1, batch_size=8), 2)[0].startswith("preflight: the costliest batch, 8 rows")
    assert told(short, 2, reuse=False)[0].startswith("preflight: the costliest batch, 16 rows")
    assert told(changed(run, max_steps=1, preflight=False), 3) == []


@pytest.mark.slow
def test_a_preflight_changes_no_bit_of_what_is_trained(digits_run: Run, tmp_path: Path) -> None:
    run, found = digits_run, []
    store = copied_store(run, tmp_path)
    for is_tried in (False, True, True):  # without one, with one, and with one that is known to have passed
        settings = changed(run, max_steps=2, preflight=is_tried)
        checkpoint = fine_tune.fn(run.task, run.encoded, settings, store, 7, "cpu")
        found.append((Store(store).open(checkpoint).folder / "model.safetensors").read_bytes())
        shutil.rmtree(Path(store) / "checkpoints")
    assert found[0] == found[1] == found[2]
