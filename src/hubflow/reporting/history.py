"""How a run's training went, as charts: loss, metrics on dev, learning rate, gradient. Must not import Paddle or Prefect."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hubflow.reporting.charts import Floats, LineChart, Series, line_chart
from hubflow.schemas.frames import require_evaluations, require_steps
from hubflow.schemas.references import CheckpointRef

PLACE = ("step", "epoch", "loss")


def training_charts(folder: Path, checkpoint: CheckpointRef) -> list[LineChart]:
    """Loss of training and dev, the metric that picked the weights and the others, learning rate and norm of the gradient.

    Args:
        folder: of the checkpoint, with `steps.parquet` (`TrainingSteps`) and `evaluations.parquet` (`Evaluations`).
        checkpoint: says which metric picked the weights, and in which epoch.

    Raises:
        ContractError: when either table breaks its contract.
    """
    steps = require_steps(pd.read_parquet(folder / "steps.parquet"), "steps.parquet")
    evaluated = require_evaluations(pd.read_parquet(folder / "evaluations.parquet"), "evaluations.parquet")
    loss = [Series("train", *_points(steps, "loss"))]
    if len(evaluated) and "loss" in evaluated:
        loss.append(Series("dev", *_points(evaluated, "loss")))
    by_metric = {
        name: Series("dev", *_points(evaluated, name)) for name in evaluated.columns if len(evaluated) and name not in PLACE
    }
    first, best = by_metric.pop(checkpoint.best_metric, None), _best(evaluated, checkpoint)
    charts = [_chart("Loss", loss, best if checkpoint.best_metric == "loss" else None)]
    charts += [_chart(f"{checkpoint.best_metric} on dev", [first], best)] if first is not None else []
    for title, column in (("Learning rate", "learning_rate"), ("Norm of the gradient", "grad_norm")):
        charts.append(_chart(title, [Series("train", *_points(steps, column))]))
    return charts + [_chart(f"{name} on dev", [one]) for name, one in by_metric.items() if len(evaluated) > 1]


def _chart(title: str, series: list[Series], marked: int | None = None) -> LineChart:
    ends = [f"{one.name} {one.y[0]:.4g} → {one.y[-1]:.4g}" for one in series]
    return line_chart(title, series, ", ".join(ends), marked=marked)


def _points(frame: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    return frame["step"].to_numpy(float), frame[column].to_numpy(float)


def _best(evaluated: "pd.DataFrame", checkpoint: CheckpointRef) -> int | None:
    """Which evaluation the weights that were kept come from."""
    if checkpoint.best_value is None or checkpoint.best_metric not in evaluated:
        return None
    values: Any = evaluated[checkpoint.best_metric].to_numpy(float)
    same = np.flatnonzero(values == checkpoint.best_value)
    return int(same[0]) if len(same) else None
