"""Evaluate an exported folder alone, by its own preprocessing, on one split of a data set."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hubflow.console import progress_bar
from hubflow.errors import LabelMapError, SettingsError, join_limited
from hubflow.evaluation.custom_metrics import custom_metrics
from hubflow.evaluation.details import identity_of, metric_options
from hubflow.evaluation.folder import keep_split, try_custom_metrics, write_details
from hubflow.evaluation.slices import EvaluatedSplit, require_columns
from hubflow.metrics import StreamingMetrics
from hubflow.metrics.classification import log_of
from hubflow.schemas.frames import require_metrics
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, ExportEvaluationRef, ExportRef, RowKind
from hubflow.schemas.settings import EvaluateSettings
from hubflow.schemas.tasks import TaskType, find_task_type
from hubflow.store.store import Store, content_key

if TYPE_CHECKING:
    from hubflow.inference.predictor import Prediction, Predictor

FORMAT_VERSION = 2
ROWS_PER_PART = 1024


def evaluate_exported(
    export: ExportRef,
    dataset: DatasetRef,
    settings: EvaluateSettings,
    store: str,
    split: str = "test",
    reuse: bool = True,
) -> ExportEvaluationRef:
    """Evaluate an exported folder alone, by its own preprocessing, on one split of a data set, exactly over all its rows.

    Nothing but the export is used, so that one of an earlier run, whose checkpoint is gone, can be compared with that of
    today on the same rows. The folder is laid out as that of the stage `evaluate` (`EvaluatedRows` or `EvaluatedTokens`,
    `Metrics`, `SplitDetails`), and of the same weights the metrics are the same, up to the rounding of float32
    probabilities. Labels are matched by name: the two label maps need not be the same, but each label of the data must be
    in the export's. Images that do not decode are left out, as they are where rows are encoded; `details.json` says how
    many.

    Raises:
        ContractError: when what was computed breaks its contract.
        LabelMapError: when the data has labels that the export does not know.
        MetricError: when a metric of the user's own fails.
        SettingsError: when there is no such split, the rows are of another kind than the export was trained on, or what the
            settings name, a metric or a column, is not there.
        StoreError: when the export or the data set is missing or altered.
    """
    opened = Store(store)
    if not dataset.rows.get(split):
        raise SettingsError(f"split {split!r}: the data set has no rows of it; it has {join_limited(dataset.rows)}")
    if settings.stride is not None and dataset.rows_kind != "tokens":
        raise SettingsError(f"stride is for sequence labelling, the data set has {dataset.rows_kind} rows; leave it out")
    own = custom_metrics(settings.metrics)
    inputs = {"export": export.model_dump(), "dataset": dataset.model_dump(), "split": split, **identity_of(settings, own)}
    key = content_key("evaluate_export", FORMAT_VERSION, inputs)
    artifact = opened.find("evaluations", key) if reuse else None
    if artifact is None:
        data = opened.open(dataset).folder / f"{split}.parquet"
        require_columns(data, settings.slices)
        predictor = _load(opened, export, dataset)
        known = LabelMap.load(data.parent / "label_map.json")
        try_custom_metrics(own, data, dataset.rows_kind, known, settings)
        with opened.create("evaluations", key, holds=[data.parent]) as draft:
            streamed, numbers = _evaluate(predictor, find_task_type(export.task), data, dataset.rows_kind, settings)
            label_map, places = predictor.label_map, np.arange(len(numbers))
            evaluated = EvaluatedSplit(streamed, label_map, data, dataset.rows_kind, places, numbers)
            details, given = keep_split(draft.folder, evaluated, settings, own)
            notes = _notes(len(numbers) - len(evaluated.rows), label_map, known)
            write_details(draft.folder, {split: details.model_copy(update={"notes": [*details.notes, *notes]})})
            label_map.save(draft.folder / "label_map.json")
            metrics = {split: {**streamed.compute(), **given}}
            draft.facts |= {**inputs, "metrics": require_metrics(metrics, "evaluate_export", export.task)}
        artifact = opened.load("evaluations", key)
    found = artifact.facts["metrics"][split]
    return ExportEvaluationRef(
        path=artifact.path, sha256=artifact.sha256, export=export, dataset=dataset, split=split, metrics=found
    )


def _load(store: Store, export: ExportRef, dataset: DatasetRef) -> "Predictor":
    from hubflow.inference.predictor import Predictor

    predictor = Predictor.load(store.open(export).folder)
    trained_on: RowKind = predictor.signature["rows_kind"]
    if trained_on != dataset.rows_kind:
        raise SettingsError(f"the export was trained on {trained_on} rows, the data set has {dataset.rows_kind} rows")
    return predictor


def _evaluate(
    predictor: "Predictor", task: TaskType, data: Path, kind: RowKind, settings: EvaluateSettings
) -> tuple[StreamingMetrics, Any]:
    """The metrics, and the row numbers of all rows of the split `[rows]`."""
    is_sequence = kind == "tokens"
    table = pq.read_table(data, columns=["row", "labels" if is_sequence else "label"])
    numbers, labels = table.columns
    ids = _ids(labels.to_pylist(), predictor.label_map, numbers.to_pylist(), data)
    streamed: StreamingMetrics = task.streaming_metrics(ids, predictor.label_map, metric_options(settings))
    with progress_bar(f"evaluating the export on {data.stem}", len(ids)) as bar:
        start = 0
        for part in pq.ParquetFile(data).iter_batches(ROWS_PER_PART, columns=_columns(data, kind)):
            frame = part.to_pandas()
            rows, predictions = _predict(predictor, _inputs(frame, kind), settings.batch_size, settings.stride)
            if len(rows):
                _update(streamed, rows + start, predictions, is_sequence)
            start += len(frame)
            bar.advance(len(frame))
    return streamed, numbers.to_numpy()


def _columns(data: Path, kind: RowKind) -> list[str]:
    if kind == "image":
        return [name for name in ("image", "path") if name in pq.read_schema(data).names]
    return {"text": ["text"], "text_pair": ["text", "text_pair"], "tokens": ["tokens"]}[kind]


def _inputs(rows: pd.DataFrame, kind: RowKind) -> list[Any]:
    """What the predictor is given of each row."""
    if kind == "tokens":
        return [list(words) for words in rows["tokens"]]
    if kind == "text_pair":
        return list(zip(rows["text"], rows["text_pair"], strict=True))
    if kind == "text":
        texts: list[Any] = rows["text"].tolist()
        return texts
    return [row.get("image") or row["path"] for row in rows.to_dict("records")]


def _ids(labels: list[Any], label_map: LabelMap, numbers: list[int], data: Path) -> list[Any]:
    """Label ids by the export's own map: one by row, or an array of them by row."""
    index = label_map.index()
    rows = [one if isinstance(one, list) else [one] for one in labels]
    unknown = {label: number for tags, number in zip(rows, numbers, strict=True) for label in tags if label not in index}
    if unknown:
        examples = join_limited(f"{label!r} (row {number})" for label, number in unknown.items())
        raise LabelMapError(
            f"{data.name}: {len(unknown)} label(s) that the export does not know: {examples}; its labels are "
            f"{join_limited(label_map.labels)}; evaluate an export that was trained on them, or rows without them"
        )
    found = [np.array([index[label] for label in tags], np.int64) for tags in rows]
    return found if labels and isinstance(labels[0], list) else [int(ids[0]) for ids in found]


