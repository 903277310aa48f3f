"""The control of a run: its length, when it is evaluated, saved and over, what is best and what is frozen."""

from collections.abc import Iterator
from typing import Any

import pytest

from hubflow.errors import SettingsError
from hubflow.schemas.training import TrainSettings
from hubflow.training.callbacks import TrainState
from hubflow.training.loop import TrainerControl

BLOCKS = ("embeddings", "encoder.0", "encoder.1")


def control(rows: int = 20, has_dev: bool = True, metric: str = "loss", **values: Any) -> TrainerControl:
    return TrainerControl(
        TrainSettings(**{"batch_size": 8, **values}), BLOCKS, rows, has_dev, metric, lower_is_better=metric == "loss"
    )


def walk(
    one: TrainerControl, values: Iterator[float] | None = None, metric: str = "loss"
) -> tuple[TrainState, dict[str, list[int]]]:
    """Go the whole control as the loop does, evaluated with `values`; the steps at which each thing was due."""
    state, steps = TrainState(), {"evaluated": [], "saved": [], "logged": [], "best": []}
    while True:
        if one.should_evaluate(state):
            steps["evaluated"].append(state.step)
            if one.record_evaluation(state, {} if values is None else {"other": 9.0, metric: next(values)}):
                steps["best"].append(state.step)
        if one.should_stop(state):
            return state, steps
        one.advance(state)
        steps["saved"] += [state.step] * one.should_save(state)
        steps["logged"] += [state.step] * one.is_logged(state)


def test_epochs_give_the_length_and_every_epoch_is_evaluated() -> None:
    state, steps = walk(control(epochs=3), iter([0.5, 0.4, 0.3]))
    assert (state.step, state.epoch, state.position) == (9, 3, 0)
    assert steps["evaluated"] == steps["saved"] == steps["best"] == [3, 6, 9]
    assert [(entry["epoch"], entry["step"], entry["loss"]) for entry in state.evaluations] == [
        (1, 3, 0.5),
        (2, 6, 0.4),
        (3, 9, 0.3),
    ]


def test_max_steps_take_the_place_of_epochs_and_may_end_within_one() -> None:
    state, steps = walk(control(epochs=1, max_steps=7), iter([0.5, 0.4, 0.3]))
    assert (state.step, state.epoch, state.position) == (7, 2, 1)
    assert steps["evaluated"] == [3, 6, 7]
    assert state.evaluations[-1]["epoch"] == 3  # the one that it is in
    assert control(epochs=1, max_steps=7).schedule.total_steps == 7
    assert walk(control(max_steps=2), iter([0.5]))[1]["evaluated"] == [2]


def test_judging_every_so_many_steps_takes_the_place_of_judging_every_epoch() -> None:
    state, steps = walk(control(epochs=3, evaluate_every_steps=4), iter([0.5, 0.4, 0.3]))
    assert steps["evaluated"] == [4, 8, 9]
    assert steps["saved"] == [3, 6, 9]  # where an epoch ends, a checkpoint is written all the same
    assert [entry["epoch"] for entry in state.evaluations] == [2, 3, 3]


def test_checkpoints_and_the_history_have_their_own_steps() -> None:
    _, steps = walk(control(epochs=3, log_every_steps=4, checkpoints={"every_steps": 2}), iter([0.5, 0.4, 0.3]))
    assert steps["saved"] == [2, 3, 4, 6, 8, 9]
    assert steps["logged"] == [1, 4, 8]


def test_without_a_dev_split_the_last_weights_are_the_best() -> None:
    state, steps = walk(control(epochs=2, has_dev=False, evaluate_every_steps=1))
    assert steps["evaluated"] == steps["best"] == [6]
    assert (state.best_step, state.best_epoch, state.best_value, state.evaluations) == (6, 2, None, [])


