"""Flow predict: label files of rows, or folders of images, with an exported folder."""

from typing import Any

from prefect.task_runners import ThreadPoolTaskRunner

from hubflow import stages
from hubflow.inference.batch.prediction import AT_ONCE
from hubflow.orchestration.mapping import OverRunner
from hubflow.orchestration.parameters import settings_flow
from hubflow.orchestration.run_context import require_lasting, run_name, tag_run, use_block
from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.schemas.urls import paths_of
from hubflow.store.store import split_address

THREADS: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE)


@settings_flow("predict", task_runner=THREADS)
def predict(settings: PredictSettings) -> PredictResult:
    """Label files of rows, or folders of images, with an exported folder; the shards are mapped over the flow's task runner.

    Args:
        settings: the export, the data, and where the predictions go.

    Returns:
        Absolute path of the predictions file, the number of rows, what was quarantined, and metrics where the data has labels.

    Raises:
        DataError: when the data cannot be read.
        ContractError: when too many rows are quarantined, or all.
        SettingsError: when the format does not fit the export's task, or the output's ending is not known.
        SignatureError: when `trust.keys` is set, and none of them has signed the export.
        StoreError: when the export is incomplete or altered, or the output cannot be written.
    """
    require_lasting(paths_of(settings))
    tag_run(run_name() or "predict")
    if settings.store_block is not None:
        use_block(split_address(settings.export)[0], settings.store_block)
    return stages.predict(settings, OverRunner(settings.runner))
