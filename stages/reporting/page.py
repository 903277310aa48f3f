"""What the template `report.html` shows of a run, gathered from what its stages left. Must not import Prefect."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.folders import SealedFolder
from hubflow.schemas.references import EncodedRef, EvaluationRef, ExportRef, RowKind
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.data.columns import to_frame
from hubflow.stages.data.encoding_watch import with_encoding
from hubflow.stages.data.view import data_view
from hubflow.stages.data.watch import kept_report
from hubflow.stages.evaluate import read_details
from hubflow.stages.reporting.history import training_charts
from hubflow.stages.reporting.overview import judged_split, metric_lines, notices
from hubflow.stages.reporting.previous import Since
from hubflow.stages.reporting.splits import SplitView, split_view, with_explanations
from hubflow.stages.store import Store

PROOF = "proof.json"
EXAMPLES: dict[RowKind, str] = {
    "text": '["a fine film", "a dull one"]',
    "text_pair": '[("a question", "an answer")]',
    "tokens": '[["John", "lives", "in", "Paris", "."]]',
    "image": '["one.png", "another.jpg"]',
}
"""What a predictor takes, by kind of rows."""


def run_view(
    home: Store,
    settings: FineTuneSettings,
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    export: ExportRef,
    before: Since,
) -> dict[str, Any]:
    """What the template shows, but for time and timings.

    Raises:
        ContractError: when the history breaks its contract.
        StoreError: when an artefact is missing or altered.
    """
    checkpoint, first = evaluation.checkpoint, judged_split(evaluation.metrics)
    metrics = {split: evaluation.metrics[split] for split in sorted(evaluation.metrics, key=lambda split: split != first)}
    report = _data_report(home, encoded)
    details = read_details(home, evaluation)
    found, more = notices(report, metrics, checkpoint, settings.train.epochs)
    exported = home.open(export).sealed
    return {
        "settings": settings,
        "splits": list(metrics),
        "metrics": metric_lines(metrics, checkpoint.best_metric, before, details),
        "confidence": next((one.confidence for one in details.values() if one.intervals), None),
        "since": before,
        "notices": found,
        "more_notices": more,
        "checkpoint": checkpoint,
        "dataset": encoded.dataset,
        "data": data_view(report),
        "charts": training_charts(home.open(checkpoint).folder, checkpoint),
        "views": _views(home, settings, evaluation, encoded, exported.folder, {split: details[split] for split in metrics}),
        "label_count": encoded.dataset.num_classes,
        "example": EXAMPLES[encoded.dataset.rows_kind],
        "export_path": home.shown(export.path),
        "proof": _proof(exported),
        "settings_json": settings.model_dump_json(indent=1),
    }


def _views(
    home: Store,
    settings: FineTuneSettings,
    evaluation: EvaluationRef,
    encoded: EncodedRef,
    exported: Path,
    details: Mapping[str, SplitDetails],
) -> list[SplitView]:
    judged, data = home.open(evaluation).folder, home.open(encoded.dataset).folder
    explained = settings.report.explained_mistakes
    best = evaluation.checkpoint.best_metric
    views = [
        split_view(
            to_frame(pq.read_table(judged / f"{split}.parquet")),
            one,
            evaluation.metrics[split],
            best,
            data / f"{split}.parquet",
        )
        for split, one in details.items()
    ]
    is_text = settings.task == "text_classification" and explained > 0 and any(view.mistakes for view in views[:1])
    return [with_explanations(view, exported if is_text and not place else None, explained) for place, view in enumerate(views)]


def _data_report(home: Store, encoded: EncodedRef) -> dict[str, Any]:
    """The reports that load_dataset and encode_dataset left, or what the references know."""
    dataset = home.open(encoded.dataset)
    report = kept_report(home, dataset.folder.name) or dataset.facts["data_report"]
    return {"rows": encoded.dataset.rows, **with_encoding(report, home, home.open(encoded).folder.name)}


def _proof(export: SealedFolder) -> dict[str, str]:
    """What the export measured of itself, as names and values; nothing where it did not."""
    return dict(_lines(json.loads(export.read(PROOF)))) if PROOF in export.files else {}


def _lines(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, found in values.items():
        if isinstance(found, Mapping):
            lines += _lines(found, f"{prefix}{name} · ")
        else:
            lines.append((f"{prefix}{name}".replace("_", " "), f"{found:.6g}" if isinstance(found, float) else str(found)))
    return lines