@pytest.mark.parametrize(
    ("metric", "values", "best", "value"),
    [("loss", [0.5, 0.2, 0.3, 0.2], [3, 6], 0.2), ("accuracy", [0.5, 0.2, 0.6, 0.6], [3, 9], 0.6)],
)
def test_the_best_loss_is_the_smallest_and_any_other_metric_the_largest(
    metric: str, values: list[float], best: list[int], value: float
) -> None:
    state, steps = walk(control(epochs=4, metric=metric), iter(values), metric)
    assert steps["best"] == best  # an equal one later does not take its place
    assert (state.best_step, state.best_epoch, state.best_value) == (best[-1], best[-1] // 3, value)


def test_a_metric_that_is_not_a_number_is_never_the_best_for_long() -> None:
    nan = float("nan")
    for metric in ("loss", "accuracy"):
        state, steps = walk(control(epochs=4, metric=metric), iter([nan, 0.5, nan, 0.5]), metric)
        assert steps["best"] == [3, 6]
        assert state.best_value == 0.5


@pytest.mark.parametrize(
    ("metric", "values", "min_delta", "stopped", "best"),
    [
        ("loss", [0.5, 0.6, 0.6, 0.1], 0.0, 3, 1),
        ("loss", [0.5, 0.6, 0.4, 0.4, 0.5], 0.0, 5, 3),
        ("accuracy", [0.5, 0.4, 0.4, 0.9], 0.0, 3, 1),
        ("accuracy", [0.5, 0.4, 0.6, 0.6, 0.5], 0.0, 5, 3),
        # Better by less than min_delta is the best, but does not reset the patience, and later ones must beat the old value.
        ("loss", [0.5, 0.45, 0.41, 0.1], 0.1, 3, 3),
        ("loss", [0.5, 0.45, 0.39, 0.35, 0.31], 0.1, 5, 5),
        ("accuracy", [0.5, 0.55, 0.59, 0.9], 0.1, 3, 3),
        ("accuracy", [0.5, 0.55, 0.61, 0.65, 0.69], 0.1, 5, 5),
        ("loss", [0.5, 0.6, 0.4, 0.5, 0.3, 0.2], 0.0, 6, 6),
    ],
)
def test_early_stopping_counts_evaluations_in_a_row_that_are_not_better(
    metric: str, values: list[float], min_delta: float, stopped: int, best: int
) -> None:
    one = control(epochs=6, metric=metric, early_stopping={"patience": 2, "min_delta": min_delta})
    state, _ = walk(one, iter(values), metric)
    assert (len(state.evaluations), state.epoch, state.best_epoch) == (stopped, stopped, best)


def test_early_stopping_needs_something_to_judge_on() -> None:
    with pytest.raises(SettingsError, match=r"train.early_stopping needs a dev split .*data.dev or a dev_fraction"):
        control(has_dev=False, early_stopping={"patience": 1})


def test_a_step_is_evaluated_once_even_when_the_loop_comes_back_to_it() -> None:
    one, state = control(), TrainState(step=3, epoch=1)
    assert one.should_evaluate(state)
    one.record_evaluation(state, {"loss": 0.5})
    assert not one.should_evaluate(state)


def test_a_best_metric_that_is_not_measured_lists_what_is() -> None:
    with pytest.raises(SettingsError, match="best_metric 'f2' is not measured; measured: loss, accuracy"):
        control(metric="f2").record_evaluation(TrainState(step=3), {"loss": 0.5, "accuracy": 0.5})


@pytest.mark.parametrize(
    ("values", "frozen"),
    [
        ({}, [0, 0, 0]),
        ({"freeze_blocks": 2}, [2, 2, 2]),
        ({"unfreeze_every_epochs": 1}, [3, 2, 1, 0, 0]),
        ({"unfreeze_every_epochs": 2}, [3, 3, 2, 2, 1, 1, 0, 0]),
        ({"unfreeze_every_epochs": 1, "freeze_blocks": 2}, [3, 2, 2, 2]),
        ({"freeze_blocks": 3}, [3, 3]),
    ],
)
def test_frozen_blocks_are_the_bottom_ones_and_are_given_free_from_the_top(values: dict[str, Any], frozen: list[int]) -> None:
    one = control(**values)
    assert [one.frozen(epoch) for epoch in range(len(frozen))] == [frozenset(BLOCKS[:count]) for count in frozen]


def test_more_blocks_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(SettingsError, match="freeze_blocks is 4, but the module has 3 blocks: embeddings"):
        control(freeze_blocks=4)


@pytest.mark.parametrize("warmup", [9, 10, 1000])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup: int) -> None:
    fault = f"train.warmup_steps is {warmup}, but the run has 9 steps .20 rows in batches of 8.*would rise to the end"
    with pytest.raises(SettingsError, match=fault):
        control(epochs=3, warmup_steps=warmup)
    with pytest.raises(SettingsError, match="but the run has 2 steps"):
        control(max_steps=2, warmup_steps=warmup)
    assert control(epochs=3, warmup_steps=8).schedule.warmup_steps == 8
    assert control(max_steps=1, warmup_steps=0).schedule.warmup_steps == 0
