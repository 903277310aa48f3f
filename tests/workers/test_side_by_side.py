"""Work side by side in one process, in threads, task runners and an event loop: the same bits as alone, and no crash."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from runs import WORDS, Run, digits_settings, run_stages, text_settings
from small_modules import make_tiny_bert

from hubflow.hub import Predictor
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, ExportRef, TaskRef
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.schemas.training import TrainSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.stages.predict import predict
from hubflow.store.store import Store

pytestmark = pytest.mark.slow

Files = dict[str, bytes]


class Job:
    """A small fine-tune that is prepared, and trains anew each time that it is asked to."""

    def __init__(self, folder: Path, seed: int, is_image: bool = False) -> None:
        folder.mkdir()
        if is_image:
            given = digits_settings(folder / "store", seed=seed)
            given["data"]["digits"] = [seed % 5, 5 + seed % 5]
        else:
            given = text_settings(folder, make_tiny_bert(folder / "bert", WORDS), seed=seed)
            draw = random.Random(seed)  # noqa: S311
            rows = [f"{n}\t{' '.join(draw.choices(WORDS, k=draw.randint(2, 12)))}\t{n % 2}" for n in range(40)]
            Path(given["data"]["train"]).write_text("id\ttext\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
        self.settings = settings = FineTuneSettings.model_validate(given)
        self.place = settings.store
        self.dataset = load_dataset.fn(settings.data, settings.task, self.place)
        self.module = load_module.fn(settings.module, self.place)
        self.encoded = encode_dataset.fn(self.dataset, self.module, settings.module, self.place)
        self.task = build_head.fn(settings.task, self.module, self.dataset, settings.module, settings.head, self.place)

    def train(self) -> tuple[CheckpointRef, Files]:
        """Train anew; the weights and the history."""
        settings = self.settings
        checkpoint = fine_tune.fn(self.task, self.encoded, settings.train, self.place, settings.seed, "cpu", reuse=False)
        return checkpoint, self.files(checkpoint.path)

    def evaluate(self, checkpoint: CheckpointRef) -> tuple[EvaluationRef, Files]:
        """Evaluate anew."""
        evaluation = evaluate.fn(checkpoint, self.encoded, self.settings.evaluate, self.place, "cpu", reuse=False)
        return evaluation, self.files(evaluation.path)

    def export(self, checkpoint: CheckpointRef, evaluation: EvaluationRef) -> ExportRef:
        """Export anew."""
        return export_inference_program.fn(checkpoint, self.encoded, evaluation, self.place, reuse=False)

    def files(self, path: str) -> Files:
        """What an artifact holds; its manifest has the time in it."""
        folder = Store(self.place).root / path
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Two of texts and two of images."""
    folder = tmp_path_factory.mktemp("jobs")
    return [Job(folder / str(number), seed=number, is_image=number > 1) for number in range(4)]


def together(*work: Callable[[], Any]) -> list[Any]:
    """What each gives, all of them at once in threads."""
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(one) for one in work]]


def test_fine_tunes_and_an_evaluation_give_the_same_bits_in_company(jobs: list[Job]) -> None:
    alone = [job.train() for job in jobs]
    evaluated = jobs[0].evaluate(alone[0][0])
    for _ in range(2):
        first, second, third = together(jobs[1].train, jobs[2].train, lambda: jobs[0].evaluate(alone[0][0]))
        assert first[1] == alone[1][1]
        assert second[1] == alone[2][1]
        assert third[1] == evaluated[1]
    texts, images = together(jobs[0].train, jobs[3].train)
    assert (texts[1], images[1]) == (alone[0][1], alone[3][1])


def test_every_stage_at_once_is_as_each_alone(jobs: list[Job], tmp_path: Path) -> None:
    job, other = jobs[0], jobs[2]
    (checkpoint, weights), (its, _) = job.train(), other.train()
    evaluation, files = job.evaluate(checkpoint)
    export = job.export(checkpoint, evaluation)
    program = job.files(export.path)
    folder = Store(job.place).root / export.path
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n" + "\n".join(" ".join(WORDS[n % 5 : n % 7 + 3]) for n in range(50)) + "\n", encoding="utf-8")

    def label(name: str) -> bytes:
        output = tmp_path / f"{name}.csv"
        predict.fn(PredictSettings(export=str(folder), data=str(rows), output=str(output)))
        return output.read_bytes()

    def ask() -> list[float]:
        predictor = Predictor.load(folder, threads=1)
        return [one.probability for one in predictor.predict(["a fine film", "a dull plot of no joy", "great"])]

    expected, asked = label("alone"), ask()
    found = together(
        job.train, lambda: other.evaluate(its), lambda: job.export(checkpoint, evaluation), lambda: label("beside"), ask
    )
    assert found[0][1] == weights
    assert found[3] == expected
    assert found[4] == asked
    assert {name: data for name, data in job.files(found[2].path).items() if name.startswith("program")} == {
        name: data for name, data in program.items() if name.startswith("program")
    }
    assert job.evaluate(checkpoint)[1] == files


