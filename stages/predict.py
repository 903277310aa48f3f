"""Stage predict: label the rows of a file, or the images of a folder, with an exported folder and nothing else."""

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from hubflow.schemas.errors import SettingsError, bounded
from hubflow.schemas.folders import StoreError
from hubflow.schemas.frames import PROBABILITY, require_predictions
from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS, validate_rows
from hubflow.schemas.settings import FORMATS, DataFormat, DatasetSpec, PredictResult, PredictSettings, TaskType
from hubflow.stages.console import progress_bar
from hubflow.stages.data.carried import free_names
from hubflow.stages.data.reading import read_rows, rows_kind
from hubflow.stages.store import local_folder
from hubflow.stages.tasks import stage_task

if TYPE_CHECKING:
    from hubflow.stages.hub.predictor import Prediction, Predictor

ENDINGS: dict[str, DataFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet", ".conll": "conll"}


def predict(settings: PredictSettings) -> PredictResult:
    """Label the rows of a file, or the images of a folder, with an exported folder and nothing else.

    The output (contract `Predictions`, or `TokenPredictions` of sentences) has one row for each input row, in order: `row`, the
    input's columns, `predicted` and `probability`, and for classification `probability_<label>` for each label. A column of
    the input that has one of these names is called `source_<name>`. The output takes its place only when complete.

    Raises:
        StoreError: when the export is incomplete or altered, or the output cannot be written.
        DataError: when the rows cannot be read; ContractError naming rows without text; ImageError naming an image.
        SettingsError: when the format does not fit the export's task, or the output's ending is unknown.
    """
    from hubflow.stages.hub.predictor import Predictor

    started = time.perf_counter()
    output = _output(settings)
    predictor = Predictor.load(local_folder(settings.export))
    kind: RowKind = predictor.signature["rows_kind"]
    rows = _rows(settings, cast(TaskType, predictor.task), kind)
    with progress_bar("predicting", len(rows)) as bar:
        predictions: list[Prediction] = []
        inputs = _inputs(rows, kind)
        for start in range(0, len(rows), 16 * settings.batch_size):
            part = predictor.predict(inputs[start : start + 16 * settings.batch_size], settings.batch_size)
            predictions += part
            bar.advance(len(part))
    frame = _frame(rows, predictions, predictor, kind)
    is_sequence = predictor.task == "sequence_labelling"
    require_predictions(frame, predictor.label_map, rows["row"].to_numpy(), f"predict, {settings.data}", is_sequence)
    _write(frame, output)
    notes = _unknown_labels(rows, predictor, kind)
    metrics = {} if notes else _metrics(rows, predictions, predictor, kind)
    return PredictResult(
        export=str(predictor.folder.absolute()),
        output=str(output),
        rows=len(frame),
        metrics=metrics,
        notes=notes,
        seconds=round(time.perf_counter() - started, 3),
    )


def _rows(settings: PredictSettings, task: TaskType, trained_on: RowKind) -> pd.DataFrame:
    """The rows to predict on; a label column without a single label counts as none."""
    kind = settings.format or _format(Path(settings.data).expanduser(), task)
    if kind not in FORMATS[task]:
        raise SettingsError(
            f"format {kind!r} holds no rows for this export's task {task}; use one of {', '.join(FORMATS[task])}"
        )
    names = ("encoding", "header", "quoting", "text_column", "text_pair_column", "label_column", "tokens_column")
    spec = DatasetSpec(format=kind, train=settings.data, **{name: getattr(settings, name) for name in names})
    if rows_kind(spec, task) != trained_on:
        remedy = "set text_pair_column" if trained_on == "text_pair" else "leave text_pair_column out"
        raise SettingsError(
            f"this export was trained on {trained_on} rows, the settings give {rows_kind(spec, task)}; {remedy}"
        )
    rows = read_rows(spec, settings.data, "test", task, labelled=False)
    if "label" in rows and (rows["label"].isna() | (rows["label"].str.strip() == "")).all():
        rows = rows.drop(columns="label")
    return validate_rows(rows, ROW_MODELS[trained_on], settings.data, labelled=False)


def _format(path: Path, task: TaskType) -> DataFormat:
    if task == "image_classification":
        return "image_list" if path.is_file() else "image_folder"
    known = ENDINGS.get(path.suffix.lower())
    if known is None:
        raise SettingsError(f"{path}: the ending does not tell the format; set format to one of {', '.join(FORMATS[task])}")
    return known


def _inputs(rows: pd.DataFrame, kind: RowKind) -> list[Any]:
    """What the predictor is given of each row; further columns may have any name."""
    if kind == "tokens":
        return [list(words) for words in rows["tokens"]]
    if kind == "image":
        return rows["image" if "image" in rows else "path"].tolist()
    texts: list[Any] = rows["text"].tolist()
    return list(zip(texts, rows["text_pair"], strict=True)) if kind == "text_pair" else texts


def _frame(rows: pd.DataFrame, predictions: list["Prediction"], predictor: "Predictor", kind: RowKind) -> pd.DataFrame:
    frame = rows.drop(columns=["image", "sha256"], errors="ignore") if kind == "image" else rows
    names = [f"{PROBABILITY}{label}" for label in predictor.label_map.labels]
    frame = frame.rename(
        columns=free_names(frame.columns, ("predicted", "probability", *names))
    )  # an earlier prediction's, say
    is_sequence = predictor.task == "sequence_labelling"
    frame["predicted"] = [list(one.label) if is_sequence else one.label for one in predictions]
    frame["probability"] = [list(one.probability) if is_sequence else one.probability for one in predictions]
    if not is_sequence:
        table = np.stack([one.probabilities for one in predictions])
        named = pd.DataFrame(table, columns=names, index=frame.index)
        frame = pd.concat([frame, named], axis=1)
    return frame


def _metrics(rows: pd.DataFrame, predictions: list["Prediction"], predictor: "Predictor", kind: RowKind) -> dict[str, float]:
    from hubflow.stages.hub.metrics import classification_metrics, entity_metrics

    label = "labels" if kind == "tokens" else "label"
    if label not in rows:
        return {}
    if label == "labels":
        truth = [list(tags) for tags in rows["labels"]]
        return entity_metrics(truth, [list(one.label) for one in predictions])
    index = predictor.label_map.index()
    truth_ids = np.array([index[label] for label in rows["label"]])
    predicted = np.array([index[one.label] for one in predictions])
    return classification_metrics(truth_ids, predicted, len(index))


def _unknown_labels(rows: pd.DataFrame, predictor: "Predictor", kind: RowKind) -> list[str]:
    """Why the data's labels cannot be measured against; nothing when they can, or there are none."""
    column = "labels" if kind == "tokens" else "label"
    if column not in rows:
        return []
    flat = rows[["row", column]].explode(column)
    unknown = flat[~flat[column].isin(predictor.label_map.labels)]
    if unknown.empty:
        return []
    examples = (f"row {row} ({label!r})" for row, label in zip(unknown["row"], unknown[column], strict=True))
    return [f"no metrics: {len(unknown)} label(s) are not in the export's label map: {bounded(examples, 5)}"]


def _output(settings: PredictSettings) -> Path:
    data = Path(settings.data).expanduser().resolve()
    output = Path(settings.output) if settings.output else data.with_name(f"{data.name}.predictions.parquet")
    if output.suffix not in WRITERS:
        raise SettingsError(f"output {output}: expected an ending of {', '.join(WRITERS)}")
    return output.expanduser().absolute()


def _to_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


def _to_jsonl(frame: pd.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records", lines=True, force_ascii=False)


def _to_parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False)


WRITERS = {".parquet": _to_parquet, ".csv": _to_csv, ".jsonl": _to_jsonl}


def _write(frame: pd.DataFrame, output: Path) -> None:
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[output.suffix](frame, temporary)
        temporary.replace(output)
    except OSError as error:
        raise StoreError(f"{output}: the predictions cannot be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):  # it must not take the place of the error being raised
            temporary.unlink(missing_ok=True)


def _describe(result: PredictResult) -> str:
    return "\n\n".join([f"{result.rows} rows: {result.output}", *result.notes])


predict_task = stage_task(predict, _describe)
