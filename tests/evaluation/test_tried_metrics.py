"""A user's own metrics are run before training, on rows of the data with made-up predictions."""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import WORDS, run_stages, text_settings
from small_modules import make_tiny_bert

from hubflow.errors import MetricError
from hubflow.evaluation.folder import require_evaluable
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.load_dataset import load_dataset

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "metrics.md").read_text(encoding="utf-8")
COST = re.search(r"```python\n(import pandas as pd  # my_metrics\.py.*?)```", PAGE, re.DOTALL)
OTHERS = """

def product(evaluated, labels):
    return float((evaluated["price"] * (evaluated["label"] != evaluated["predicted"])).sum())

def scored(evaluated, labels):
    assert set(evaluated["label"]) == set(labels)
    assert 0 < (evaluated["label"] == evaluated["predicted"]).mean() < 1
    columns = [f"probability_{label}" for label in labels]
    assert ((evaluated[columns].sum(axis=1) - 1).abs() < 1e-5).all()
    assert (evaluated["loss"] > 0).all()
    return len(evaluated)

def words(evaluated, labels):
    return sum(len(left) == len(right) for left, right in zip(evaluated["label"], evaluated["predicted"]))

def undefined(evaluated, labels):
    return float("nan")

def word(evaluated, labels):
    return "seven"
"""
CONTRACT = """
import pandera.pandas as pa
from pandera.typing import Series
from hubflow.schemas.rows import TextRows

class Priced(TextRows):
    price: Series[float] = pa.Field(coerce=True)
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert COST is not None
    (tmp_path / "my_metrics.py").write_text(COST[1] + OTHERS, encoding="utf-8")
    (tmp_path / "my_contracts.py").write_text(CONTRACT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("my_metrics", "my_contracts"):
        sys.modules.pop(name, None)


def settings(folder: Path, metrics: list[str], rows: int = 40, **data: Any) -> FineTuneSettings:
    """Settings on CSV with a price for each row, its rows sorted by label."""
    given = text_settings(folder, folder / "bert")
    for split in ("train", "dev", "test"):
        lines = [f"{'fine' if n >= rows / 2 else 'dull'} film {n} of {split},{int(n >= rows / 2)},{n}.5" for n in range(rows)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label,price", *lines]) + "\n")
    files = {split: str(folder / f"{split}.csv") for split in ("train", "dev", "test")}
    evaluate = {"metrics": [f"my_metrics:{name}" for name in metrics]}
    return FineTuneSettings.model_validate({**given, "data": {"format": "csv", **files, **data}, "evaluate": evaluate})


def loaded(one: FineTuneSettings) -> DatasetRef:
    return load_dataset.fn(one.data, one.task, one.store)


def test_the_metric_of_the_page_runs_on_csv_to_the_end(tmp_path: Path) -> None:
    make_tiny_bert(tmp_path / "bert", WORDS)
    run = run_stages(settings(tmp_path, ["cost"]))
    require_evaluable(run.settings.evaluate, run.dataset, run.settings.store)
    evaluated = pd.read_parquet(run.store.open(run.evaluation).folder / "test.parquet")
    cost = evaluated["price"].astype(float)[evaluated["label"] != evaluated["predicted"]].sum()
    assert run.evaluation.metrics["test"]["my_metrics:cost"] == cost


def test_a_metric_that_takes_text_for_numbers_is_refused_before_training(tmp_path: Path) -> None:
    one = settings(tmp_path, ["product"])
    fault = (
        r"'my_metrics:product' failed on dev \(40 rows, tried first with made-up predictions\): \w+Error: .*"
        r"my_metrics\.py, line \d+, in product: .*; the columns are .*price \(text\)"
    )
    with pytest.raises(MetricError, match=fault):
        require_evaluable(one.evaluate, loaded(one), one.store)
    typed = settings(tmp_path, ["product", "cost"], contract="my_contracts:Priced")
    require_evaluable(typed.evaluate, loaded(typed), typed.store)


def test_the_rows_of_the_trial_are_those_of_an_evaluation(tmp_path: Path) -> None:
    """Of many rows, sorted by label, all labels are among those that are tried."""
    one = settings(tmp_path, ["scored"], rows=3000)
    require_evaluable(one.evaluate, loaded(one), one.store)


def test_a_value_that_is_not_finite_is_said_and_one_that_is_no_number_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = settings(tmp_path, ["undefined"])
    with caplog.at_level(logging.WARNING):
        require_evaluable(one.evaluate, loaded(one), one.store)
    assert "'my_metrics:undefined' gives nan on dev with made-up predictions" in caplog.text
    one = settings(tmp_path, ["word"])
    with pytest.raises(MetricError, match="'my_metrics:word' gave 'seven' on dev; expected one finite number"):
        require_evaluable(one.evaluate, loaded(one), one.store)


def test_sentences_are_tried_too(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.conll").write_text("Ada B-PER\nvisits O\n\nBonn B-LOC\n\n" * 3)
    data = {"format": "conll", "train": str(tmp_path / "train.conll"), "test": str(tmp_path / "test.conll")}
    given = {"task": "sequence_labelling", "module": {"name": "x"}, "data": data, "store": str(tmp_path / "store")}
    one = FineTuneSettings.model_validate({**given, "evaluate": {"metrics": ["my_metrics:words"]}})
    require_evaluable(one.evaluate, loaded(one), one.store)
    one = FineTuneSettings.model_validate({**given, "evaluate": {"metrics": ["my_metrics:product"]}})
    with pytest.raises(MetricError, match=r"failed on dev \(1 rows, tried.*KeyError: 'price'"):
        require_evaluable(one.evaluate, loaded(one), one.store)
