"""Stage evaluate: judge the best weights on every split but train, exactly over all rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hubflow.schemas.frames import require_judged, require_metrics
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, RowKind
from hubflow.schemas.settings import EvaluateSettings
from hubflow.stages.build_head import open_session
from hubflow.stages.console import progress_bar
from hubflow.stages.data.carried import with_carried
from hubflow.stages.fine_tune import open_split
from hubflow.stages.store import Store, content_key
from hubflow.stages.tasks import stage_task

if TYPE_CHECKING:
    from hubflow.stages.hub.encoded import EncodedSplit
    from hubflow.stages.hub.evaluation import Evaluation

FORMAT_VERSION = 2


def evaluate(
    checkpoint: CheckpointRef,
    encoded: EncodedRef,
    settings: EvaluateSettings,
    store: str,
    device: str = "auto",
    reuse: bool = True,
) -> EvaluationRef:
    """Judge the best weights on every split but train, exactly over all rows.

    Beside the metrics (contract `Metrics`), each split's predictions are kept as `<split>.parquet` (`JudgedRows`, or
    `JudgedTokens` of sentences): row, position (in the data set's file, from 0), label, predicted, loss, and the further
    columns of the data. One of these that has a name of ours is called `source_<name>`.

    Raises:
        ContractError: when what was computed breaks its contract.
        LabelMapError: when checkpoint and rows were made from different label maps.
    """
    from hubflow.stages.hub.evaluation import evaluate_split

    home = Store(store)
    label_map = LabelMap.load(home.open(encoded).folder / "label_map.json")
    label_map.require_same(checkpoint.task.label_map_sha256, "the encoded rows", "the checkpoint")
    inputs = {"checkpoint": checkpoint.model_dump(), "encoded": encoded.model_dump()}
    key = content_key("evaluate", FORMAT_VERSION, inputs)
    artifact = home.find("evaluations", key) if reuse else None
    if artifact is None:
        session = open_session(checkpoint.task, home, device)
        session.load(home.open(checkpoint).folder)
        metrics: dict[str, dict[str, float]] = {}
        with home.create("evaluations", key) as draft:
            for split in [name for name in encoded.dataset.rows if name != "train"]:
                rows = open_split(home, encoded, split)
                with progress_bar(f"evaluating {split}", len(rows)) as bar:
                    evaluation = evaluate_split(session, rows, label_map, settings.batch_size, bar.advance)
                metrics[split] = evaluation.metrics
                data = home.open(encoded.dataset).folder / f"{split}.parquet"
                _keep(draft.folder / f"{split}.parquet", data, encoded.dataset.rows_kind, rows, evaluation, label_map)
            label_map.save(draft.folder / "label_map.json")
            draft.facts |= {**inputs, "metrics": require_metrics(metrics, "evaluate")}
        artifact = home.made("evaluations", key)
    return EvaluationRef(path=artifact.path, sha256=artifact.sha256, checkpoint=checkpoint, metrics=artifact.facts["metrics"])


def _keep(path: Path, data: Path, kind: RowKind, rows: "EncodedSplit", evaluation: "Evaluation", label_map: LabelMap) -> None:
    truth = _truth(rows)
    positions = getattr(rows, "positions", None)  # of images: those that do not decode are left out
    places = np.arange(len(rows)) if positions is None else positions
    frame = pd.DataFrame({"row": rows.rows, "position": places, "loss": evaluation.losses})
    frame["label"] = [_named(value, label_map) for value in truth]
    frame["predicted"] = [_named(value, label_map) for value in evaluation.predicted]
    numbers = pq.read_table(data, columns=["row"]).column("row").to_numpy()[places]
    require_judged(frame, label_map, numbers, f"evaluate, {path.stem}")
    pq.write_table(with_carried(frame, data, kind), path)


def _truth(rows: "EncodedSplit") -> list[Any]:
    from hubflow.stages.hub.encoded import TextSplit
    from hubflow.stages.hub.evaluation import labels_of

    if isinstance(rows, TextSplit) and rows.word_labels is not None:
        return [rows.word_labels[row] for row in range(len(rows))]
    labels: list[Any] = labels_of(rows).tolist()
    return labels


def _named(value: Any, label_map: LabelMap) -> Any:
    return label_map.labels[value] if isinstance(value, int) else [label_map.labels[label] for label in value]


def metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    """Metrics by split as a markdown table."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    lines = ["| split | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for split, values in metrics.items():
        lines.append(f"| {split} | " + " | ".join(f"{values[name]:.4f}" if name in values else "" for name in names) + " |")
    return "\n".join(lines)


def _describe(evaluation: EvaluationRef) -> str:
    name = evaluation.checkpoint.best_metric
    short = ", ".join(f"{split} {name} {values.get(name, float('nan')):.4f}" for split, values in evaluation.metrics.items())
    return f"{short or 'no split to evaluate on'}\n\n{metrics_table(evaluation.metrics)}"


evaluate_task = stage_task(evaluate, _describe)
