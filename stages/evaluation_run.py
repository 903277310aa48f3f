"""Evaluation as the stage `evaluate` asks for it, in a worker process."""

from pathlib import Path
from typing import Any

import numpy as np

from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.stages.hub.cores import compute_lanes
from hubflow.stages.hub.evaluation import evaluate_split
from hubflow.stages.judgement.details import judge_options
from hubflow.stages.judgement.folder import keep_split, write_details
from hubflow.stages.judgement.judged import JudgedSplit
from hubflow.stages.judgement.own_metrics import own_metrics
from hubflow.stages.open_artifacts import open_session, open_split
from hubflow.stages.store import Store
from hubflow.stages.worker.connection import Connection


def evaluate_in_worker(request: dict[str, Any], connection: Connection) -> dict[str, dict[str, float]]:
    """Write the folder of an evaluation, all but its manifest.

    Args:
        request: `checkpoint`, `encoded`, `settings` and `device` as the stage has them, `store` (a folder here), and
            `folder` to write.
        connection: to the stage, which shows how far it is.

    Returns:
        Metrics by split.

    Raises:
        HubflowError: as the stage does.
    """
    checkpoint, encoded = (
        CheckpointRef.model_validate(request["checkpoint"]),
        EncodedRef.model_validate(request["encoded"]),
    )
    settings, folder, store = (
        EvaluateSettings.model_validate(request["settings"]),
        Path(request["folder"]),
        Store(request["store"]),
    )
    label_map, own = LabelMap.load(store.open(encoded).folder / "label_map.json"), own_metrics(settings.metrics)
    session = open_session(checkpoint.task, store, request["device"], lanes=compute_lanes())
    session.load(store.open(checkpoint).folder)
    source, options = store.open(encoded.dataset).folder, judge_options(settings)
    metrics: dict[str, dict[str, float]] = {}
    details: dict[str, SplitDetails] = {}
    for split in [name for name in encoded.dataset.rows if name != "train"]:
        rows = open_split(store, encoded, split)
        connection.call("begin", title=f"evaluating {split}", total=len(rows))
        found = evaluate_split(
            session, rows, label_map, settings.batch_size, lambda count: connection.call("advance", units=count), options
        )
        places = getattr(rows, "positions", None)  # of images: those that do not decode are left out
        places = np.arange(len(rows)) if places is None else places
        data, kind = source / f"{split}.parquet", encoded.dataset.rows_kind
        judged = JudgedSplit(found.judge, label_map, data, kind, places, rows.rows)
        details[split], given = keep_split(folder, judged, settings, own)
        metrics[split] = {**found.metrics, **given}
    write_details(folder, details)
    label_map.save(folder / "label_map.json")
    return metrics
