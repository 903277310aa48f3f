"""docs/how-to/task-api.md is true: its code runs from top to bottom, and gives what the page says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sessions import own_scope

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[1] / "docs" / "how-to" / "task-api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's code leaves, run in an empty folder and a scope that stands for a process's own."""
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    with pytest.MonkeyPatch.context() as patch, own_scope():
        patch.chdir(tmp_path_factory.mktemp("page"))
        for block in blocks:
            exec(compile(block, "task-api.md", "exec"), namespace)  # noqa: S102
        namespace["folder"] = Path(namespace["folder"])
        namespace["names of variables"] = [
            {value.name for value in namespace[task].main_program().global_block().all_parameters()}
            for task in ("task", "tagger", "image_task", "second")
        ]
    return namespace


def test_the_loop_learns_and_the_metrics_are_those_that_the_page_names(names: dict[str, Any]) -> None:
    assert list(names["metrics"]) == ["loss", "accuracy"]
    assert names["metrics"]["accuracy"] > 0.9
    assert names["metrics"]["loss"] < float(names["loss"])


def test_the_export_predicts_what_was_trained(names: dict[str, Any]) -> None:
    assert names["prediction"].label == "positive"
    assert {path.name for path in names["folder"].iterdir()} >= {"manifest.json", "signature.json", "tokenizer.json"}
    texts = [one.label for one in names["predictor"].predict(names["texts"])]
    assert (
        np.mean([label == ["negative", "positive"][place] for label, place in zip(texts, names["labels"], strict=True)]) > 0.9
    )


def test_words_and_images_are_predicted(names: dict[str, Any]) -> None:
    assert [one.label for one in names["tags"]] == [("O", "O", "B-LOC", "I-LOC"), ("B-LOC", "O", "O")]
    assert [one.label in ("left", "right") for one in names["images"]] == [True] * 8


def test_variables_are_called_as_the_page_says(names: dict[str, Any]) -> None:
    first, second, third, own_scope = names["names of variables"]
    assert {"embeddings.word.weight", "head.output.weight"} <= first
    assert {"context_2.embeddings.word.weight", "context_2.head.output.weight"} <= second
    assert "context_3.head.output.weight" in third
    assert "head.output.weight" in own_scope
