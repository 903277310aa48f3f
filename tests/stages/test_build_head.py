"""build_head: checked against labels and module, and the same program from the same specification."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from runs import WORDS, Run, digits_settings, text_settings
from small_modules import make_tiny_bert

from hubflow.errors import HubflowError, SettingsError
from hubflow.programs.session import open_session, task_spec
from hubflow.schemas.references import TaskRef
from hubflow.schemas.settings import FineTuneSettings, HeadSettings, LoraSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.store import Store

Build = Callable[..., TaskRef]


def test_the_same_specification_gives_the_same_artefact_and_parameters(text_run: Run) -> None:
    run, store = text_run, text_run.settings.store
    again = build_head.fn(
        run.settings.task, run.module, run.dataset, run.settings.module, run.settings.head, store, reuse=False
    )
    assert again == run.task
    names = json.loads((run.store.open(run.task).folder / "parameters.json").read_text(encoding="utf-8"))
    assert sorted(open_session(run.task, run.store, "cpu").names) == names
    assert [name for name in names if name.startswith("head.")]


@pytest.mark.parametrize(
    ("task", "head", "message"),
    [
        ("text_classification", {"num_classes": 5}, "head.num_classes is 5, but the data has 2 labels"),
        ("image_classification", {}, "is of kind text; image_classification needs image"),
        ("sequence_labelling", {"hidden_units": [4]}, "a sequence labelling head has one layer"),
    ],
)
def test_what_does_not_fit_is_refused(task: Any, head: dict[str, Any], message: str, text_run: Run) -> None:
    settings = HeadSettings.model_validate(head)
    with pytest.raises(HubflowError) as caught:
        build_head.fn(task, text_run.module, text_run.dataset, text_run.settings.module, settings, text_run.settings.store)
    assert message in str(caught.value)


@pytest.fixture(scope="module", params=["text", "image"])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build_head on a small text or image module, given settings of `module` and `head`."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "text":
        values = text_settings(folder, make_tiny_bert(folder / "bert", WORDS))
    else:
        values = digits_settings(folder / "store")
    settings = FineTuneSettings.model_validate(values)
    dataset, module = (
        load_dataset.fn(settings.data, settings.task, settings.store),
        load_module.fn(settings.module, settings.store),
    )

    def build(module_settings: dict[str, Any], head: dict[str, Any]) -> TaskRef:
        spec = settings.module.model_validate({**settings.module.model_dump(), **module_settings})
        return build_head.fn(settings.task, module, dataset, spec, HeadSettings.model_validate(head), settings.store)

    build.store, build.kind = Store(settings.store), request.param  # type: ignore[attr-defined]
    return build


def test_dropout_of_the_head_is_part_of_the_specification(build: Any) -> None:
    task, plain = build({}, {"dropout": 0.3}), build({}, {})
    assert task.sha256 != plain.sha256
    assert task == build({}, {"dropout": 0.3})
    found = [task_spec(build.store.open(one).facts).head_dropout for one in (task, plain)]
    assert found == [0.3, None]


def test_dropout_of_the_module_is_for_texts_alone(build: Any) -> None:
    given = {"dropout": 0.2, "attention_dropout": 0.0}
    if build.kind == "image":
        with pytest.raises(SettingsError, match=r"module\.dropout and module\.attention_dropout: .* set head\.dropout instead"):
            build(given, {})
        return
    session = open_session(build(given, {}), build.store, "cpu")
    assert (session.config.hidden_dropout, session.config.attention_dropout) == (0.2, 0.0)  # type: ignore[union-attr]
    own = open_session(build({}, {}), build.store, "cpu").config
    assert (own.hidden_dropout, own.attention_dropout) == (0.1, 0.1)  # type: ignore[union-attr]


def test_lora_is_part_of_the_specification_and_for_texts_alone(build: Any) -> None:
    lora = {"rank": 2, "targets": ["output", "query"]}
    if build.kind == "image":
        with pytest.raises(SettingsError, match=r"dropout; set head\.dropout instead\nmodule\.lora: .* leave it out"):
            build({"lora": lora, "dropout": 0.1}, {})
        return
    task = build({"lora": lora}, {})
    assert task.sha256 != build({}, {}).sha256
    assert task_spec(build.store.open(task).facts).lora == LoraSettings(rank=2, targets=("query", "output"))
    names = json.loads((build.store.open(task).folder / "parameters.json").read_text(encoding="utf-8"))
    assert "encoder.1.attention.output.lora_b" in names
