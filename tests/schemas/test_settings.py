"""Settings: the same from YAML, JSON and keywords; every fault at once, with suggestions; overrides; a sound JSON schema."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubflow.errors import SettingsError
from hubflow.schemas.deployment import NightlySettings
from hubflow.schemas.parsing import load_settings, parse_settings, read_settings, with_overrides
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, ModuleSpec, PredictSettings
from hubflow.schemas.training import TrainSettings

EXAMPLES = Path(__file__).parents[2] / "examples"


def values(**more: Any) -> dict[str, Any]:
    data = {"format": "tsv", "train": "train.tsv", "header": False, "text_column": 0, "label_column": 1}
    train = {"epochs": 2, "learning_rate": 1e-4}
    return {"task": "text_classification", "module": {"name": "ernie"}, "data": data, "train": train, **more}


def fault_of(given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_settings(FineTuneSettings, given, "run.yaml")
    return str(caught.value)


def test_yaml_json_and_keywords_give_equal_settings(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values()), encoding="utf-8")
    (tmp_path / "run.json").write_text("\ufeff" + json.dumps(values()), encoding="utf-8")
    keywords = FineTuneSettings(
        task="text_classification",
        module=ModuleSpec(name="ernie"),
        data=DatasetSpec(format="tsv", train="train.tsv", header=False, text_column=0, label_column=1),
        train=TrainSettings(epochs=2, learning_rate=1e-4),
    )
    assert load_settings(FineTuneSettings, tmp_path / "run.yaml") == keywords
    assert load_settings(FineTuneSettings, tmp_path / "run.json") == keywords
    assert FineTuneSettings.model_validate_json(keywords.model_dump_json()) == keywords


def test_a_learning_rate_that_yaml_reads_as_text_is_a_number() -> None:
    assert with_overrides(values(), ["train.learning_rate=1e-4"])["train"]["learning_rate"] == "1e-4"
    settings = parse_settings(FineTuneSettings, with_overrides(values(), ["train.learning_rate=1e-4"]))
    assert settings.train.learning_rate == 1e-4


def test_every_fault_is_told_at_once_with_a_suggestion() -> None:
    wrong = values(train={"epoch": 3, "batch_size": 0}, device="tpu", sede=1)
    wrong["data"]["dev_fraction"] = 1.5
    del wrong["module"]
    fault = fault_of(wrong)
    assert fault.startswith("run.yaml: 6 setting(s) are wrong")
    assert "train.epoch: unknown setting; did you mean 'epochs'?" in fault
    assert "sede: unknown setting; did you mean 'seed'?" in fault
    assert "train.batch_size: Input should be greater than or equal to 1 (found 0)" in fault
    assert "module: is required" in fault
    assert "device" in fault
    assert "data.dev_fraction" in fault


def test_a_name_like_no_other_lists_the_known_ones() -> None:
    assert "head.zzz: unknown setting; known here: dropout, hidden_units, num_classes" in fault_of(values(head={"zzz": 1}))


def test_a_value_where_a_group_is_expected_names_the_group() -> None:
    assert "module: expected a group of settings (name, revision" in fault_of(values(module="ernie"))


def test_format_and_best_metric_must_fit_the_task() -> None:
    wrong = values(task="sequence_labelling", train={"best_metric": "accuracy_score"})
    fault = fault_of(wrong)
    assert "data.format 'tsv' holds no rows for sequence_labelling; use one of conll, msra, jsonl, parquet" in fault
    assert "train.best_metric 'accuracy_score' is not measured for sequence_labelling; use one of loss, accuracy" in fault


@pytest.mark.parametrize("given", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(given: object) -> None:
    assert "run.yaml: expected a mapping of settings, found" in fault_of(given)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.yaml", None, "settings cannot be read"),
        ("bad.yaml", "task: [", "not valid YAML"),
        ("bad.json", '{"task": }', "not valid JSON"),
        ("list.yaml", "- task", "expected a mapping of settings, found list"),
        ("empty.yaml", "", "expected a mapping of settings, found NoneType"),
        ("latin.yaml", b"name: \xe9", "settings cannot be read"),
    ],
)
def test_a_file_without_settings_is_refused_by_name(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=name) as caught:
        read_settings(tmp_path / name)
    assert message in str(caught.value)


def test_overrides_reach_into_groups_and_leave_the_given_values_alone() -> None:
    given = values(name="run")
    changed = with_overrides(
        given, ["train.epochs=5", "head.hidden_units=[8, 4]", "data.text_column='0'", "seed=3", "data.dev=null"]
    )
    assert given == values(name="run")
    assert changed["train"] == {"epochs": 5, "learning_rate": 1e-4}
    assert changed["head"] == {"hidden_units": [8, 4]}
    assert changed["data"]["text_column"] == "0"
    assert changed["seed"] == 3
    assert changed["data"]["dev"] is None


def test_a_date_in_yaml_does_not_stop_overrides() -> None:
    assert with_overrides(yaml.safe_load("name: 2024-01-01"), ["seed=1"])["seed"] == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train.epochs", "expected NAME=VALUE"),
        ("=3", "expected NAME=VALUE"),
        ("train.epochs.more=3", "epochs is not a group of settings"),
        ("seed=[", "is no YAML value"),
    ],
)
def test_an_override_that_cannot_be_is_refused(entry: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        with_overrides(values(), [entry])


@pytest.mark.parametrize("model", [FineTuneSettings, PredictSettings])
def test_the_json_schema_is_valid_and_refuses_misspelt_names(model: type[FineTuneSettings | PredictSettings]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = model.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert list(jsonschema.Draft202012Validator(schema).iter_errors({"zzz": 1}))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_json_schema_accepts_each_example(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    model = NightlySettings if path.stem == "nightly" else FineTuneSettings
    schema = model.model_json_schema()
    faults = [fault.message for fault in jsonschema.Draft202012Validator(schema).iter_errors(read_settings(path))]
    assert faults == []


def test_settings_do_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        parse_settings(FineTuneSettings, values()).seed = 1  # type: ignore[misc]


def test_lora_needs_a_module_that_trains() -> None:
    with pytest.raises(SettingsError, match="lora trains adapters in the module, trainable: false trains nothing in it"):
        parse_settings(ModuleSpec, {"name": "x", "lora": {}, "trainable": False})


def test_targets_of_lora_are_each_named_once_in_one_order() -> None:
    spec = parse_settings(ModuleSpec, {"name": "x", "lora": {"targets": ["value", "query", "value"]}})
    assert spec.lora is not None
    assert (spec.lora.targets, spec.lora.rank, spec.lora.scale) == (("query", "value"), 8, 2.0)
    with pytest.raises(SettingsError, match=r"lora\.targets") as caught:
        parse_settings(ModuleSpec, {"name": "x", "lora": {"targets": [], "rank": 0, "alfa": 1}})
    assert "lora.rank" in str(caught.value)
    assert "did you mean 'alpha'" in str(caught.value)


def test_a_secret_in_the_stores_url_is_refused_and_not_shown() -> None:
    for url in ("s3://key:hush@bucket/store", "s3://bucket/store?secret=hush"):
        with pytest.raises(SettingsError, match="store: the URL holds a user, a password, a port or a query") as refused:
            parse_settings(FineTuneSettings, values(store=url))
        assert "hush" not in str(refused.value)
    assert parse_settings(FineTuneSettings, values(store="s3://bucket/store")).store == "s3://bucket/store"
