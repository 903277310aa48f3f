"""Stage evaluate: evaluate the best weights on every split but train, exactly over all rows."""

from typing import Any

from pydantic import BaseModel

from hubflow.console import progress_bar
from hubflow.evaluation.custom_metrics import custom_metrics
from hubflow.evaluation.details import identity_of
from hubflow.evaluation.folder import require_evaluable
from hubflow.orchestration.progress import cancel_asked
from hubflow.orchestration.tasks import stage
from hubflow.schemas.frames import require_metrics
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.store.store import Store, content_key
from hubflow.text import metrics_table
from hubflow.workers.processes import run

FORMAT_VERSION = 4
EVALUATE_REMEDY = "Give a smaller evaluate.batch_size, or a smaller module.max_seq_len"
EVALUATE = "hubflow.jobs:evaluate_in_worker"


def _describe(evaluation: EvaluationRef) -> str:
    name = evaluation.checkpoint.best_metric
    short = ", ".join(f"{split} {name} {values.get(name, float('nan')):.4f}" for split, values in evaluation.metrics.items())
    return f"{short or 'no split to evaluate on'}\n\n{metrics_table(evaluation.metrics)}"


@stage(_describe)
def evaluate(
    checkpoint: CheckpointRef,
    encoded: EncodedRef,
    settings: EvaluateSettings,
    store: str,
    device: str = "auto",
    reuse: bool = True,
) -> EvaluationRef:
    """Evaluate the best weights on every split but train, exactly over all rows.

    Beside the metrics (contract `Metrics`), each split's predictions are kept as `<split>.parquet` (`EvaluatedRows`, or
    `EvaluatedTokens` of sentences): row, position (in the data set's file, from 0), label, predicted, loss, of a classification
    the probability of `predicted` and of every label, and the further columns of the data. A further column with the name of
    one of these is called `source_<name>`. `details.json` holds the `SplitDetails` of each split (`read_details`).

    Args:
        checkpoint: the weights to evaluate.
        encoded: the rows to evaluate on.
        settings: batch size, slices, confidence intervals and your own metrics.
        store: folder, or URL, of the store.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        reuse: take what the store already holds for the same content and settings.

    Returns:
        Reference to the evaluation, with the value of each metric by split.

    Raises:
        ContractError: when what was computed breaks its contract.
        LabelMapError: when checkpoint and rows were made from different label maps.
        MetricError: when a metric of the user's own fails.
        SettingsError: when such a metric cannot be imported, or the data has no column that the settings slice by.
        OutOfMemoryError: when memory runs out.
    """
    opened = Store(store)
    label_map = LabelMap.load(opened.open(encoded).folder / "label_map.json")
    label_map.require_same(checkpoint.task.label_map_sha256, "the encoded rows", "the checkpoint")
    own = custom_metrics(settings.metrics)
    inputs = {"checkpoint": checkpoint.model_dump(), "encoded": encoded.model_dump(), **identity_of(settings, own)}
    key = content_key("evaluate", FORMAT_VERSION, inputs)
    artifact = opened.find("evaluations", key) if reuse else None
    if artifact is None:
        require_evaluable(settings, encoded.dataset, store)
        for reference in (checkpoint, checkpoint.task, checkpoint.task.module, encoded.dataset, encoded.module):
            opened.open(reference)  # from storage elsewhere it is fetched here
        asked: dict[str, BaseModel] = {"checkpoint": checkpoint, "encoded": encoded, "settings": settings}
        holds = [opened.open(encoded.dataset).folder]
        with opened.create("evaluations", key, holds) as draft, progress_bar("evaluating", 1) as bar:
            request: dict[str, Any] = {name: value.model_dump(mode="json") for name, value in asked.items()}
            request |= {"store": str(opened.root), "folder": str(draft.folder), "device": device}
            metrics = run(
                EVALUATE, request, bar.answer, cancel_asked, device=device, work="evaluation", memory_remedy=EVALUATE_REMEDY
            )
            draft.facts |= {**inputs, "metrics": require_metrics(metrics, "evaluate", checkpoint.task.task)}
        artifact = opened.load("evaluations", key)
    return EvaluationRef(path=artifact.path, sha256=artifact.sha256, checkpoint=checkpoint, metrics=artifact.facts["metrics"])
