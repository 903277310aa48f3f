"""Stage evaluate_export: evaluate an exported folder alone, by its own preprocessing, on one split of a data set."""

from hubflow.evaluation.exported import evaluate_exported
from hubflow.orchestration.tasks import stage
from hubflow.schemas.references import DatasetRef, ExportEvaluationRef, ExportRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.text import metrics_table


def _describe(evaluation: ExportEvaluationRef) -> str:
    values = evaluation.metrics
    short = ", ".join(f"{name} {values[name]:.4f}" for name in ("accuracy", "f1") if name in values)
    return f"{evaluation.export.path} on {evaluation.split}: {short}\n\n{metrics_table({evaluation.split: values})}"


@stage(_describe)
def evaluate_export(
    export: ExportRef,
    dataset: DatasetRef,
    settings: EvaluateSettings,
    store: str,
    split: str = "test",
    reuse: bool = True,
) -> ExportEvaluationRef:
    """Evaluate an exported folder alone, by its own preprocessing, on one split of a data set, exactly over all its rows.

    Nothing but the export is used, so that an export of an earlier run, whose checkpoint is gone, can be compared with that of
    today on the same rows. The folder is laid out as `evaluate`'s (`EvaluatedRows` or `EvaluatedTokens`, `Metrics`,
    `SplitDetails`). With the same weights the metrics are the same, up to the rounding of float32 probabilities. Labels are
    matched by name: the two label maps need not be the same, but each label of the data must be in the export's. Images that do
    not decode are left out, as they are where rows are encoded; `details.json` says how many.

    Args:
        export: the export to evaluate.
        dataset: the rows to evaluate on.
        settings: batch size, slices, confidence intervals and your own metrics.
        store: folder, or URL, of the store.
        split: split of the data set.
        reuse: take what the store already holds for the same content and settings.

    Returns:
        Reference to the evaluation, with the value of each metric.

    Raises:
        ContractError: when what was computed breaks its contract.
        LabelMapError: when the data has labels that the export does not know.
        MetricError: when a metric of the user's own fails.
        SettingsError: when there is no such split, the rows are of another kind than the export was trained on, or the settings
            name a metric or a column that is not there.
        StoreError: when the export or the data set is missing or altered.
    """
    return evaluate_exported(export, dataset, settings, store, split, reuse)