def _predict(
    predictor: "Predictor", inputs: Sequence[Any], batch_size: int, stride: int | None
) -> tuple["np.ndarray[Any, np.dtype[np.int64]]", list["Prediction"]]:
    """Predictions, and which rows they are of `[predicted]`: all but images that do not decode."""
    from hubflow.errors import ImageError

    try:
        return np.arange(len(inputs)), predictor.predict(inputs, batch_size, stride)
    except ImageError:
        pass
    rows, predictions = [], []
    for row, one in enumerate(inputs):
        with contextlib.suppress(ImageError):
            predictions += predictor.predict([one], 1)
            rows.append(row)
    return np.array(rows, np.int64), predictions


def _update(
    streamed: StreamingMetrics, rows: "np.ndarray[Any, np.dtype[np.int64]]", predictions: list["Prediction"], is_sequence: bool
) -> None:
    if not is_sequence:
        streamed.update(rows, log_of([one.probabilities for one in predictions]))
        return
    seen = [~np.isnan(one.probabilities[:, 0]) for one in predictions]
    scores = np.concatenate([one.probabilities[kept] for one, kept in zip(predictions, seen, strict=True)])
    streamed.update(rows, log_of(scores), seen)


def _notes(undecoded: int, of_export: LabelMap, of_data: LabelMap) -> list[str]:
    notes = []
    if undecoded:
        notes.append(f"{undecoded} image(s) that do not decode were left out")
    if of_export.sha256 != of_data.sha256:
        notes.append(
            f"the export's label map ({of_export.num_classes} labels) is not that of the data set ({of_data.num_classes}): "
            "averages over labels are over the export's"
        )
    return notes
