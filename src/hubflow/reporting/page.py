"""What the template `report.html` shows of a run, collect_errors from what its stages left. Must not import Prefect."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hubflow.data.columns import to_frame
from hubflow.data.encoding_monitor import with_encoding
from hubflow.data.monitor import read_data_report
from hubflow.data.page import data_view
from hubflow.evaluation.folder import read_details
from hubflow.reporting.history import training_charts
from hubflow.reporting.overview import evaluated_split, metric_lines, notices
from hubflow.reporting.previous import Since
from hubflow.reporting.splits import SplitView, split_view, with_explanations
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.references import EncodedRef, EvaluationRef, ExportRef, RowKind
from hubflow.schemas.settings import FineTuneSettings
from hubflow.store.manifest import SealedFolder
from hubflow.store.store import Store

VERIFICATION = "verification.json"
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
    checkpoint, first = evaluation.checkpoint, evaluated_split(evaluation.metrics)
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
        "export_path": home.display_path(export.path),
        "verification": _verification(exported),
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
    evaluated, data = home.open(evaluation).folder, home.open(encoded.dataset).folder
    explained = settings.report.explained_mistakes
    best = evaluation.checkpoint.best_metric
    views = [
        split_view(
            to_frame(pq.read_table(evaluated / f"{split}.parquet")),
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
    report = read_data_report(home, dataset.folder.name) or dataset.facts["data_report"]
    return {"rows": encoded.dataset.rows, **with_encoding(report, home, home.open(encoded).folder.name)}


def _verification(export: SealedFolder) -> dict[str, str]:
    """What the export measured of itself, as names and values; nothing where it did not."""
    return dict(_lines(json.loads(export.read(VERIFICATION)))) if VERIFICATION in export.files else {}


def _lines(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, found in values.items():
        if isinstance(found, Mapping):
            lines += _lines(found, f"{prefix}{name} · ")
        else:
            lines.append((f"{prefix}{name}".replace("_", " "), f"{found:.6g}" if isinstance(found, float) else str(found)))
    return lines
