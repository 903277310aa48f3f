"""Training: learns, leaves alone what is frozen, keeps the best weights, and goes on bit for bit after an interruption."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_modules import (
    ENTITY_LABELS,
    SENTIMENT,
    VOCAB,
    image_split,
    settings,
    some_texts,
    some_tokens,
    text_split,
    token_split,
    write_tiny_bert,
)

from hubflow.data.encoded import EncodedSplit
from hubflow.errors import SettingsError
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import get_variable
from hubflow.schemas.labels import LabelMap
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import Callback, Step
from hubflow.training.checkpoints import Checkpoints
from hubflow.training.evaluation import evaluate_split
from hubflow.training.loop import TrainingError, TrainPlan, TrainState, train
from hubflow.training.program import START

pytestmark = pytest.mark.slow

SIDES = LabelMap(labels=("left", "right"))


class Watch(Callback):
    """What the loop tells an onlooker; raises after the first step of the epoch that follows `stop_after`."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.total_steps = 0
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        self.total_steps = total_steps

    def on_step_end(self, state: TrainState, step: Step) -> None:
        if step.epoch - 1 == self.stop_after:
            raise RuntimeError("cut")
        self.losses.append(step.loss)
        self.rates.append(step.learning_rate)


class Job:
    """One kind of fine-tune at small size."""

    def __init__(
        self, spec: TaskSpec, module: Path, label_map: LabelMap, train: EncodedSplit, dev: EncodedSplit | None
    ) -> None:
        self.spec, self.module, self.label_map, self.train, self.dev = spec, module, label_map, train, dev

    def run(self, folder: Path, watch: Watch | None = None, seed: int = 0, best: str = "loss", **values: Any) -> TrainState:
        self.session = Session(self.spec, self.module, "cpu")
        plan = TrainPlan(settings(**values), seed, self.label_map, best, self.train, self.dev)
        return train(self.session, plan, Checkpoints(folder), [watch] if watch else [])

    def judge(self, folder: Path) -> dict[str, float]:
        session = Session(self.spec, self.module, "cpu")
        session.load(folder)
        assert self.dev is not None
        return evaluate_split(session, self.dev, self.label_map, 64).metrics


