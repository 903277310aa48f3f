"""The folder of an evaluation: evaluated rows of each split as Parquet, and the details of all as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic import ValidationError

from hubflow.data.columns import to_frame, with_extra_columns
from hubflow.errors import SettingsError, StoreError
from hubflow.evaluation.custom_metrics import CustomMetric, custom_metrics, measured_by
from hubflow.evaluation.details import metric_options, split_details
from hubflow.evaluation.slices import EvaluatedSplit, require_columns
from hubflow.files import read_text
from hubflow.metrics import metrics_for
from hubflow.schemas.evaluation import DETAILS, SplitDetails
from hubflow.schemas.frames import require_evaluated
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, EvaluationRef, ExportEvaluationRef, RowKind
from hubflow.schemas.settings import EvaluateSettings
from hubflow.schemas.tasks import BUILT_IN, TaskType, find_task_type, metric_range
from hubflow.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

TRIED_ROWS = 1000
"""So many rows at most are tried with a user's own metrics before training."""


def write_evaluated(path: Path, evaluated: EvaluatedSplit) -> None:
    """Write the evaluated rows of a split (`EvaluatedRows`, or `EvaluatedTokens` of sentences) with the further columns of the
    data.

    Raises:
        ContractError: when what was computed breaks its contract.
    """
    pq.write_table(_evaluated_table(evaluated), path)


def try_custom_metrics(
    own: Mapping[str, CustomMetric], data: Path, kind: RowKind, label_map: LabelMap, settings: EvaluateSettings
) -> None:
    """Run a user's own metrics on rows of a split with made-up predictions, so that their faults are found before training.

    Args:
        own: the metrics.
        data: Parquet file of the split in the data set.
        kind: of its rows.
        label_map: of the data set.
        settings: of the evaluation to come.

    Raises:
        MetricError: when one of them fails.
    """
    if own:
        table = _evaluated_table(_with_made_up_predictions(data, kind, label_map, settings))
        measured_by(own, to_frame(table), label_map.labels, data.stem, is_trial=True)


def try_task_type(name: str, data: Path, kind: RowKind, label_map: LabelMap, settings: EvaluateSettings) -> None:
    """Evaluate rows by a user's own task type with made-up predictions, so that its faults are found before training.

    Args:
        name: of the task type.
        data: Parquet file of the split in the data set.
        kind: of its rows.
        label_map: of the data set.
        settings: of the evaluation to come.

    Raises:
        SettingsError: naming the metric, and what is missing for it.
    """
    task = find_task_type(name)
    best = task.default_best_metric(label_map.labels)
    if best not in task.metrics:
        raise SettingsError(f"task {name}: default_best_metric gives {best!r}, which is not in its `metrics`")
    metrics = _with_made_up_predictions(data, kind, label_map, settings, task).metrics
    found, own = metrics.compute(), set(task.metrics) - set(find_task_type(task.prediction).metrics)
    faults = [
        f"{one!r} is computed, but is not in `metrics`; add it with its MetricRange"
        for one in found
        if metric_range(name, one) is None
    ]
    faults += [
        f"{one!r} is in `metrics`, but `compute` of what `streaming_metrics` returns does not give it"
        for one in sorted(own - set(found))
    ]
    drawn = metrics.statistics(2)(np.ones((2, len(metrics.rows)), np.int64))
    lost = [one for one in task.gated_metrics if one in found and one not in drawn]
    faults += [f"{one!r} is in `gated_metrics`, but `statistics` does not compute it, which the gate needs" for one in lost]
    if faults:
        raise SettingsError("\n".join(f"task {name}: {fault}" for fault in faults))


def _with_made_up_predictions(
    data: Path, kind: RowKind, label_map: LabelMap, settings: EvaluateSettings, task: TaskType | None = None
) -> EvaluatedSplit:
    """Rows from all over a split, evaluated by predictions that are right or wrong by chance."""
    from scipy.special import log_softmax

    is_sequence = kind == "tokens"
    table = pq.read_table(data, columns=["row", "labels" if is_sequence else "label"])
    places = np.unique(np.linspace(0, len(table) - 1, min(TRIED_ROWS, len(table))).round().astype(np.int64))
    rows, labels = (column.to_pylist() for column in table.take(places).columns)
    index = label_map.index()
    truth = [np.array([index[label] for label in tags], np.int64) for tags in (labels if is_sequence else [labels])]
    logits = np.random.default_rng(0).standard_normal((sum(map(len, truth)), label_map.num_classes)).astype(np.float32)
    labels, options = truth if is_sequence else truth[0], metric_options(settings)
    if task is None:
        metrics = metrics_for(labels, label_map, options, is_sequence)
    else:
        metrics = task.streaming_metrics(labels, label_map, options)
    metrics.update(np.arange(len(rows)), log_softmax(logits.astype(np.float64), axis=-1))
    return EvaluatedSplit(metrics, label_map, data, kind, places, np.array(rows, np.int64))


