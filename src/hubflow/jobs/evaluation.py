"""Evaluation as the stage `evaluate` asks for it, in a worker process."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hubflow.evaluation.custom_metrics import custom_metrics
from hubflow.evaluation.details import metric_options
from hubflow.evaluation.evaluated_split import EvaluatedSplit
from hubflow.evaluation.folder import keep_split, write_details
from hubflow.modules.tokenizer import WordWindows, encode_word_windows, load_tokenizer
from hubflow.programs.artifacts import open_session, open_split
from hubflow.runtime.cores import compute_sub_batches
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.store.store import Store
from hubflow.training.evaluation import evaluate_split
from hubflow.workers.connection import Connection


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
    label_map, own = LabelMap.load(store.open(encoded).folder / "label_map.json"), custom_metrics(settings.metrics)
    session = open_session(checkpoint.task, store, request["device"], sub_batches=compute_sub_batches())
    session.load(store.open(checkpoint).folder)
    source, options = store.open(encoded.dataset).folder, metric_options(settings)
    metrics: dict[str, dict[str, float]] = {}
    details: dict[str, SplitDetails] = {}
    for split in [name for name in encoded.dataset.rows if name != "train"]:
        rows = open_split(store, encoded, split)
        connection.call("begin", title=f"evaluating {split}", total=len(rows))
        windows = _windows(store, encoded, split, settings.stride)

        def advance(count: int) -> None:
            connection.call("advance", units=count)

        found = evaluate_split(session, rows, label_map, settings.batch_size, advance, options, windows)
        places = getattr(rows, "positions", None)  # of images: those that do not decode are left out
        places = np.arange(len(rows)) if places is None else places
        data, kind = source / f"{split}.parquet", encoded.dataset.rows_kind
        evaluated = EvaluatedSplit(found.judge, label_map, data, kind, places, rows.rows)
        details[split], given = keep_split(folder, evaluated, settings, own)
        metrics[split] = {**found.metrics, **given}
    write_details(folder, details)
    label_map.save(folder / "label_map.json")
    return metrics


def _windows(store: Store, encoded: EncodedRef, split: str, stride: int | None) -> WordWindows | None:
    """The sentences of a split in windows, where the settings have a stride."""
    if stride is None:
        return None
    assert encoded.max_seq_len is not None
    sentences = pq.read_table(store.open(encoded.dataset).folder / f"{split}.parquet", columns=["tokens"]).column("tokens")
    tokenizer = load_tokenizer(store.open(encoded.module).folder)
    return encode_word_windows(tokenizer, sentences.to_pylist(), encoded.max_seq_len, stride)
