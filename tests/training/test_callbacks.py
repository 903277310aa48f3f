"""Callbacks: what would never be called, or cannot be called as it is, is refused before training, with the nearest name."""

from typing import Any

import pytest

from hubflow.errors import SettingsError
from hubflow.orchestration.progress import Watcher, followed_by
from hubflow.training.callbacks import METHODS, Callback, Step, TrainState, require_callbacks
from hubflow.training.trackers.trackers import HistoryFile


def named(*names: str, base: type = Callback) -> Any:
    """An instance of a class that has methods of these names, which take anything."""

    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    return type("Mine", (base,), dict.fromkeys(names, method))()


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("on_step_ends", "on_step_end"),
        ("on_epoch_end", "on_step_end"),
        ("on_evaluation", "on_evaluate"),
        ("on_train_start", "on_train_begin"),
        ("onTrainEnd", "on_train_end"),
        ("OnEvaluate", "on_evaluate"),
        ("state_dicts", "state_dict"),
        ("load_statedict", "load_state_dict"),
    ],
)
def test_a_misspelt_method_is_refused_with_the_nearest_name(misspelt: str, meant: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        require_callbacks([Watcher(), named(misspelt)])
    assert f"Mine.{misspelt} is never called; did you mean {meant!r}?" in str(refusal.value)


def test_every_fault_of_every_callback_is_named() -> None:
    class Short(Callback):
        def on_step_end(self, step: Step) -> None:  # type: ignore[override]
            return None

    with pytest.raises(SettingsError) as refusal:
        require_callbacks([named("on_ready"), Short(), Short, object()])
    told = str(refusal.value)
    assert "Mine.on_ready is never called" in told
    assert "Short.on_step_end: it is called with (state, step), but too many positional arguments" in told
    assert "Short is a class; give an instance of it, as in Short()" in told
    assert "object has no method on_train_begin; derive the class from Callback" in told


def test_what_is_right_passes_with_methods_and_attributes_of_its_own(tmp_path: Any) -> None:
    class Mine(Callback):
        on_gpu = True  # an attribute, not a method

        def __init__(self) -> None:
            self.steps, self.on_sum = [0], 0

        def on_step_end(self, state: TrainState, step: Step, more: int = 0) -> None:
            self.steps.append(step.step)

        def summary(self) -> int:
            return sum(self.steps)

    require_callbacks([Mine(), named(*METHODS, base=object), HistoryFile(str(tmp_path / "h.csv")), Watcher()])


def test_callbacks_for_every_training_in_a_block_are_held_to_the_same() -> None:
    with pytest.raises(SettingsError, match="did you mean 'on_step_end'"), followed_by(named("on_step_ends")):
        raise AssertionError("the block must not run")
