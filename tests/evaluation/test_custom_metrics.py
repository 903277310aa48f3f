"""A user's own metrics: called with the evaluated rows, told by name when they fail."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from hubflow.errors import MetricError, SettingsError
from hubflow.evaluation.custom_metrics import custom_metrics, measured_by, metrics_identity
from hubflow.schemas.settings import EvaluateSettings

SOURCE = """
def cost(evaluated, labels):
    wrong = evaluated["label"] != evaluated["predicted"]
    return float((wrong * evaluated["amount"]).sum())

def both(evaluated, labels):
    evaluated["label"] = labels[0]
    return {"rows": len(evaluated), "labels": len(labels)}

def broken(evaluated, labels):
    return evaluated["amuont"].sum()

def nothing(evaluated, labels):
    return float("nan")

def strangely_named(evaluated, labels):
    return {"a b": 1.0}

import pandas as pd
def helper(values):
    return pd.to_numeric(values)

def through_pandas(evaluated, labels):
    return helper(evaluated["label"]).sum()

import numpy as np
builtin = np.divide
number = 5
"""
EVALUATED = pd.DataFrame({"label": ["a", "b"], "predicted": ["a", "a"], "amount": [3, 4]})


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "my_metrics.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "my_metrics.py"
    sys.modules.pop("my_metrics", None)


def measured(*names: str) -> dict[str, float]:
    return measured_by(custom_metrics([f"my_metrics:{name}" for name in names]), EVALUATED, ("a", "b"), "test")


def test_one_number_or_several_are_told_under_the_functions_name() -> None:
    assert measured("both", "cost") == {"my_metrics:both.rows": 2, "my_metrics:both.labels": 2, "my_metrics:cost": 4.0}
    assert EVALUATED["label"].tolist() == ["a", "b"]  # what a metric does to its rows stays its own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken",
            r"'my_metrics:broken' failed on test \(2 rows\): KeyError: 'amuont' \(.*my_metrics\.py, line 11, in broken: "
            r'return evaluated\["amuont"\]\.sum\(\)\); the columns are label \(text\), predicted \(text\), amount \(int64\)',
        ),
        ("through_pandas", r"ValueError: .* \(.*my_metrics\.py, line \d+, in helper: return pd\.to_numeric"),
        ("builtin", r"'my_metrics:builtin' failed on test \(2 rows\): "),
        ("nothing", "'my_metrics:nothing' gave nan on test; expected one finite number"),
        ("strangely_named", "'my_metrics:strangely_named' gave a value called 'a b'"),
    ],
)
def test_a_metric_that_fails_is_named(name: str, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        measured(name)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_metrics:costs", "my_metrics has no 'costs'; expected package.module:function"),
        ("your_metrics:cost", "your_metrics cannot be imported"),
        ("my_metrics:number", "is a int; expected package.module:function"),
    ],
)
def test_a_metric_that_is_not_there_is_told(path: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        custom_metrics([path])
    with pytest.raises(ValidationError, match="metrics"):
        EvaluateSettings(metrics=("no path",))


def test_another_version_of_a_function_has_another_identity(module: Path) -> None:
    before = metrics_identity(custom_metrics(["my_metrics:cost"]))
    sys.modules.pop("my_metrics")
    module.write_text(SOURCE.replace("wrong * ", "2 * wrong * "), encoding="utf-8")
    import importlib
    import linecache

    importlib.invalidate_caches()
    linecache.checkcache()
    assert before != metrics_identity(custom_metrics(["my_metrics:cost"]))
    assert np.isfinite(list(measured("cost").values())).all()


def test_what_another_process_cannot_import_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("made_in_a_cell")
    monkeypatch.setattr(made, "cost", lambda evaluated, labels: 1.0, raising=False)
    monkeypatch.setitem(sys.modules, "made_in_a_cell", made)
    monkeypatch.setattr(sys.modules["__main__"], "cost", lambda evaluated, labels: 1.0, raising=False)
    for path in ("made_in_a_cell:cost", "__main__:cost"):
        with pytest.raises(SettingsError, match="put the function into a module file of its own"):
            custom_metrics([path])
