"""Updates: what is done to real gradients of real modules, against gradients of a program of its own and numpy."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_modules import (
    ENTITY_LABELS,
    SENTIMENT,
    VOCAB,
    image_split,
    settings,
    some_texts,
    text_split,
    token_split,
    write_text_module,
)

from hubflow.data.encoded import EncodedSplit
from hubflow.errors import DeviceError
from hubflow.programs.precision import BFLOAT16_FLAGS
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle, set_variable
from hubflow.schemas.labels import LabelMap
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.training.checkpoints import Checkpoints
from hubflow.training.distributed import World
from hubflow.training.loop import TrainingError, TrainingStopped, TrainPlan, TrainStep, train
from hubflow.training.optimizers import is_decayed
from hubflow.training.program import StepResult, TrainProgram, class_weights_of

pytestmark = pytest.mark.slow

RATE = 0.05
SIDES = LabelMap(labels=("left", "right"))
TEXT, TOKENS, IMAGE = (
    TaskSpec("text_classification", 2, head_dropout=0.0),
    TaskSpec("sequence_labelling", 5),
    TaskSpec("image_classification", 2),
)
Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def calm_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT without dropout of its own, so that parts of an update compute what the whole computes."""
    folder = tmp_path_factory.mktemp("modules") / "calm"
    return write_text_module(folder, "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> EncodedSplit:
    return image_split(tmp_path_factory.mktemp("images"), 16)


def plain(**values: Any) -> Any:
    """Settings under which an update moves a weight by the rate times its gradient."""
    return settings(**{"learning_rate": RATE, "optimizer": "sgd", "weight_decay": 0.0, "max_grad_norm": None, **values})


def started(spec: TaskSpec, module: Path, frozen: frozenset[str] = frozenset(), **values: Any) -> tuple[Session, TrainProgram]:
    session = Session(spec, module, "cpu", frozen)
    update = TrainProgram(session, plain(**values), None, World.alone())
    session.initialise(0)
    update.initialise()
    return session, update


def gradients_of(spec: TaskSpec, module: Path) -> Callable[[Arrays, Arrays], Arrays]:
    """Gradients of the task's own loss by our names, for given weights and feed: of a program that no update touched."""
    session = Session(spec, module, "cpu")
    main = session.task.main_program()
    with BUILD_LOCK, paddle.static.program_guard(main, paddle.static.Program()):
        trained = [one for one in main.global_block().all_parameters() if one.trainable]
        pairs = paddle.static.append_backward(session.task.variable("loss"), parameter_list=trained)
    pairs = [pair for pair in pairs if pair[1] is not None]
    session.initialise(0)
    ours = {variable: name for name, variable in session.names.items()}

    def compute(weights: Arrays, feed: Arrays) -> Arrays:
        for name, array in weights.items():
            set_variable(session.scope, session.names[name], array, session.place)
        found = session.run(main, feed, [gradient for _, gradient in pairs])
        return {ours[parameter.name]: value.astype(np.float64) for (parameter, _), value in zip(pairs, found, strict=True)}

    return compute


@pytest.fixture(scope="module")
def image_gradients(digits_module: Path) -> Callable[[Arrays, Arrays], Arrays]:
    return gradients_of(IMAGE, digits_module)


def norm_of(gradients: Arrays) -> float:
    return float(np.sqrt(sum((value**2).sum() for value in gradients.values())))


def is_moved_by(before: Arrays, after: Arrays, changes: Arrays) -> None:
    for name, change in changes.items():
        np.testing.assert_allclose(after[name] - before[name], change, rtol=1e-4, atol=2e-7, err_msg=name)


# Rates by block, penalties and clips


@pytest.mark.parametrize("kind", ["image", "text"])
def test_each_block_learns_at_its_share_of_the_rate_of_the_block_above(
    kind: str,
    digits_module: Path,
    calm_bert: Path,
    images: EncodedSplit,
    tmp_path: Path,
) -> None:
    spec, module = (IMAGE, digits_module) if kind == "image" else (TEXT, calm_bert)
    rows = images if kind == "image" else text_split(tmp_path, calm_bert, *some_texts(8))
    session, update = started(spec, module, layerwise_lr_decay=0.5)
    feed, before = rows.feed(np.arange(8)), session.weights()
    expected = gradients_of(spec, module)(before, feed)
    update.accumulate(feed, 1 / 8, RATE)
    depth = {block: number for number, block in enumerate(("head", *reversed(session.blocks)))}
    assert len(depth) == 4
    share = {name: 0.5 ** depth[session.block_of(session.names[name])] for name in expected}
    is_moved_by(before, session.weights(), {name: -RATE * share[name] * value for name, value in expected.items()})


def test_penalties_pull_pretrained_matrices_alone_towards_zero_and_towards_their_start(
    digits_module: Path, images: EncodedSplit, image_gradients: Any
) -> None:
    """L2 and L2-SP (arXiv:1802.01483), after a step away from the start, and in a process that resumed there."""
    values = {"l2": 0.3, "l2_sp": 0.2}
    session, update = started(IMAGE, digits_module, **values)
    start, feed = session.weights(), images.feed(np.arange(8))
    update.accumulate(feed, 1 / 8, RATE)
    before, state = session.weights(), update.state()
    resumed, again = started(IMAGE, digits_module, **values)
    again.load_state(state)
    expected = image_gradients(before, feed)
    pulled = {
        name for name, variable in session.names.items() if is_decayed(variable) and not name.startswith("head.")
    } & expected.keys()
    assert {name for name, value in start.items() if value.ndim == 4} == pulled
    for name in pulled:
        expected[name] += 0.3 * before[name] + 0.2 * (before[name].astype(np.float64) - start[name])
    for one, its_update in ((session, update), (resumed, again)):
        its_update.accumulate(feed, 1 / 8, RATE)
        is_moved_by(before, one.weights(), {name: -RATE * value for name, value in expected.items()})


@pytest.mark.parametrize(
    ("value", "norm"), [(None, 0.3), (None, 1e3), (0.02, None), (0.02, 0.05)], ids=["norm", "far", "value", "both"]
)
def test_gradients_are_clipped_by_value_then_by_global_norm_and_the_norm_told_is_from_before(
    value: float | None, norm: float | None, digits_module: Path, images: EncodedSplit, image_gradients: Any
) -> None:
    session, update = started(IMAGE, digits_module, max_grad_value=value, max_grad_norm=norm)
    before, feed = session.weights(), images.feed(np.arange(8))
    expected = image_gradients(before, feed)
    unclipped = norm_of(expected)
    report = update.accumulate(feed, 1 / 8, RATE)
    assert report.grad_norm == pytest.approx(unclipped, rel=1e-4)
    by_block: dict[str, float] = {}
    for name, gradient in expected.items():
        block = session.block_of(session.names[name])
        by_block[block] = by_block.get(block, 0.0) + float((gradient**2).sum())
    assert report.norms == pytest.approx({block: total**0.5 for block, total in by_block.items()}, rel=1e-4)
    if value is not None:
        expected = {name: np.clip(gradient, -value, value) for name, gradient in expected.items()}
        assert norm_of(expected) < unclipped
    factor = 1.0 if norm is None else min(1.0, norm / norm_of(expected))
    assert (factor < 1) == (norm is not None and norm < 1)
    is_moved_by(before, session.weights(), {name: -RATE * factor * one for name, one in expected.items()})


# Parts


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_an_update_in_parts_is_that_of_all_its_rows(kind: str, calm_bert: Path, tmp_path: Path) -> None:
    """Rows of very unequal lengths, all that weighs examples or changes gradients, a last update of fewer rows than parts."""
    generator = np.random.default_rng(5)
    sizes = [1, 60, 2, 40, 1, 3, 30, 1, 50, 2, 1, 45, 20, 1, 1, 2, 33, 1, 4]
    if kind == "text":
        spec, labels = TEXT, ["positive" if size > 3 else "negative" for size in sizes]
        texts = [" ".join(generator.choice(["good", "bad", "film", "old"], size)) for size in sizes]
        rows, label_map = text_split(tmp_path, calm_bert, texts, labels), SENTIMENT
    else:
        spec, label_map = TOKENS, ENTITY_LABELS
        pool = {"Paris": "B-LOC", "Ada": "B-PER", "Lovelace": "I-PER", "good": "O", "film": "O", "Upon": "I-LOC"}
        words = [list(map(str, generator.choice(list(pool), size))) for size in sizes]
        rows = token_split(tmp_path, calm_bert, words, [[pool[word] for word in row] for row in words], max_seq_len=90)
    updates = [np.arange(8), np.arange(8, 16), np.arange(16, 19)]
    values = {"label_smoothing": 0.1, "class_weights": "balanced", "optimizer": "momentum", "max_grad_norm": 0.1}
    values |= {"l2": 0.05, "l2_sp": 0.1, "max_grad_value": 0.05}
    found: dict[int, tuple[list[StepResult], Arrays]] = {}
    chosen = (4,) if kind == "text" else (2, 4)
    for parts in (1, *chosen):
        given = plain(**values, weight_decay=0.01, layerwise_lr_decay=0.9, gradient_accumulation_steps=parts)
        weights = class_weights_of(given, label_map, rows)
        session = Session(spec, calm_bert, "cpu")
        update = TrainProgram(session, given, weights, World.alone())
        session.initialise(0)
        update.initialise()
        train_step, state = TrainStep(rows, rows.example_weights(weights), 0, parts, World.alone()), TrainState()
        reports = []
        for indices in updates:
            reports.append(train_step.run(update, state, indices, RATE, stop=False))
            state.step += 1
        found[parts] = reports, session.weights()
    whole, weights_of_whole = found[1]
    assert min(report.grad_norm for report in whole) > 0.1  # so that clipping is part of what is compared
    for parts in chosen:
        reports, weights_in_parts = found[parts]
        for ours, theirs in zip(reports, whole, strict=True):
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert ours.norms == pytest.approx(theirs.norms, rel=1e-3)
        for name, value in weights_of_whole.items():
            np.testing.assert_allclose(weights_in_parts[name], value, atol=1e-6, err_msg=name)


def test_a_scale_of_the_loss_changes_nothing_and_a_dropped_update_leaves_no_trace(
    digits_module: Path, images: EncodedSplit
) -> None:
    """What float16 does on a GPU, in float32: the main program adds up, the second one applies or drops."""
    first, second = images.feed(np.arange(8)), images.feed(np.arange(8, 16))
    plainly, update = started(IMAGE, digits_module, gradient_accumulation_steps=2, optimizer="adamw")
    scaled, other = started(IMAGE, digits_module, gradient_accumulation_steps=2, optimizer="adamw")
    update.accumulate(first, 1 / 8, RATE)
    update.apply(RATE)
    other.accumulate(second, np.inf, RATE)
    before = other.state()
    other.apply(RATE, keep=False)
    trained = [name for name in before if not name.endswith((".w_1", ".w_2"))]  # but for statistics of batch norms
    assert all(before[name].tobytes() == value.tobytes() for name, value in other.state().items() if name in trained)
    other.load_state({name: value for name, value in started(IMAGE, digits_module)[1].state().items() if name in before})
    other.accumulate(first, 2.0**10 / 8, RATE)
    other.apply(RATE, scale=2.0**10)
    for name, value in plainly.weights().items():
        np.testing.assert_allclose(scaled.weights()[name], value, atol=1e-6, err_msg=name)


def test_an_update_whose_examples_all_weigh_nothing_changes_nothing(digits_module: Path, images: EncodedSplit) -> None:
    """With smoothing such an example still has a loss, and the mean over no weight would be without bounds."""
    given = plain(class_weights={"left": 0.0}, label_smoothing=0.1)
    weights = class_weights_of(given, SIDES, images)
    session = Session(IMAGE, digits_module, "cpu")
    update = TrainProgram(session, given, weights, World.alone())
    session.initialise(0)
    update.initialise()
    by_row = images.example_weights(weights)
    train_step, before = TrainStep(images, by_row, 0, 1, World.alone()), session.weights()
    report = train_step.run(update, TrainState(), np.flatnonzero(by_row == 0), RATE, stop=False)
    assert (report.loss, report.grad_norm) == (0.0, 0.0)
    assert all(name.endswith(("._mean", "._variance")) for name in moved(before, session.weights()))


# Freezing, over whole runs


def run(spec: TaskSpec, module: Path, rows: EncodedSplit, label_map: LabelMap, folder: Path, **more: Any) -> Session:
    """Train; `stop_after` steps when given, and then be stopped."""
    stop_after = more.pop("stop_after", None)
    watch = Watch(stop_after)
    session = Session(spec, module, "cpu")
    plan = TrainPlan(settings(**more), 0, label_map, "loss", rows, None)
    train(session, plan, Checkpoints(folder, keep=99), [watch], stop_asked=lambda: watch.is_stopped)
    return session


class Watch(Callback):
    """Asks to stop after so many steps."""

    def __init__(self, stop_after: int | None) -> None:
        self.stop_after, self.is_stopped = stop_after, False

    def on_step_end(self, state: TrainState, step: Step) -> None:
        self.is_stopped = step.step == self.stop_after


def kept(folder: Path, step: int) -> Arrays:
    return load_file(folder / f"last-{step:08d}" / "model.safetensors")


def size_of(folder: Path, step: int) -> int:
    return (folder / f"last-{step:08d}" / "model.safetensors").stat().st_size


def moved(before: Arrays, after: Arrays) -> set[str]:
    return {name for name in before.keys() & after.keys() if before[name].tobytes() != after[name].tobytes()}


@pytest.mark.parametrize("kind", ["image", "text"])
def test_gradual_unfreezing_freezes_weights_statistics_and_optimizer_state_until_a_blocks_turn(
    kind: str, digits_module: Path, calm_bert: Path, images: EncodedSplit, tmp_path: Path
) -> None:
    """PaddleHub's defect 10: gradual unfreezing that froze nothing, for the optimizer held every parameter from the start.

    Each epoch's checkpoint tells: what is frozen has the bits that it had and no state, what is not has moved, and the state of
    what was trained before goes on where it was.
    """
    spec, module = (IMAGE, digits_module) if kind == "image" else (TEXT, calm_bert)
    rows = images if kind == "image" else text_split(tmp_path / "rows", calm_bert, *some_texts(16))
    values = {"epochs": 4, "unfreeze_every_epochs": 1, "schedule": "constant", "warmup_proportion": 0.0}
    fresh = Session(spec, module, "cpu")
    fresh.initialise(0)
    variables = {fresh.names[name]: value for name, value in fresh.weights().items()}
    session = run(spec, module, rows, SENTIMENT, tmp_path / "run", **values)
    order = ("head", *reversed(session.blocks))
    assert len(order) == 4
    idle = {name for name in variables if name.endswith("attention.key.bias")}  # no scores differ by it: its gradient is 0
    before, sizes = variables, []
    for epoch in range(4):
        after = kept(tmp_path / "run", 2 * (epoch + 1))
        of_block = {name: session.block_of(name) for name in variables}
        trained = {name for name, block in of_block.items() if block in order[: epoch + 1]}
        assert moved(before, {name: after[name] for name in variables}) | idle == trained | idle
        state = {name: value for name, value in after.items() if name not in variables}
        owners = {name: next(owner for owner in variables if name.startswith(f"{owner}_")) for name in state}
        assert {of_block[owner] for owner in owners.values()} == set(order[: epoch + 1])
        powers = {of_block[owners[name]]: float(value.squeeze()) for name, value in state.items() if "beta1_pow" in name}
        # Paddle keeps beta1 to the power of the next step: a block of `since` epochs has taken two steps in each.
        steps = {block: 2 * (epoch + 1 - since) for since, block in enumerate(order[: epoch + 1])}
        assert powers == pytest.approx({block: 0.9 ** (count + 1) for block, count in steps.items()})
        before = {name: after[name] for name in variables}
        sizes.append(size_of(tmp_path / "run", 2 * (epoch + 1)))
    assert sizes == sorted(set(sizes))
    trainable = sum(value.nbytes for name, value in variables.items() if not name.endswith((".w_1", ".w_2")))
    assert sizes[-1] - sizes[0] > 1.5 * trainable  # two moments of each weight


def test_a_run_stopped_between_unfreezings_goes_on_bit_for_bit_with_l2_sp_from_the_first_start(
    digits_module: Path, images: EncodedSplit, tmp_path: Path
) -> None:
    values = {"epochs": 3, "unfreeze_every_epochs": 1, "l2_sp": 5.0, "optimizer": "adamw"}
    arguments = (IMAGE, digits_module, images, SIDES)
    run(*arguments, tmp_path / "whole", **values)
    with pytest.raises(TrainingStopped, match="after step 3 of 6"):
        run(*arguments, tmp_path / "cut", stop_after=3, **values)
    run(*arguments, tmp_path / "cut", **values)
    for step in (4, 6):
        whole, cut = kept(tmp_path / "whole", step), kept(tmp_path / "cut", step)
        assert whole.keys() == cut.keys()
        assert moved(whole, cut) == set()


def test_a_block_that_is_unfrozen_is_pulled_towards_where_it_started_and_not_towards_zero(
    digits_module: Path, images: EncodedSplit, tmp_path: Path
) -> None:
    values = {"unfreeze_every_epochs": 1, "schedule": "constant", "warmup_proportion": 0.0, "optimizer": "sgd"}
    values |= {"learning_rate": 1e-3, "weight_decay": 0.0, "max_grad_norm": None, "max_steps": 4}
    for name, pull in (("pulled", 100.0), ("free", 0.0)):
        run(IMAGE, digits_module, images, SIDES, tmp_path / name, l2_sp=pull, checkpoints={"every_steps": 1}, **values)
    # The first step after it is unfrozen begins at the start itself, where the pull is nothing; the next is pulled.
    assert moved(kept(tmp_path / "pulled", 3), kept(tmp_path / "free", 3)) == set()
    assert moved(kept(tmp_path / "pulled", 4), kept(tmp_path / "free", 4))


def test_the_first_blocks_stay_as_they_are_and_have_no_state(digits_module: Path, images: EncodedSplit, tmp_path: Path) -> None:
    fresh = Session(IMAGE, digits_module, "cpu")
    fresh.initialise(0)
    before = fresh.weights()
    session = run(IMAGE, digits_module, images, SIDES, tmp_path, epochs=1, freeze_blocks=2, weight_decay=0.5, l2=0.1)
    changed = moved(before, session.weights())
    assert {session.block_of(session.names[name]) for name in before.keys() - changed} == {"block1", "block2"}
    assert {session.block_of(session.names[name]) for name in changed} == {"block3", "head"}
    owners = [name for name in kept(tmp_path, 2) if "moment" in name]
    variables = {variable for name, variable in session.names.items() if name in changed}
    assert owners
    assert all(any(name.startswith(f"{variable}_") for variable in variables) for name in owners)


# What cannot go on


def test_a_rate_that_is_far_too_high_stops_with_step_rows_and_norms(
    digits_module: Path, images: EncodedSplit, tmp_path: Path
) -> None:
    values = {"learning_rate": 1e30, "optimizer": "sgd", "max_grad_norm": None, "warmup_proportion": 0.0, "weight_decay": 0.0}
    with pytest.raises(TrainingError) as caught:
        run(IMAGE, digits_module, images, SIDES, tmp_path, epochs=5, batch_size=4, **values)
    message = str(caught.value)
    number = r"(?:nan|inf|[\d.e+-]+)"
    match = re.match(
        rf"step (\d+): the loss is {number}, the gradients' norm {number}; rows of its batch: ([\d, ]+); norm of the gradients "
        rf"by block: (.*)\. The last checkpoint is from before it\. Lower train\.learning_rate",
        message,
    )
    assert match, message
    assert 2 <= int(match[1]) <= 5
    rows = [int(row) for row in match[2].split(", ")]
    assert len(set(rows)) == 4
    assert set(rows) <= set(range(1, 17))
    assert sorted(part.split()[0] for part in match[3].split(", ")) == ["block1", "block2", "block3", "head"]
    for folder in tmp_path.glob("last-*"):
        assert json.loads((folder / "state.json").read_text())["step"] < int(match[1])
        assert all(np.isfinite(value).all() for value in load_file(folder / "model.safetensors").values())


def test_a_weight_that_is_not_finite_stops_the_first_step_that_meets_it(calm_bert: Path, tmp_path: Path) -> None:
    module = write_text_module(tmp_path / "module", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    weights = load_file(module / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][VOCAB.index("acme")] = np.inf
    save_file(weights, module / "model.safetensors")
    texts, labels = some_texts(12)
    texts = [text.replace("Acme", "Ada") for text in texts]
    texts[6] += " acme"
    rows = text_split(tmp_path / "rows", module, texts, labels)
    with pytest.raises(TrainingError, match=r"the loss is nan, the gradients' norm nan") as caught:
        run(TEXT, module, rows, SENTIMENT, tmp_path / "run", epochs=1, batch_size=4)
    listed = re.search(r"rows of its batch: ([\d, ]+);", str(caught.value))
    assert listed
    assert "7" in listed[1].split(", ")


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_precision_that_the_cpu_cannot_compute_is_refused_with_what_was_found(precision: Any, calm_bert: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    if precision == "bfloat16" and set(flags).intersection(BFLOAT16_FLAGS):
        assert Session(TEXT, calm_bert, "cpu", precision=precision).precision == precision
        return
    found = {"float16": "needs a GPU, and this run is on the CPU", "bfloat16": "this one has (?:avx|no AVX)"}
    with pytest.raises(DeviceError, match=rf"train.precision {precision} .*{found[precision]}.*[uU]se float32"):
        Session(TEXT, calm_bert, "cpu", precision=precision)