def _evaluated_table(evaluated: EvaluatedSplit) -> "pa.Table":
    """The evaluated rows of a split with the further columns of the data."""
    expected = pq.read_table(evaluated.data, columns=["row"]).column("row").to_numpy()[evaluated.positions]
    columns = {
        "row": evaluated.numbers[evaluated.rows],
        "position": evaluated.positions,
        "loss": evaluated.metrics.losses[evaluated.rows],
        **evaluated.metrics.columns(evaluated.label_map.labels),
    }
    frame = pd.DataFrame(columns)
    require_evaluated(frame, evaluated.label_map, expected, f"evaluate, {evaluated.name}")
    return with_extra_columns(frame, evaluated.data, evaluated.kind)


def keep_split(
    folder: Path, evaluated: EvaluatedSplit, settings: EvaluateSettings, own: Mapping[str, CustomMetric]
) -> tuple[SplitDetails, dict[str, float]]:
    """Write the evaluated rows of a split to `<split>.parquet`; its details, and what a user's own metrics give of it.

    Raises:
        ContractError: when what was computed breaks its contract.
        MetricError: when a user's own metric fails.
    """
    path = folder / f"{evaluated.name}.parquet"
    write_evaluated(path, evaluated)
    given: dict[str, float] = {}
    if own:
        given = measured_by(own, to_frame(pq.read_table(path)), evaluated.label_map.labels, evaluated.name)
    return split_details(evaluated, settings), given


def write_details(folder: Path, details: dict[str, SplitDetails]) -> None:
    """Write the details of every split to `details.json`."""
    text = json.dumps({split: one.model_dump(mode="json") for split, one in details.items()}, ensure_ascii=False)
    (folder / DETAILS).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def load_details(folder: Path) -> dict[str, SplitDetails]:
    """Read what `write_details` wrote.

    Raises:
        StoreError: when there is no such file, or it is something else.
    """
    try:
        found = json.loads(read_text(folder / DETAILS))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} has no {DETAILS}: it was made by an earlier version of hubflow; evaluate again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder / DETAILS}: no readable details ({error}); evaluate again") from error
    try:
        return {split: SplitDetails.model_validate(one) for split, one in found.items()}
    except (ValidationError, AttributeError) as error:
        raise StoreError(f"{folder / DETAILS}: not the details of an evaluation ({error}); evaluate again") from error


def require_evaluable(settings: EvaluateSettings, dataset: DatasetRef | None, store: str, task: str | None = None) -> None:
    """Refuse, before hours of training, what the evaluation after it would refuse.

    Metrics of the user's own, and a task type of theirs, are run on rows of each split that will be evaluated, with made-up
    predictions.

    Args:
        settings: of the evaluation.
        dataset: whose splits are evaluated; None where it is not known yet.
        store: folder, or URL, of the store.
        task: name of the task type, where it may be the user's own.

    Raises:
        SettingsError: when a metric of the user's own cannot be imported, or a split has no column that the settings slice by.
        MetricError: when such a metric fails.
    """
    own = custom_metrics(settings.metrics)
    if dataset is not None and settings.stride is not None and dataset.rows_kind != "tokens":
        raise SettingsError(
            f"evaluate.stride is for sequence labelling, the data set has {dataset.rows_kind} rows; leave it out"
        )
    has_own_type = task is not None and task not in BUILT_IN
    if dataset is None or not (own or has_own_type or settings.slices.columns):
        return
    folder = Store(store).open(dataset).folder
    label_map = LabelMap.load(folder / "label_map.json")
    for split in dataset.rows:
        require_columns(folder / f"{split}.parquet", settings.slices)
        if split != "train":
            if task is not None and has_own_type:
                try_task_type(task, folder / f"{split}.parquet", dataset.rows_kind, label_map, settings)
            try_custom_metrics(own, folder / f"{split}.parquet", dataset.rows_kind, label_map, settings)


def read_details(store: Store, evaluation: EvaluationRef | ExportEvaluationRef) -> dict[str, SplitDetails]:
    """The details of each split of an evaluation.

    Raises:
        StoreError: when it is missing or altered, or was made before there were details.
    """
    return load_details(store.open(evaluation).folder)
