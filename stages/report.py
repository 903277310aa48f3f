"""Stage write_report: one self-contained HTML page that explains a run, and its summary as JSON beside it."""

import base64
import datetime
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hubflow.schemas.folders import StoreError
from hubflow.schemas.frames import require_evaluations, require_metrics, require_steps
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import EncodedRef, EvaluationRef, ExportRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.data.encoding_watch import with_encoding
from hubflow.stages.data.view import data_view, environment
from hubflow.stages.data.watch import kept_report
from hubflow.stages.hub.metrics import confusion
from hubflow.stages.store import Store
from hubflow.stages.tasks import stage_task

MAX_CONFUSION_CLASSES = 30
MAX_TEXT_SHOWN = 400


def write_report(
    settings: FineTuneSettings,
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    export: ExportRef,
    seconds: dict[str, float],
    store: str,
) -> str:
    """Write one self-contained HTML page that explains a run: metrics, curves, confusion, worst mistakes, timings, how to load.

    Reads what keeps `TrainingSteps`, `Evaluations` and `Metrics`.

    Returns:
        Absolute path, or URL, of the page: `runs/<time>-<name>/report.html` in the store.

    Raises:
        ContractError: when history or metrics break their contract.
        StoreError: when an artefact is missing or altered, or the page cannot be written.
    """
    home = Store(store)
    require_metrics(evaluation.metrics, "the evaluation")
    now = datetime.datetime.now(datetime.UTC)
    place = f"runs/{now:%Y%m%dT%H%M%S.%f}-{settings.name}"
    folder = home.root / place
    checkpoint = home.open(evaluation.checkpoint)
    page = (
        environment()
        .get_template("report.html")
        .render(
            settings=settings,
            created=f"{now:%Y-%m-%d %H:%M:%S} UTC",
            metrics=evaluation.metrics,
            metric_names=list(dict.fromkeys(name for values in evaluation.metrics.values() for name in values)),
            checkpoint=evaluation.checkpoint,
            dataset=encoded.dataset,
            data=data_view(_data_report(home, encoded)),
            curves=_curves(checkpoint.folder),
            splits=[_split_view(home, evaluation, encoded, split, settings) for split in evaluation.metrics],
            seconds=seconds,
            export_path=home.shown(export.path),
            settings_json=settings.model_dump_json(indent=1),
        )
    )
    try:
        folder.mkdir(parents=True)
        (folder / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")
        summary = {"settings": settings.model_dump(mode="json"), "metrics": evaluation.metrics, "seconds": seconds}
        references = {"evaluation": evaluation.model_dump(), "export": export.model_dump()}
        (folder / "run.json").write_text(json.dumps({**summary, **references}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{folder}: the report cannot be written ({error})") from error
    home.mirror(place)
    return home.shown(f"{place}/report.html")


@dataclass(frozen=True)
class Curve:
    """One line chart: its points as SVG coordinates in a 600 x 160 box, and what its ends are called."""

    title: str
    points: str
    low: str
    high: str
    last_step: int


@dataclass(frozen=True)
class Mistake:
    """One row that the model got wrong."""

    row: int
    label: str
    predicted: str
    loss: float
    text: str
    image: str


@dataclass(frozen=True)
class SplitView:
    """What the page shows of one split."""

    name: str
    rows: int
    wrong: int
    labels: list[str]
    confusion: list[list[int]]
    mistakes: list[Mistake]


def _data_report(home: Store, encoded: EncodedRef) -> dict[str, Any]:
    """The reports that load_dataset and encode_dataset left, or what the references know."""
    dataset = home.open(encoded.dataset)
    report = kept_report(home, dataset.folder.name) or dataset.facts["data_report"]
    return {"rows": encoded.dataset.rows, **with_encoding(report, home, home.open(encoded).folder.name)}


def _curves(checkpoint: Path) -> list[Curve]:
    steps = require_steps(pd.read_parquet(checkpoint / "steps.parquet"), "steps.parquet")
    curves = [
        _curve("training loss", steps["step"], steps["loss"]),
        _curve("learning rate", steps["step"], steps["learning_rate"]),
    ]
    evaluations = require_evaluations(pd.read_parquet(checkpoint / "evaluations.parquet"), "evaluations.parquet")
    curves += [
        _curve(f"dev {name}", evaluations["step"], evaluations[name])
        for name in evaluations.columns
        if name not in ("step", "epoch") and len(evaluations) > 1
    ]
    return curves


def _curve(title: str, steps: "pd.Series[Any]", values: "pd.Series[Any]") -> Curve:
    x, y = steps.to_numpy(float), values.to_numpy(float)
    low, high = float(y.min()), float(y.max())
    across = 600 * x / max(x.max(), 1)
    up = 150 - 140 * (y - low) / (high - low or 1.0)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
    return Curve(title, points, f"{low:.4g}", f"{high:.4g}", int(x.max()))


def _split_view(
    home: Store, evaluation: EvaluationRef, encoded: EncodedRef, split: str, settings: FineTuneSettings
) -> SplitView:
    judged = pd.read_parquet(home.open(evaluation).folder / f"{split}.parquet")
    labels = LabelMap.load(home.open(evaluation).folder / "label_map.json")
    truth, predicted = _flat(judged["label"]), _flat(judged["predicted"])
    counts: list[list[int]] = []
    if labels.num_classes <= MAX_CONFUSION_CLASSES:
        index = pd.Index(labels.labels)
        ids = [index.get_indexer(pd.Index(names)) for names in (truth, predicted)]
        counts = confusion(ids[0], ids[1], labels.num_classes).tolist()
    is_wrong = np.array(
        [list(np.atleast_1d(a)) != list(np.atleast_1d(b)) for a, b in zip(judged["label"], judged["predicted"], strict=True)]
    )
    worst = judged[is_wrong].sort_values("loss", ascending=False).head(settings.evaluate.worst_mistakes)
    source = home.open(encoded.dataset).folder / f"{split}.parquet"
    return SplitView(split, len(judged), int(is_wrong.sum()), list(labels.labels), counts, _mistakes(worst, source))


def _flat(values: "pd.Series[Any]") -> list[str]:
    return [label for value in values for label in ([value] if isinstance(value, str) else value)]


def _mistakes(worst: pd.DataFrame, source: Path) -> list[Mistake]:
    present = pq.read_schema(source).names
    columns = [name for name in ("text", "text_pair", "tokens", "path", "image") if name in present]
    rows = pq.read_table(source, columns=columns).take(worst["position"].to_list()).to_pylist()
    return [_mistake(judged, row) for judged, row in zip(worst.to_dict("records"), rows, strict=True)]


def _mistake(judged: dict[Any, Any], row: dict[str, Any]) -> Mistake:
    image, text = "", " ⏐ ".join(row[name] for name in ("text", "text_pair") if row.get(name))
    label, predicted = judged["label"], judged["predicted"]
    if "tokens" in row:
        pairs = zip(row["tokens"], label, predicted, strict=True)
        text = " ".join(word if true == guess else f"{word}[{true}→{guess}]" for word, true, guess in pairs)
        label = predicted = ""
    if "path" in row:
        image, text = thumbnail(row.get("image") or row["path"]), Path(row["path"]).name
    return Mistake(int(judged["row"]), str(label), str(predicted), float(judged["loss"]), text[:MAX_TEXT_SHOWN], image)


def thumbnail(source: bytes | str) -> str:
    """A small PNG of an image as a data URL; nothing when the file is no longer there."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            small = image.convert("RGB")
    except OSError:
        return ""
    small.thumbnail((96, 96))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _describe(path: str) -> str:
    return f"report: {path}"


write_report_task = stage_task(write_report, _describe)
