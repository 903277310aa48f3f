"""Training in several processes: gives what one process gives, dies as one, and goes on with fewer."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from process_tree import wait_for, workers_of
from runs import Run
from small_training import Job, require_alike

from hubflow.errors import SettingsError, WorkerError
from hubflow.schemas.training import TrainSettings
from hubflow.stages.fine_tune import fine_tune
from hubflow.store.store import Store
from hubflow.training.callbacks import Callback
from hubflow.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow


def test_two_processes_of_16_rows_give_what_one_of_32_gives(tmp_path: Path) -> None:
    job = Job(tmp_path)
    one, two = job.run(tmp_path / "one", 1), job.run(tmp_path / "two", 2)
    require_alike(tmp_path / "one", one, tmp_path / "two", two)
    assert Store(tmp_path / "two").open(two).facts["num_processes"] == 2
    assert one.best_value == pytest.approx(two.best_value)


def test_a_lost_process_ends_all_and_one_goes_on_where_two_stopped(tmp_path: Path) -> None:
    job = Job(tmp_path, checkpoints={"every_steps": 1})
    training = tmp_path / "two" / "training"
    lost: list[int] = []
    killer = threading.Thread(target=_kill_a_rank, args=(training, lost), daemon=True)
    killer.start()
    with pytest.raises(WorkerError, match=r"rank 1 of 2 was killed by SIGKILL"):
        job.run(tmp_path / "two", 2)
    killer.join()
    assert lost, "no rank was found to kill"
    assert not workers_of()
    assert list(training.glob("*/last-*")), "the checkpoints are kept"
    resumed = job.run(tmp_path / "two", 1)
    require_alike(tmp_path / "one", job.run(tmp_path / "one", 1), tmp_path / "two", resumed)


@pytest.mark.soak
def test_sigterm_lets_every_process_finish_its_step_and_write_it_down(tmp_path: Path) -> None:
    job = Job(tmp_path, checkpoints={"every_steps": 1}, max_steps=400)
    training = tmp_path / "two" / "training"
    code = "import sys; from pathlib import Path; from small_training import Job; "
    code += "Job(Path(sys.argv[1]), checkpoints={'every_steps': 1}, max_steps=400).run(Path(sys.argv[1]) / 'two', 2)"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths})
    until = time.monotonic() + 120
    while not list(training.glob("*/last-*")) and time.monotonic() < until and run.poll() is None:
        time.sleep(0.05)
    workers = workers_of(run.pid)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == -signal.SIGTERM
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    (folder,) = training.glob("*.lock")
    saved = Checkpoints(folder.with_suffix("")).load()
    assert saved is not None
    assert 1 <= saved[1]["step"] < 400
    assert saved[1]["request"]["settings"]["max_steps"] == job.settings.train.max_steps


def test_processes_with_batch_norms_stop_early_together(digits_run: Run, tmp_path: Path) -> None:
    """Each has running statistics of its own rows: were each to judge, one could go on alone and wait for ever."""
    run, store = digits_run, str(shutil.copytree(digits_run.settings.store, tmp_path / "store"))
    train = {"epochs": 6, "batch_size": 7, "evaluate_every_steps": 2, "early_stopping": {"patience": 2}, "learning_rate": 3e-2}
    checkpoint = fine_tune.fn(run.task, run.encoded, TrainSettings(**train), store, 0, "cpu", num_processes=2)
    evaluations = pd.read_parquet(Store(store).open(checkpoint).folder / "evaluations.parquet")
    assert checkpoint.best_value == evaluations["accuracy"].max()
    assert checkpoint.steps < 6 * -(-run.dataset.rows["train"] // 7)


def test_callbacks_of_ones_own_need_one_process(tmp_path: Path) -> None:
    class Onlooker(Callback):
        pass

    with pytest.raises(SettingsError, match="callbacks cannot follow a run of 2 processes"):
        Job(tmp_path).run(tmp_path / "store", 2, (Onlooker(),))


def _kill_a_rank(training: Path, lost: list[int]) -> None:
    """SIGKILL rank 1 once a checkpoint of the second step or later is there."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any(int(path.name.partition("-")[2]) >= 2 for path in training.glob("*/last-*")):
            lost.append(workers_of()[1])
            os.kill(lost[0], signal.SIGKILL)
            return
        time.sleep(0.01)
