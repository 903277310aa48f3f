"""The study of a sweep: gone on with from another machine, held by one process, and not by trials that kill theirs."""

from pathlib import Path
from typing import Any

import pytest
from object_storage import ObjectStorage
from runs import digits_settings

from hubflow.errors import PrunedError, SweepError
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.sweep import SweepSettings
from hubflow.store.store import Store
from hubflow.training.callbacks import TrainState
from hubflow.tuning.study import MAX_STARTS, Pruning, open_study


def settings(store: object, **more: Any) -> SweepSettings:
    space = {"train.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}, "train.epochs": {"low": 1, "high": 9}}
    base = digits_settings(Path("store")) | {"store": str(store)}
    return parse_settings(SweepSettings, {"base": base, "space": space, "trials": 4, **more})


def drawn(store: object, **more: Any) -> list[dict[str, Any]]:
    """Values of every trial of a sweep whose trials all give the same."""
    asked = settings(store, **more)
    with open_study(asked, Store(str(store))) as study:
        while (trial := study.next()) is not None:
            study.complete(trial, {"accuracy": 0.5}, "data")
        return [one.values for one in study.trials()]


def test_trials_are_a_function_of_the_seed_and_within_the_space(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a")
    assert first == drawn(tmp_path / "b")
    assert first != drawn(tmp_path / "c", seed=1)
    assert len({one["train.learning_rate"] for one in first}) == 4
    assert all(1e-6 <= one["train.learning_rate"] <= 1e-2 and one["train.epochs"] in range(1, 10) for one in first)


def test_another_machine_goes_on_with_a_study_on_object_storage(s3: ObjectStorage, tmp_path: Path) -> None:
    asked = settings(s3.url)
    with open_study(asked, Store(s3.url)) as study:
        for _ in range(2):
            trial = study.next()
            assert trial is not None
            study.complete(trial, {"accuracy": 0.5}, "data")
        assert study.keep() == f"{s3.url}/sweeps/sweep/best.yaml"
    s3.be("two")
    assert drawn(s3.url) == drawn(tmp_path / "local")


def test_one_process_at_a_time_has_a_study(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with open_study(settings(tmp_path), store):
        with (
            pytest.raises(SweepError, match="another sweep named 'sweep' is running on this store"),
            open_study(settings(tmp_path), store),
        ):
            raise AssertionError
        with open_study(settings(tmp_path, name="other"), store):
            pass


def test_a_trial_that_ends_its_process_each_time_is_given_up(tmp_path: Path) -> None:
    for _ in range(MAX_STARTS):
        with open_study(settings(tmp_path), Store(tmp_path)) as study:
            trial = study.next()
            assert trial is not None
            assert trial.number == 0
    with open_study(settings(tmp_path), Store(tmp_path)) as study:
        trial = study.next()
        assert trial is not None
        assert trial.number == 1
        assert (study.trials()[0].state, study.trials()[0].error) == ("failed", f"ended its process {MAX_STARTS} times")


def test_trials_on_other_data_are_not_compared(tmp_path: Path) -> None:
    with open_study(settings(tmp_path), Store(tmp_path)) as study:
        for data in ("monday", "tuesday"):
            trial = study.next()
            assert trial is not None
            if data == "monday":
                study.complete(trial, {"accuracy": 0.5}, data)
                continue
            with pytest.raises(SweepError, match="the data has changed since the sweep 'sweep' began"):
                study.complete(trial, {"accuracy": 0.5}, data)


def test_the_smallest_loss_is_the_best_and_a_metric_that_is_absent_is_told(tmp_path: Path) -> None:
    with open_study(settings(tmp_path, metric="loss"), Store(tmp_path)) as study:
        for loss in (0.5, 0.2, 0.3):
            trial = study.next()
            assert trial is not None
            study.complete(trial, {"loss": loss}, "data")
        best, trial = study.best(), study.next()
        assert best is not None
        assert (best.number, best.value) == (1, 0.2)
        assert trial is not None
        with pytest.raises(SweepError, match="metric 'loss' is not measured on dev"):
            study.complete(trial, {"accuracy": 0.5}, "data")


def test_a_trial_behind_the_median_is_pruned_and_an_evaluation_told_twice_counts_once(tmp_path: Path) -> None:
    asked = settings(tmp_path, pruner={"startup_trials": 1})
    with open_study(asked, Store(tmp_path)) as study:
        for values in ((0.5, 0.9), (0.6, 0.2)):
            trial, state = study.next(), TrainState()
            assert trial is not None
            pruning = Pruning(trial, "accuracy")
            for value in values:
                state.evaluations.append({"accuracy": value})
                if value < 0.5:
                    with pytest.raises(PrunedError, match=r"pruned after evaluation 2: accuracy 0\.2000 on dev"):
                        pruning.on_evaluate(state, {"accuracy": value})
                    study.pruned(trial)
                else:
                    pruning.on_evaluate(state, {"accuracy": value})
                    pruning.on_evaluate(state, {"accuracy": value})
            if values[-1] > 0.5:
                study.complete(trial, {"accuracy": values[-1]}, "data")
        assert [(one.state, one.evaluations) for one in study.trials()] == [("complete", 2), ("pruned", 2)]
