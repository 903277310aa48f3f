"""The objective: cross-entropy with smoothing and class weights as PyTorch defines it, written out here in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight
from small_modules import ENTITY_LABELS, SENTIMENT, image_split, settings, some_texts, some_tokens, text_split, token_split

from hubflow.errors import SettingsError
from hubflow.runtime.paddle_import import BUILD_LOCK, keep_program, paddle
from hubflow.schemas.labels import IGNORED_LABEL, LabelMap
from hubflow.tasks.task import create_img_cls_task, create_seq_label_task
from hubflow.training.program import NORMALISER, add_objective, class_weights_of

WEIGHTS = np.array([0.5, 2.0, 0.0, 1.25], np.float32)
ROWS, LENGTH, CLASSES = 6, 5, 4
SIDES = LabelMap(labels=("left", "right", "top"))


def torch_cross_entropy(logits: Any, label: Any, weights: Any = None, smoothing: float = 0.0, reduction: str = "mean") -> float:
    """`torch.nn.CrossEntropyLoss(weight, label_smoothing, reduction, ignore_index=-100)`, in float64."""
    logits, label = np.asarray(logits, np.float64).reshape(-1, CLASSES), np.asarray(label).reshape(-1)
    weights = np.ones(CLASSES) if weights is None else np.asarray(weights, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(-1, keepdims=True)) - shifted
    total, weight = 0.0, 0.0
    for row, y in enumerate(label):
        if y == IGNORED_LABEL:
            continue
        total += (1 - smoothing) * weights[y] * nll[row, y] + smoothing / CLASSES * float((weights * nll[row]).sum())
        weight += weights[y]
    return total / weight if reduction == "mean" else total


def values_of(kind: str, weights: Any, smoothing: float, normaliser: float) -> dict[str, Any]:
    """What the main program and the test program give on seeded features; every third label is ignored."""
    paddle.enable_static()
    scope, program = paddle.static.Scope(), paddle.static.Program()
    shape = [-1, 3] if kind == "rows" else [-1, -1, 3]
    with paddle.static.scope_guard(scope), BUILD_LOCK, paddle.utils.unique_name.guard():
        with paddle.static.program_guard(program, paddle.static.Program()):
            feature = paddle.static.data("feature", shape, "float32")
            lengths = paddle.static.data("seq_len", [-1], "int64")
        keep_program(program, [feature, lengths])
        sequences = kind == "tokens"
        task = create_seq_label_task(feature, lengths, CLASSES) if sequences else create_img_cls_task(feature, CLASSES)
        with paddle.static.program_guard(task.main_program(), paddle.static.Program()):
            objective = add_objective(task, smoothing, weights)
        executor = paddle.static.Executor(paddle.CPUPlace())
        paddle.seed(0)
        executor.run(task.startup_program())
        generator = np.random.default_rng(0)
        size = (ROWS, LENGTH) if sequences else (ROWS,)
        label = generator.integers(0, CLASSES, size)
        label.reshape(-1)[::3] = IGNORED_LABEL
        label.reshape(-1)[1] = 2  # of no weight
        feed = {"feature": generator.normal(0, 60, (*size, 3)).astype(np.float32), "label": label}
        feed["seq_len"] = np.full(ROWS, LENGTH)
        scale = {NORMALISER: np.array([normaliser], np.float32)}
        names = ("logits", "loss", "num_examples")
        trained = executor.run(task.main_program(), feed | scale, [objective, task.variable("loss")])
        tested = executor.run(task.test_program(), feed, [task.test_variable(name) for name in names])
    return {"label": label, "objective": trained[0], "loss": trained[1], **dict(zip(names, tested, strict=True))}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
@pytest.mark.parametrize("kind", ["rows", "tokens"])
def test_the_objective_is_torchs_cross_entropy_and_the_loss_on_dev_stays_plain(
    kind: str, weights: Any, smoothing: float
) -> None:
    found = values_of(kind, weights, smoothing, normaliser=1.0)
    logits, label = found["logits"], found["label"]
    assert found["objective"].shape == ()
    assert found["objective"] == pytest.approx(torch_cross_entropy(logits, label, weights, smoothing, "sum"), rel=1e-5)
    assert found["loss"] == pytest.approx(torch_cross_entropy(logits, label), rel=1e-5)
    assert found["num_examples"] == (label != IGNORED_LABEL).sum()
    counted = label[label != IGNORED_LABEL]
    weight = float(len(counted) if weights is None else weights[counted].sum())
    mean = values_of(kind, weights, smoothing, normaliser=1 / weight)["objective"]
    assert mean == pytest.approx(torch_cross_entropy(logits, label, weights, smoothing), rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn(tiny_bert: Path, tmp_path: Path) -> None:
    texts, labels = some_texts(30)
    labels = [*labels[:10], *["positive"] * 20]
    split = text_split(tmp_path / "text", tiny_bert, texts, labels)
    weights = class_weights_of(settings(class_weights="balanced"), SENTIMENT, split)
    expected = compute_class_weight("balanced", classes=np.array(SENTIMENT.labels), y=labels)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    ids = SENTIMENT.index()
    np.testing.assert_allclose(split.example_weights(weights), [expected[ids[label]] for label in labels], rtol=1e-6)
    assert split.example_weights(weights).mean() == pytest.approx(1.0)


def test_balanced_weights_of_sequences_count_words_and_not_pieces_or_rows(tiny_bert: Path, tmp_path: Path) -> None:
    tokens, tags = some_tokens(30)
    split = token_split(tmp_path / "tokens", tiny_bert, tokens, tags, max_seq_len=64)
    assert sum(map(len, tokens)) < split.lengths.sum() - 2 * len(tokens)  # there are words of several pieces
    weights = class_weights_of(settings(class_weights="balanced"), ENTITY_LABELS, split)
    words = [tag for row in tags for tag in row]
    expected = compute_class_weight("balanced", classes=np.array(ENTITY_LABELS.labels), y=words)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    ids = ENTITY_LABELS.index()
    by_row = [sum(expected[ids[tag]] for tag in row) for row in tags]
    np.testing.assert_allclose(split.example_weights(weights), by_row, rtol=1e-6)
    np.testing.assert_array_equal(split.example_weights(None), [len(row) for row in tokens])


def test_words_that_were_cut_off_weigh_nothing(tiny_bert: Path, tmp_path: Path) -> None:
    split = token_split(tmp_path, tiny_bert, [["good"] * 9, ["Paris"]], [["O"] * 9, ["B-LOC"]], max_seq_len=6)
    np.testing.assert_array_equal(split.example_weights(None), [4, 1])
    weights = class_weights_of(settings(class_weights="balanced"), ENTITY_LABELS, split)
    np.testing.assert_allclose(weights, [5 / (5 * 4), 5 / (5 * 1), 0, 0, 0])


def test_a_class_that_train_lacks_weighs_nothing_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    split = image_split(tmp_path, 12)
    assert split.label is not None
    weights = class_weights_of(settings(class_weights="balanced"), SIDES, split)
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=split.label)
    np.testing.assert_allclose(weights[:2], expected * 2 / 3, rtol=1e-6)
    assert weights[2] == 0
    np.testing.assert_allclose(split.example_weights(weights), weights[split.label])


def test_given_weights_are_by_label_and_1_where_none_is_given(tmp_path: Path) -> None:
    split = image_split(tmp_path, 12)
    weights = class_weights_of(settings(class_weights={"top": 3.5, "left": 0}), SIDES, split)
    np.testing.assert_array_equal(weights, np.array([0, 1, 3.5], np.float32))
    assert class_weights_of(settings(), SIDES, split) is None


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"bottom": 1.0}, r"train.class_weights: label\(s\) bottom are not in the data; its labels: left, right, top"),
        ({"left": 0, "right": 0, "top": 0}, "train.class_weights: every label weighs 0; give at least one a weight above 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(given: dict[str, float], fault: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=fault):
        class_weights_of(settings(class_weights=given), SIDES, image_split(tmp_path, 4))