@pytest.fixture(scope="module")
def text_job(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("text")
    train_split = text_split(root / "train", tiny_bert, *some_texts(20))
    dev = text_split(root / "dev", tiny_bert, *some_texts(11, seed=1))
    return Job(TaskSpec("text_classification", 2), tiny_bert, SENTIMENT, train_split, dev)


@pytest.fixture(scope="module")
def image_job(digits_module: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("images")
    train_split = image_split(root / "train", 20, random_flip=True)
    return Job(TaskSpec("image_classification", 2), digits_module, SIDES, train_split, image_split(root / "dev", 11, seed=1))


@pytest.fixture(scope="module")
def token_job(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("tokens")
    train_split = token_split(root / "train", tiny_bert, *some_tokens(32), max_seq_len=40)
    return Job(TaskSpec("sequence_labelling", 5), tiny_bert, ENTITY_LABELS, train_split, train_split)


@pytest.fixture(params=["text", "image"])
def job(request: pytest.FixtureRequest) -> Job:
    found: Job = request.getfixturevalue(f"{request.param}_job")
    return found


def newest(folder: Path, kind: str) -> Path:
    """Weights of the newest checkpoint of a run, `last` (with the optimizer's state) or `best`."""
    return max(folder.glob(f"{kind}-*")) / "model.safetensors"


def same_bits(left: Path, right: Path, kind: str = "last") -> bool:
    first, second = load_file(newest(left, kind)), load_file(newest(right, kind))
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(job: Job, tmp_path: Path) -> None:
    """Defect 1: resume reset the head and the optimizer's state and forgot the best score."""
    whole = job.run(tmp_path / "whole", epochs=3)
    with pytest.raises(RuntimeError, match="cut"):
        job.run(tmp_path / "cut", Watch(stop_after=1), epochs=3)
    watch = Watch()
    resumed = job.run(tmp_path / "cut", watch, epochs=3)
    assert len(watch.losses) == 2 * 3
    assert asdict(resumed) == asdict(whole)
    assert same_bits(tmp_path / "whole", tmp_path / "cut")
    assert same_bits(tmp_path / "whole", tmp_path / "cut", "best")


def test_a_finished_run_is_not_trained_again(text_job: Job, tmp_path: Path) -> None:
    first = text_job.run(tmp_path, epochs=1)
    watch = Watch()
    assert asdict(text_job.run(tmp_path, watch, epochs=1)) == asdict(first)
    assert watch.losses == []


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(job: Job, tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        job.run(tmp_path / name, seed=seed, epochs=1)
    assert same_bits(tmp_path / "first", tmp_path / "second")
    assert not same_bits(tmp_path / "first", tmp_path / "other")


@pytest.fixture
def contrary_job(tiny_bert: Path, text_job: Job, tmp_path: Path) -> Job:
    """What is learned from train is wrong of dev, so that every epoch makes it worse."""
    texts, labels = some_texts(20)
    flipped = [{"positive": "negative", "negative": "positive"}[label] for label in labels]
    dev = text_split(tmp_path / "contrary", tiny_bert, texts, flipped)
    return Job(text_job.spec, tiny_bert, SENTIMENT, text_job.train, dev)


def test_the_best_weights_are_kept_when_later_epochs_are_worse(contrary_job: Job, tmp_path: Path) -> None:
    """Defect 6: final scores were of the last weights, not of the best."""
    state = contrary_job.run(tmp_path / "run", epochs=4, learning_rate=5e-3, schedule="constant")
    by_epoch = [entry["loss"] for entry in state.evaluations]
    assert min(by_epoch) < by_epoch[-1]
    assert state.best_epoch == 1 + int(np.argmin(by_epoch)) < 4
    assert state.best_value == min(by_epoch)
    assert contrary_job.judge(newest(tmp_path / "run", "best").parent)["loss"] == state.best_value


def test_a_resumed_run_remembers_the_best_score(contrary_job: Job, tmp_path: Path) -> None:
    """Defect 1: resume forgot the best score, so that a worse epoch took the best one's place."""
    values: dict[str, Any] = {"epochs": 4, "learning_rate": 5e-3, "schedule": "constant"}
    with pytest.raises(RuntimeError, match="cut"):
        contrary_job.run(tmp_path / "run", Watch(stop_after=3), **values)
    before = newest(tmp_path / "run", "best").read_bytes()
    state = contrary_job.run(tmp_path / "run", **values)
    assert state.best_epoch < 3
    assert newest(tmp_path / "run", "best").read_bytes() == before


def test_without_a_dev_split_the_last_weights_are_the_best(text_job: Job, tmp_path: Path) -> None:
    job = Job(text_job.spec, text_job.module, SENTIMENT, text_job.train, None)
    state = job.run(tmp_path, epochs=2)
    assert (state.best_epoch, state.best_value, state.evaluations) == (2, None, [])


def test_an_unknown_best_metric_stops_at_the_first_epoch_and_lists_what_is_measured(text_job: Job, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="best_metric 'f2' is not measured; measured: loss, accuracy"):
        text_job.run(tmp_path, best="f2", epochs=2)


def test_the_learning_rate_warms_up_over_steps_then_falls(text_job: Job, tmp_path: Path) -> None:
    """Defect 4: warm-up silently had zero steps, and the learning rate was constant."""
    watch = Watch()
    state = text_job.run(tmp_path, watch, epochs=4, warmup_proportion=0.5)
    assert watch.total_steps == len(watch.rates) == state.step == 12
    assert np.argmax(watch.rates) == 6
    assert (np.diff(watch.rates[:7]) > 0).all()
    assert (np.diff(watch.rates[6:]) < 0).all()
    assert [entry["learning_rate"] for entry in state.steps] == watch.rates


@pytest.mark.parametrize("kind", ["text", "image"])
def test_training_rows_come_shuffled_anew_each_epoch_and_each_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Defect 5: image training never shuffled."""
    job: Job = request.getfixturevalue(f"{kind}_job")
    seen: list[list[int]] = []
    spy = _Spy(job.train, seen)
    Job(job.spec, job.module, job.label_map, spy, None).run(tmp_path, epochs=2, batch_size=8)
    first, second = [*chain(*seen[:3])], [*chain(*seen[3:])]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert list(range(20)) not in (first, second)
    assert sorted(map(len, seen[:3])) == [4, 8, 8]


class _Spy:
    """A split that remembers which rows were asked for."""

    def __init__(self, split: EncodedSplit, seen: list[list[int]]) -> None:
        self.lengths, self.rows, self._split, self._seen = split.lengths, split.rows, split, seen
        self.example_weights = split.example_weights

    def __len__(self) -> int:
        return len(self._split)

    def feed(self, indices: Any, generator: Any = None) -> Any:
        self._seen.append(indices.tolist())
        return self._split.feed(indices, generator)


@pytest.mark.parametrize(
    ("kind", "epochs", "rate"),
    [("text", 30, 5e-3), ("image", 15, 3e-3), pytest.param("token", 40, 1e-2, marks=pytest.mark.soak)],
)
def test_32_rows_are_learned_by_heart(
    kind: str, epochs: int, rate: float, request: pytest.FixtureRequest, tmp_path: Path, tiny_bert: Path
) -> None:
    job: Job = request.getfixturevalue(f"{kind}_job")
    rows: Any = job.train
    if kind == "text":
        rows = text_split(tmp_path / "rows", tiny_bert, *some_texts(32))
    elif kind == "image":
        rows = image_split(tmp_path / "rows", 32)
    learner = Job(job.spec, job.module, job.label_map, rows, rows)
    state = learner.run(tmp_path / "run", epochs=epochs, batch_size=32, learning_rate=rate, schedule="constant")
    assert state.best_value is not None
    assert state.best_value < 0.05
    assert state.evaluations[state.best_epoch - 1]["accuracy"] == 1.0


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_frozen_module_stays_to_the_last_bit_while_its_head_learns(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Defect 10: freezing is proved by weights before and after, batch-norm statistics and optimizer state included."""
    job: Job = request.getfixturevalue(f"{kind}_job")
    frozen = Job(TaskSpec(job.spec.task, 2, trainable=False), job.module, job.label_map, job.train, job.dev)
    fresh = Session(frozen.spec, frozen.module, "cpu")
    fresh.initialise(0)
    before = fresh.weights()
    frozen.run(tmp_path, epochs=2, learning_rate=1e-2)
    after, state = frozen.session.weights(), load_file(newest(tmp_path, "last"))
    head = {"head.output.weight", "head.output.bias"}
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert moved == head
    kept_for_module = [
        name for name in state if any(name.startswith(f"{v}_") for v in frozen.session.graph.parameters.values())
    ]
    assert kept_for_module == []
    assert [name for name in state if "moment" in name and name.startswith("head.")] != []


def test_an_unfrozen_module_moves_in_every_weight_that_can(job: Job, tmp_path: Path) -> None:
    """Defect 10: what is not frozen learns."""
    fresh = Session(job.spec, job.module, "cpu")
    fresh.initialise(0)
    before = fresh.weights()
    job.run(tmp_path, epochs=1, warmup_proportion=0.0)
    after = job.session.weights()
    still = {name for name in before if before[name].tobytes() == after[name].tobytes()}
    # Adding the same to every score leaves a softmax as it is, so a key's bias has no gradient but for rounding.
    assert {name for name in still if not name.endswith("key.bias")} == set()


def test_l2_sp_pulls_a_block_that_is_unfrozen_later_towards_where_it_started(text_job: Job, tmp_path: Path) -> None:
    text_job.run(tmp_path, epochs=4, unfreeze_every_epochs=1, l2_sp=0.1)
    session = text_job.session
    found = session.weights()
    fresh = Session(text_job.spec, text_job.module, "cpu")
    fresh.initialise(0)
    pulled = [name for name in found if session.scope.find_var(f"{START}{session.names[name]}") is not None]
    assert {session.block_of(session.names[name]) for name in pulled} == set(session.blocks)
    for name in pulled:
        start = get_variable(session.scope, f"{START}{session.names[name]}")
        assert start.tobytes() == fresh.weights()[name].tobytes() != found[name].tobytes(), name


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    module = write_tiny_bert(tmp_path / "module")
    weights = load_file(module / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][VOCAB.index("acme")] = np.nan
    save_file(weights, module / "model.safetensors")
    texts, labels = some_texts(20)
    texts = [text.replace("Acme", "Ada") for text in texts]
    texts[12] += " acme"
    rows = text_split(tmp_path / "rows", module, texts, labels)
    job = Job(TaskSpec("text_classification", 2), module, SENTIMENT, rows, None)
    watch = Watch()
    with pytest.raises(
        TrainingError,
        match=r"step \d: the loss is nan, .*; rows of its batch: .*; norm of the gradients by block: head nan, .*",
    ) as caught:
        job.run(tmp_path / "run", watch, epochs=1, batch_size=4)
    assert f"step {len(watch.losses) + 1}: " in str(caught.value)
    listed = str(caught.value).partition("batch: ")[2].partition(";")[0].split(", ")
    assert "13" in listed
    assert len(listed) == 4
    assert np.isfinite(watch.losses).all()