def test_two_alike_at_once_are_one(jobs: list[Job], tmp_path: Path) -> None:
    job = Job(tmp_path / "job", seed=9)
    settings = job.settings

    def train() -> CheckpointRef:
        return fine_tune.fn(job.task, job.encoded, settings.train, job.place, settings.seed, "cpu")

    first, second = together(train, train)
    assert first == second


def test_mapped_over_a_flows_task_runner(jobs: list[Job], prefect_server: str) -> None:
    from prefect import flow, unmapped

    job = jobs[0]
    rates = (1e-3, 2e-3, 3e-3)
    settings = [TrainSettings(epochs=1, batch_size=16, learning_rate=rate) for rate in rates]

    @flow
    def several(task: TaskRef, encoded: EncodedRef) -> list[CheckpointRef]:
        futures = fine_tune.map(
            unmapped(task), unmapped(encoded), settings, unmapped(job.place), unmapped(0), unmapped("cpu"), unmapped(False)
        )
        return [future.result() for future in futures]

    found = [job.files(checkpoint.path)["model.safetensors"] for checkpoint in several(job.task, job.encoded)]
    alone = [fine_tune.fn(job.task, job.encoded, one, job.place, 0, "cpu", reuse=False) for one in settings]
    assert found == [job.files(checkpoint.path)["model.safetensors"] for checkpoint in alone]
    assert len(set(found)) == 3


def test_from_an_event_loop(jobs: list[Job], prefect_server: str) -> None:
    from prefect import flow

    expected = jobs[2].train()[1]

    @flow
    async def asynchronous() -> Files:
        found: tuple[CheckpointRef, Files] = await asyncio.to_thread(jobs[2].train)
        return found[1]

    assert asyncio.run(asynchronous()) == expected


POOLED = """
import importlib
import sys
from hubflow.schemas.references import EncodedRef, TaskRef
from hubflow.schemas.training import TrainSettings
from hubflow.stages.fine_tune import fine_tune
from prefect import flow


def runner(kind):
    if kind == "processes":
        return importlib.import_module("prefect.task_runners").ProcessPoolTaskRunner(max_workers=2)
    cluster = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    return importlib.import_module("prefect_dask").DaskTaskRunner(cluster_kwargs=cluster)


@flow
def pooled(task, encoded, store):
    settings = [TrainSettings(epochs=1, batch_size=16, learning_rate=rate) for rate in (1e-3, 2e-3)]
    futures = [fine_tune.submit(task, encoded, one, store, 0, "cpu", False) for one in settings]
    return [future.result() for future in futures]


if __name__ == "__main__":
    task, encoded = TaskRef.model_validate_json(sys.argv[1]), EncodedRef.model_validate_json(sys.argv[2])
    print(*(one.path for one in pooled.with_options(task_runner=runner(sys.argv[4]))(task, encoded, sys.argv[3])))
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_from_a_pool_of_processes_and_from_dask(jobs: list[Job], prefect_server: str, tmp_path: Path, kind: str) -> None:
    job, script = jobs[2], tmp_path / "pooled.py"
    script.write_text(POOLED, encoding="utf-8")
    command = [sys.executable, str(script), job.task.model_dump_json(), job.encoded.model_dump_json(), job.place, kind]
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = [job.files(path)["model.safetensors"] for path in done.stdout.splitlines()[-1].split()]
    settings = [TrainSettings(epochs=1, batch_size=16, learning_rate=rate) for rate in (1e-3, 2e-3)]
    alone = [fine_tune.fn(job.task, job.encoded, one, job.place, 0, "cpu", reuse=False) for one in settings]
    assert found == [job.files(checkpoint.path)["model.safetensors"] for checkpoint in alone]


def test_the_stages_run_alike_a_second_time(digits_run: Run, tmp_path: Path) -> None:
    again = run_stages(digits_run.settings.model_copy(update={"store": str(tmp_path / "store")}))
    name = "model.safetensors"
    first, second = (run.store.root / run.checkpoint.path / name for run in (digits_run, again))
    assert first.read_bytes() == second.read_bytes()
    assert again.evaluation.metrics == digits_run.evaluation.metrics
