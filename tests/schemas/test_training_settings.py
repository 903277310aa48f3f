"""Settings of training: a name or a name with arguments, and faults told in the words of the file that holds them."""

from typing import Any, get_args

import pytest

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.training import (
    AdamW,
    AnyOptimizer,
    AnySchedule,
    Linear,
    OptimizerName,
    Polynomial,
    RmsProp,
    ScheduleName,
    TrainSettings,
)

OPTIMIZERS = "sgd, momentum, adam, adamw, adamax, adagrad, rmsprop, lamb"
SCHEDULES = "constant, linear, cosine, polynomial, noam, slanted_triangular"


def fault_of(**values: Any) -> str:
    """The only fault of `values`, without its heading."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(TrainSettings, values, "train.yaml")
    heading, *faults = str(caught.value).splitlines()
    assert heading == "train.yaml: 1 setting(s) are wrong"
    assert len(faults) == 1
    return faults[0].removeprefix("  - ")


def names_of(union: Any) -> list[str]:
    return [kind.model_fields["name"].default for kind in get_args(union)]


def test_a_name_stands_for_its_default_arguments() -> None:
    settings = parse_settings(TrainSettings, {"optimizer": "rmsprop", "schedule": "polynomial"})
    assert (settings.optimizer, settings.schedule) == (RmsProp(), Polynomial())
    with_arguments = {"optimizer": {"name": "rmsprop", "rho": 0.5}, "schedule": {"name": "polynomial", "power": 1}}
    settings = parse_settings(TrainSettings, with_arguments)
    assert (settings.optimizer, settings.schedule) == (RmsProp(rho=0.5), Polynomial(power=1.0))
    assert (TrainSettings().optimizer, TrainSettings().schedule) == (AdamW(), Linear())


def test_the_lists_of_names_are_those_of_the_kinds() -> None:
    assert ", ".join(names_of(AnyOptimizer)) == ", ".join(get_args(OptimizerName)) == OPTIMIZERS
    assert ", ".join(names_of(AnySchedule)) == ", ".join(get_args(ScheduleName)) == SCHEDULES


@pytest.mark.parametrize(
    ("setting", "given", "fault"),
    [
        ("optimizer", "adagard", f"optimizer: 'adagard' is not known; did you mean 'adagrad'? Known: {OPTIMIZERS}"),
        ("optimizer", {"name": "zzz"}, f"optimizer: 'zzz' is not known. Known: {OPTIMIZERS}"),
        ("schedule", "cosin", f"schedule: 'cosin' is not known; did you mean 'cosine'? Known: {SCHEDULES}"),
        ("optimizer", {"beta1": 0.8}, f"optimizer.name: is required; one of {OPTIMIZERS}"),
        ("optimizer", 3, f"optimizer: expected a name, or a group of settings with one ({OPTIMIZERS}), found 3"),
        ("optimizer", {"name": "adam", "beta3": 1}, "optimizer.beta3: unknown setting; did you mean 'beta2'?"),
        (
            "optimizer",
            {"name": "adam", "momentum": 0.9},
            "optimizer.momentum: unknown setting; known here: beta1, beta2, epsilon, name",
        ),
        ("optimizer", {"name": "sgd", "momentum": 0.9}, "optimizer.momentum: unknown setting; known here: name"),
        ("optimizer", {"name": "adam", "beta1": 1.0}, "optimizer.beta1: Input should be less than 1 (found 1.0)"),
        ("schedule", {"name": "polynomial", "pow": 2}, "schedule.pow: unknown setting; did you mean 'power'?"),
    ],
)
def test_an_unknown_name_or_argument_is_refused_with_the_known_ones(setting: str, given: Any, fault: str) -> None:
    """Defect 8: an unknown optimizer name silently became Adam, and its arguments were ignored."""
    assert fault_of(**{setting: given}) == fault


def test_a_fault_below_a_group_is_named_as_it_is_written_in_the_file() -> None:
    values = {"train": {"optimizer": {"name": "adam", "bta1": 0.8}, "early_stopping": {"patiense": 1}}}
    with pytest.raises(SettingsError) as caught:
        parse_settings(FineTuneSettings, values)
    assert "  - train.optimizer.bta1: unknown setting; did you mean 'beta1'?\n" in str(caught.value)
    assert "  - train.early_stopping.patiense: unknown setting; did you mean 'patience'?" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("balance", "class_weights: expected 'balanced', or a weight for each label, as in {positive: 2.0} (found 'balance')"),
        ([1, 2], "class_weights: expected 'balanced', or a weight for each label, as in {positive: 2.0} (found [1, 2])"),
        ({"a": -1}, "class_weights.a: Input should be greater than or equal to 0 (found -1)"),
        ({"balanced": "x"}, "class_weights.balanced: Input should be a valid number"),
    ],
)
def test_class_weights_are_a_word_or_a_weight_for_each_label(given: Any, fault: str) -> None:
    assert fault_of(class_weights=given).startswith(fault)


@pytest.mark.parametrize("given", [None, "balanced", {"a": 0, "b": 2.5}])
def test_right_class_weights_are_taken(given: Any) -> None:
    assert parse_settings(TrainSettings, {"class_weights": given}).class_weights == given


def test_one_kind_of_warm_up_is_given() -> None:
    assert "give warmup_proportion or warmup_steps, not both" in fault_of(warmup_steps=3, warmup_proportion=0.2)
    for fine in ({"warmup_steps": 3}, {"warmup_steps": 3, "warmup_proportion": 0}, {"warmup_proportion": 0.2}):
        parse_settings(TrainSettings, fine)


def test_settings_that_were_written_out_can_be_read_again() -> None:
    for settings in (
        TrainSettings(),
        TrainSettings(warmup_steps=5),
        TrainSettings(optimizer=RmsProp(centered=True), class_weights={"a": 2.0}),
    ):
        assert parse_settings(TrainSettings, settings.model_dump(mode="json")) == settings


def test_what_only_watches_is_no_part_of_what_the_weights_depend_on() -> None:
    plain, watched = TrainSettings(), parse_settings(TrainSettings, {"checkpoints": {"keep": 9}, "preflight": False})
    assert plain.result_settings() == watched.result_settings()
    assert plain.result_settings() != TrainSettings(optimizer=AdamW(beta1=0.8)).result_settings()


@pytest.mark.parametrize("kind", ["optimizer", "schedule"])
def test_the_json_schema_takes_a_name_or_a_name_with_arguments(kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(TrainSettings.model_json_schema())
    for name in get_args(OptimizerName if kind == "optimizer" else ScheduleName):
        assert validator.is_valid({kind: name})
        assert validator.is_valid({kind: {"name": name}})
        assert not validator.is_valid({kind: {"name": name, "zzz": 1}})
    assert not validator.is_valid({kind: "adagard"})
