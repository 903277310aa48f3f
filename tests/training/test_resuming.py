"""Going on from a checkpoint: a damaged one gives way to the one before it, one of another run is refused with what differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Job, contents, make_jobs

from hubflow.errors import ResumeError
from hubflow.training.callbacks import Callback, Step, TrainState

pytestmark = pytest.mark.slow


class Cut(Callback):
    """Ends a run with an error after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, state: TrainState, step: Step) -> None:
        if step.step == self.after:
            raise RuntimeError("cut")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Texts: nine steps with a checkpoint after each."""
    return make_jobs(tmp_path_factory.mktemp("job"))[0]


@pytest.fixture(scope="module")
def whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    job.run(folder, draws=False)
    return kept(folder)


def kept(folder: Path) -> dict[str, str]:
    """What a run leaves, but for the state of Python's generator: other threads of this process draw from it too."""
    found = {name: sha for name, sha in contents(folder).items() if Path(name).name not in ("state.json", "manifest.json")}
    for path in folder.glob("last-*/state.json"):
        state = json.loads(path.read_text())
        state.get("random", {}).pop("python", None)
        found[path.relative_to(folder).as_posix()] = json.dumps(state)
    return found


def run_cut(job: Job, folder: Path, after: int) -> Path:
    with pytest.raises(RuntimeError, match="cut"):
        job.run(folder, callbacks=[Cut(after)], draws=False)
    return max(folder.glob("last-*"))


def tear(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def flip_a_bit(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 4
    weights.write_bytes(content)


def truncate_the_state(checkpoint: Path) -> None:
    state = checkpoint / "state.json"
    state.write_bytes(state.read_bytes()[:100])


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [tear, flip_a_bit, truncate_the_state, lose_the_manifest])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_to_the_same_bytes(
    damage: Callable[[Path], None], job: Job, whole: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = run_cut(job, tmp_path, 6)
    assert newest.name == "last-00000005"
    damage(newest)
    job.run(tmp_path, draws=False)
    assert "damaged-last-00000005: the run goes on from the checkpoint before it" in caplog.text
    aside = tmp_path / "damaged-last-00000005"
    assert {name: sha for name, sha in kept(tmp_path).items() if not name.startswith(aside.name)} == whole


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(job: Job, tmp_path: Path) -> None:
    run_cut(job, tmp_path, 3)
    before = contents(tmp_path)
    with pytest.raises(ResumeError) as refusal:
        job.run(tmp_path, data={"train": "ab"}, job="another")
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}: the checkpoint is of another run; 2 value(s) differ")
    assert "job: 'texts' in the checkpoint, 'another' now" in message
    assert "data.train: not set in the checkpoint, 'ab' now" in message
    assert contents(tmp_path) == before


def test_what_callbacks_draw_and_keep_goes_on_as_if_nothing_had_happened(job: Job, tmp_path: Path) -> None:
    class Sampler(Callback):
        def __init__(self) -> None:
            self.drawn: list[Any] = []

        def on_step_end(self, state: TrainState, step: Step) -> None:
            self.drawn.append([step.step, float(np.random.standard_normal())])  # Python's: see `killing.Draws`

        def state_dict(self) -> dict[str, Any]:
            return {"drawn": self.drawn}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.drawn = state["drawn"]

    uninterrupted, first, second = Sampler(), Sampler(), Sampler()
    job.run(tmp_path / "whole", callbacks=[uninterrupted])
    with pytest.raises(RuntimeError, match="cut"):
        job.run(tmp_path / "cut", callbacks=[first, Cut(5)])
    np.random.seed(99)
    job.run(tmp_path / "cut", callbacks=[second])
    assert [entry[0] for entry in second.drawn] == list(range(1, 10))
    assert second.drawn == uninterrupted.drawn
