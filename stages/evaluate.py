"""Stage evaluate: judge the best weights on every split but train, exactly over all rows."""

from typing import Any

from pydantic import BaseModel

from hubflow.schemas.errors import SettingsError
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.frames import require_metrics
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, DatasetRef, EncodedRef, EvaluationRef, ExportEvaluationRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.schemas.text import markdown_text
from hubflow.stages.console import progress_bar
from hubflow.stages.judgement.details import identity_of
from hubflow.stages.judgement.folder import load_details, try_own_metrics
from hubflow.stages.judgement.own_metrics import own_metrics
from hubflow.stages.judgement.slices import require_columns
from hubflow.stages.store import Store, content_key
from hubflow.stages.tasks import stage_task
from hubflow.stages.watching import cancel_asked
from hubflow.stages.worker.processes import run

FORMAT_VERSION = 4
EVALUATE_REMEDY = "Give a smaller evaluate.batch_size, or a smaller module.max_seq_len"
EVALUATE = "hubflow.stages.evaluation_run:evaluate_in_worker"


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
    `JudgedTokens` of sentences): row, position (in the data set's file, from 0), label, predicted, loss, of a classification
    the probability of `predicted` and of every label, and the further columns of the data. One of these that has a name of
    ours is called `source_<name>`. `details.json` holds the `SplitDetails` of each split (`read_details`).

    Raises:
        ContractError: when what was computed breaks its contract.
        LabelMapError: when checkpoint and rows were made from different label maps.
        MetricError: when a metric of the user's own fails; SettingsError when it cannot be imported, or the data has no column
            that the settings slice by.
    """
    home = Store(store)
    label_map = LabelMap.load(home.open(encoded).folder / "label_map.json")
    label_map.require_same(checkpoint.task.label_map_sha256, "the encoded rows", "the checkpoint")
    own = own_metrics(settings.metrics)
    inputs = {"checkpoint": checkpoint.model_dump(), "encoded": encoded.model_dump(), **identity_of(settings, own)}
    key = content_key("evaluate", FORMAT_VERSION, inputs)
    artifact = home.find("evaluations", key) if reuse else None
    if artifact is None:
        require_evaluable(settings, encoded.dataset, store)
        for reference in (checkpoint, checkpoint.task, checkpoint.task.module, encoded.dataset, encoded.module):
            home.open(reference)  # from storage elsewhere it is fetched here
        asked: dict[str, BaseModel] = {"checkpoint": checkpoint, "encoded": encoded, "settings": settings}
        holds = [home.open(encoded.dataset).folder]
        with home.create("evaluations", key, holds) as draft, progress_bar("evaluating", 1) as bar:
            request: dict[str, Any] = {name: value.model_dump(mode="json") for name, value in asked.items()}
            request |= {"store": str(home.root), "folder": str(draft.folder), "device": device}
            metrics = run(
                EVALUATE, request, bar.answer, cancel_asked, device=device, work="evaluation", memory_remedy=EVALUATE_REMEDY
            )
            draft.facts |= {**inputs, "metrics": require_metrics(metrics, "evaluate")}
        artifact = home.made("evaluations", key)
    return EvaluationRef(path=artifact.path, sha256=artifact.sha256, checkpoint=checkpoint, metrics=artifact.facts["metrics"])


def require_evaluable(settings: EvaluateSettings, dataset: DatasetRef | None, store: str) -> None:
    """Refuse, before hours of training, what the evaluation after it would refuse.

    Metrics of the user's own are run on rows of each split that will be evaluated, with made-up predictions.

    Raises:
        SettingsError: when a metric of the user's own cannot be imported, or a split has no column that the settings slice by.
        MetricError: when such a metric fails.
    """
    own = own_metrics(settings.metrics)
    if dataset is not None and settings.stride is not None and dataset.rows_kind != "tokens":
        raise SettingsError(
            f"evaluate.stride is for sequence labelling, the data set has {dataset.rows_kind} rows; leave it out"
        )
    if dataset is None or not (own or settings.slices.columns):
        return
    folder = Store(store).open(dataset).folder
    label_map = LabelMap.load(folder / "label_map.json")
    for split in dataset.rows:
        require_columns(folder / f"{split}.parquet", settings.slices)
        if split != "train":
            try_own_metrics(own, folder / f"{split}.parquet", dataset.rows_kind, label_map, settings)


def read_details(home: Store, evaluation: EvaluationRef | ExportEvaluationRef) -> dict[str, SplitDetails]:
    """The details of each split of an evaluation.

    Raises:
        StoreError: when it is missing or altered, or was made before there were details.
    """
    return load_details(home.open(evaluation).folder)


def metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    """Metrics by split as a markdown table."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    lines = ["| split | " + " | ".join(map(markdown_text, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for split, values in metrics.items():
        lines.append(f"| {split} | " + " | ".join(f"{values[name]:.4f}" if name in values else "" for name in names) + " |")
    return "\n".join(lines)


def _describe(evaluation: EvaluationRef) -> str:
    name = evaluation.checkpoint.best_metric
    short = ", ".join(f"{split} {name} {values.get(name, float('nan')):.4f}" for split, values in evaluation.metrics.items())
    return f"{short or 'no split to evaluate on'}\n\n{metrics_table(evaluation.metrics)}"


evaluate_task = stage_task(evaluate, _describe)
