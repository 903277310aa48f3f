"""What must hold on a GPU, in one command: `uv run pytest -m gpu`.

Without a GPU all of it is skipped. `HUBFLOW_TEST_DEVICE=cpu` runs what a CPU can run of it, which shows that the tests work.
"""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import digits_settings, text_settings
from small_modules import image_split, settings, some_texts, text_split

from hubflow import flows
from hubflow.errors import DeviceError
from hubflow.inference.predictor import Predictor
from hubflow.orchestration.run_context import without_prefect
from hubflow.programs.precision import cpu_flags
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages import build_head, encode_dataset, evaluate, fine_tune, load_dataset, load_module
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.loop import TrainStep
from hubflow.training.program import TrainProgram

DEVICE = os.environ.get("HUBFLOW_TEST_DEVICE", "gpu")
GPUS = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
HAS_16_BITS = DEVICE != "cpu" or "avx512_bf16" in cpu_flags()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(DEVICE != "cpu" and not GPUS, reason="no GPU that this Paddle can use"),
]
PRECISIONS = ["float32", *(["bfloat16"] if HAS_16_BITS else []), *(["float16"] if DEVICE != "cpu" else [])]


def losses(kind: str, module: Path, folder: Path, device: str, precision: str = "float32") -> list[float]:
    """Of five steps."""
    split = image_split(folder, 8) if kind == "image" else text_split(folder, module, *some_texts(8))
    chosen = settings(precision=precision)
    quiet = {"dropout": 0.0, "attention_dropout": 0.0} if kind == "text" else {}  # every device draws in its own way
    session = Session(TaskSpec(f"{kind}_classification", 2, **quiet), module, device, precision=precision, trains=True)
    session.initialise(0)
    update = TrainProgram(session, chosen, None, World.alone())
    update.initialise()
    step, found = TrainStep(split, split.example_weights(None), 0, 1, World.alone()), []
    state = TrainState(loss_scale=1024.0 if precision == "float16" else None)
    for _ in range(5):
        found.append(step.run(update, state, np.arange(len(split)), 1e-3, stop=False).loss)
        update.apply(1e-3, state.loss_scale or 1.0)
        state.step += 1
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_texts_are_trained_as_on_a_cpu(precision: str, tiny_bert: Path, tmp_path: Path) -> None:
    there = losses("text", tiny_bert, tmp_path / "a", DEVICE, precision)
    here = losses("text", tiny_bert, tmp_path / "b", "cpu")
    np.testing.assert_allclose(there, here, rtol=1e-4 if precision == "float32" else 0.03)
    assert there[-1] < there[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_are_trained_as_on_a_cpu(precision: str, digits_module: Path, tmp_path: Path) -> None:
    there = losses("image", digits_module, tmp_path / "a", DEVICE, precision)
    here = losses("image", digits_module, tmp_path / "b", "cpu")
    np.testing.assert_allclose(there, here, rtol=1e-3 if precision == "float32" else 0.08)


def tuned(values: dict[str, Any]) -> Any:
    with without_prefect():
        return flows.fine_tune(FineTuneSettings.model_validate(values))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_whole_run_gives_an_export_that_predicts_on_a_cpu(precision: str, tiny_bert: Path, tmp_path: Path) -> None:
    values = text_settings(tmp_path, tiny_bert, device=DEVICE)
    values["train"]["precision"] = precision
    result = tuned(values)
    assert {"dev", "test"} <= set(result.metrics)
    with Path(values["data"]["test"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = Predictor.load(result.export).predict([row["text"] for row in rows])
    right = np.mean([one.label == row["label"] for one, row in zip(found, rows, strict=True)])
    assert right == pytest.approx(result.metrics["test"]["accuracy"], abs=1e-6)


def test_evaluations_are_those_of_a_cpu(tmp_path: Path) -> None:
    given = FineTuneSettings.model_validate(digits_settings(tmp_path, device="cpu"))
    store = given.store
    dataset, module = load_dataset.fn(given.data, given.task, store), load_module.fn(given.module, store)
    encoded = encode_dataset.fn(dataset, module, given.module, store)
    task = build_head.fn(given.task, module, dataset, given.module, given.head, store)
    checkpoint = fine_tune.fn(task, encoded, given.train, store, given.seed, "cpu")
    here, there = (evaluate.fn(checkpoint, encoded, given.evaluate, store, one, reuse=False) for one in ("cpu", DEVICE))
    for split, metrics in here.metrics.items():
        assert there.metrics[split] == pytest.approx(metrics, abs=1e-4)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_two_gpus_give_the_losses_of_one(tiny_bert: Path, tmp_path: Path) -> None:
    one = tuned(text_settings(tmp_path, tiny_bert, device="gpu:0", reuse=False))
    two = tuned(text_settings(tmp_path, tiny_bert, device="gpu:0,1", reuse=False))
    assert two.metrics["test"]["loss"] == pytest.approx(one.metrics["test"]["loss"], abs=1e-4)


@pytest.mark.skipif(DEVICE == "cpu", reason="is of GPUs")
def test_a_gpu_that_is_not_there_is_named(tiny_bert: Path) -> None:
    with pytest.raises(DeviceError, match=f"found {GPUS} GPU"):
        Session(TaskSpec("text_classification", 2), tiny_bert, f"gpu:{GPUS}")
