"""build_head: checked against labels and module, and the same program from the same specification."""

import json
from typing import Any

import pytest
from runs import Run

from hubflow.schemas.errors import HubflowError
from hubflow.schemas.settings import HeadSettings
from hubflow.stages.build_head import build_head, open_session


def test_the_same_specification_gives_the_same_artefact_and_parameters(text_run: Run) -> None:
    run, store = text_run, text_run.settings.store
    again = build_head(run.settings.task, run.module, run.dataset, run.settings.module, run.settings.head, store, reuse=False)
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
        build_head(task, text_run.module, text_run.dataset, text_run.settings.module, settings, text_run.settings.store)
    assert message in str(caught.value)
