"""A user's own metrics: functions that the settings name, called with the evaluated rows of a split."""

import hashlib
import inspect
import logging
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from hubflow.errors import MetricError, SettingsError, join_limited
from hubflow.schemas.evaluation import is_custom_metric
from hubflow.schemas.importing import import_object, their_error

CustomMetric = Callable[[pd.DataFrame, tuple[str, ...]], float | Mapping[str, float]]
"""`metric(evaluated, labels)`: the columns of `<split>.parquet`, further columns of the data included, and the ordered labels;
one number, or several by name."""
SETTING = "evaluate.metrics"
LOG = logging.getLogger(__name__)
EXPECTED = "package.module:function, called as function(evaluated: DataFrame, labels: tuple[str, ...]) -> float"


def custom_metrics(paths: Sequence[str]) -> dict[str, CustomMetric]:
    """The functions that the settings name, by that name.

    Raises:
        SettingsError: naming each that cannot be imported or called.
    """
    found: dict[str, CustomMetric] = {}
    for path in paths:
        function: Any = import_object(path, SETTING, EXPECTED)
        _require_function(path, function)
        _require_file(path)
        found[path] = function
    return found


def _require_function(path: str, function: Any) -> None:
    """Refuse, before it is called, what is no function of two arguments."""
    if isinstance(function, type) or not callable(function):
        kind = "class" if isinstance(function, type) else type(function).__name__
        raise SettingsError(f"{SETTING}: {path!r} is a {kind}; expected {EXPECTED}")
    try:
        inspect.signature(function).bind("evaluated", "labels")
    except TypeError as error:
        raise SettingsError(
            f"{SETTING}: {path!r} cannot be called with the rows and the labels ({error}); expected {EXPECTED}"
        ) from error
    except ValueError as error:  # it has no signature
        raise SettingsError(f"{SETTING}: {path!r} is not written in Python ({error}); expected {EXPECTED}") from error


def _require_file(path: str) -> None:
    """Refuse, before hours of training, what only this process can import: the evaluation runs in another one."""
    module_name = path.partition(":")[0]
    module = sys.modules[module_name]
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.name == module_name:
        return
    if module_name == "__main__":
        what = "__main__ is the script or the notebook that runs"
    else:
        what = f"the module {module_name} was made in this process"
    raise SettingsError(
        f"{SETTING}: {path!r}: {what}, and the evaluation runs in another process, which cannot import it; put the function "
        "into a module file of its own, as in my_metrics.py, and name it my_metrics:function"
    )


def metrics_identity(metrics: Mapping[str, CustomMetric]) -> dict[str, str]:
    """What tells the results of one version of the functions from another's: the source of the modules that they are in."""
    return {
        path: hashlib.sha256(_source(function).encode("utf-8", "surrogatepass")).hexdigest()
        for path, function in metrics.items()
    }


def measured_by(
    metrics: Mapping[str, CustomMetric], evaluated: pd.DataFrame, labels: tuple[str, ...], split: str, is_trial: bool = False
) -> dict[str, float]:
    """What a user's own metrics give of a split, by `module:function`, or `module:function.name` of several values.

    Args:
        metrics: the functions by name.
        evaluated: the rows, with their columns' types.
        labels: in the order of their ids.
        split: name of the split, for errors.
        is_trial: whether the predictions are made up, to see whether the metrics run: a value that is not finite is then said,
            and no error.

    Raises:
        MetricError: naming the metric and the split, when it raises, or gives something else than finite numbers.
    """
    found: dict[str, float] = {}
    rows = f"{len(evaluated)} rows" + (", tried first with made-up predictions" if is_trial else "")
    for path, function in metrics.items():
        try:
            given = function(evaluated.copy(), labels)
        except Exception as error:  # whatever a user's function raises
            raise MetricError(
                f"{SETTING}: {path!r} failed on {split} ({rows}): {their_error(error, function)}; the columns are "
                f"{join_limited(_described(evaluated), 30)}; correct the function, or the type of a column with a contract of "
                "your own"
            ) from error
        values = given if isinstance(given, Mapping) else {"": given}
        for name, value in values.items():
            full = f"{path}.{name}" if name else path
            if not is_custom_metric(full):
                raise MetricError(f"{SETTING}: {path!r} gave a value called {name!r}; a name is letters, digits and _")
            found[full] = _number(full, value, split, is_trial)
    return found


def _described(evaluated: pd.DataFrame) -> list[str]:
    """Each column with its type: what a column of CSV or TSV holds is text."""
    return [f"{name} ({'text' if evaluated[name].dtype in ('str', 'string') else evaluated[name].dtype})" for name in evaluated]


def _number(name: str, value: Any, split: str, is_trial: bool) -> float:
    if is_trial and isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isfinite(value):
        LOG.warning(
            "%s: %r gives %r on %s with made-up predictions; it must be finite on those of the model",
            SETTING,
            name,
            value,
            split,
        )
        return float(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise MetricError(f"{SETTING}: {name!r} gave {value!r} on {split}; expected one finite number, or several by name")


def _source(function: CustomMetric) -> str:
    try:
        return inspect.getsource(sys.modules[function.__module__])
    except (OSError, TypeError, KeyError, AttributeError):
        return ""
