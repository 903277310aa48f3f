"""Settings of a sweep: every value of the space is held against the settings of a fine-tune before anything runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.sweep import SweepSettings

RATES = {"low": "1e-6", "high": 1e-3, "log": True}
DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "sweep.md"


def values(**more: Any) -> dict[str, Any]:
    data = {"format": "tsv", "train": "train.tsv"}
    base = {"task": "text_classification", "module": {"name": "ernie"}, "data": data, "train": {"optimizer": "adamw"}}
    return {"base": base, "space": {"train.learning_rate": RATES}, **more}


def settings(**more: Any) -> SweepSettings:
    return parse_settings(SweepSettings, values(**more))


def test_values_take_the_places_of_the_bases_and_all_else_stays_as_it_was_given() -> None:
    candidate = settings().candidate({"train.learning_rate": 0.5, "module.lora.rank": 4, "train.optimizer.beta1": 0.8})
    assert candidate == {
        **values()["base"],
        "module": {"name": "ernie", "lora": {"rank": 4}},
        "train": {"optimizer": {"name": "adamw", "beta1": 0.8}, "learning_rate": 0.5},
    }
    assert parse_settings(FineTuneSettings, candidate).train.learning_rate == 0.5


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.learning_rat": RATES}, "space.train.learning_rat: train.learning_rat: unknown setting; did you mean"),
        ({"train.epochs": {"low": 0, "high": 3}}, "space.train.epochs: train.epochs: .*greater than or equal to 1"),
        ({"train.epochs": {"low": 1.5, "high": 3}}, "space.train.epochs: train.epochs: .*integer"),
        ({"train.optimizer": {"choices": ["adamw", "adamm"]}}, "'adamm' is not known; did you mean 'adam'"),
        ({"train.epochs.few": {"low": 1, "high": 3}}, r"space.train.epochs.few: train.epochs: .*valid integer"),
        ({"train.optimizer": {"choices": ["adamw"], "low": 1}}, "give choices, or low and high, not both"),
        ({"train.epochs": {"low": 3, "high": 3}}, "low 3 is not below high 3"),
        ({"train.learning_rate": {"low": 0.0, "high": 1.0, "log": True}}, "log needs a low above 0"),
        ({"train.learning_rate": {"low": 1.0}}, "low and high, or choices, are needed"),
        ({"store": {"choices": ["a", "b"]}}, "space.store: is the same for all trials; set it in base"),
        ({}, "space: .*at least 1"),
    ],
)
def test_a_space_that_settings_would_refuse_is_refused(space: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(space=space)


def test_every_fault_of_the_space_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        settings(space={"train.epocs": {"low": 1, "high": 2}, "train.batch_size": {"low": 0, "high": 8}})
    assert "train.epocs: unknown setting" in str(refused.value)
    assert "train.batch_size: Input should be greater than or equal to 1" in str(refused.value)


@pytest.mark.parametrize(
    ("more", "metric", "better"),
    [
        ({}, "accuracy", "maximize"),
        ({"metric": "loss"}, "loss", "minimize"),
        ({"metric": "f1_macro", "direction": "minimize"}, "f1_macro", "minimize"),
        ({"metric": "mcc", "pruner": {"name": "none"}}, "mcc", "maximize"),
    ],
)
def test_metric_and_direction_have_defaults_that_fit(more: Any, metric: str, better: str) -> None:
    asked = settings(**more)
    assert (asked.dev_metric, asked.better) == (metric, better)


def test_a_metric_that_is_not_measured_during_training_cannot_prune() -> None:
    with pytest.raises(SettingsError, match=r"metric: 'unmeasured' is not measured while a trial trains.*pruner\.name: none"):
        settings(metric="unmeasured")


def test_how_long_and_where_a_sweep_runs_is_no_part_of_what_is_compared() -> None:
    one, other = settings(), values(trials=99, max_failures=9)
    other["base"] |= {"store": "elsewhere", "device": "cpu", "name": "x"}
    assert parse_settings(SweepSettings, other).identity() == one.identity()
    assert settings(seed=1).identity() != one.identity()


def test_the_documented_sweep_is_one() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(parse_settings(SweepSettings, yaml.safe_load(text)).space) == 3
